import numpy as np
import pytest

from gcl.common.arrays import MODALITIES, fuse, unit
from gcl.retrieve import calibration
from support.arrays import unit_rows


def test_mismatched_scales_are_those_of_the_whole_matrices(rng):
    matched = {modality: unit_rows(rng, 9, 5) for modality in MODALITIES}
    found = calibration.mismatched_scales(matched)
    assert len(found) == 9
    for q, query in matched.items():
        for c, candidate in matched.items():
            scores = (query.astype(np.float64) @ candidate.T.astype(np.float64))[~np.eye(9, dtype=bool)]
            assert found[f"{q}>{c}"].mean == pytest.approx(scores.mean(), abs=1e-12)
            assert found[f"{q}>{c}"].deviation == pytest.approx(scores.std(), abs=1e-12)


def test_center_removes_the_gap_between_the_modalities(rng):
    image, text = rng.normal(size=(200, 8)) + 3, rng.normal(size=(200, 8)) - 3
    stats = calibration.fit(image.astype(np.float32), text.astype(np.float32), "sum_raw")
    before = np.linalg.norm(unit(image).mean(0) - unit(text).mean(0))
    i = calibration.vectors(image, None, "center", "sum_raw", stats)
    t = calibration.vectors(None, text, "center", "sum_raw", stats)
    assert before > 1.5
    assert np.linalg.norm(i.mean(0) - t.mean(0)) < 0.2


def test_zscore_makes_mismatched_training_scores_standard(rng):
    image, text = unit_rows(rng, 300, 8) + 0.3, unit_rows(rng, 300, 8)
    stats = calibration.fit(image, text, "sum_raw")
    factors, offsets = calibration.affine("zscore", "image", ["text", "image"], stats)
    for candidates, factor, offset in zip((text, image), factors, offsets, strict=True):
        scores = (unit(image) @ unit(candidates).T * factor + offset)[~np.eye(300, dtype=bool)]
        assert scores.mean() == pytest.approx(0, abs=1e-3)
        assert scores.std() == pytest.approx(1, abs=1e-3)


def test_none_changes_nothing(rng):
    image, text = unit_rows(rng, 3, 4), unit_rows(rng, 3, 4)
    assert (calibration.vectors(image, text, "none", "sum_raw", None) == fuse(image, text, "sum_raw")).all()
    factors, offsets = calibration.affine("none", "image", ["text"], None)
    assert (factors, offsets) == (1, 0)


def test_statistics_survive_json(rng, tmp_path):
    stats = calibration.fit(unit_rows(rng, 5, 3), unit_rows(rng, 5, 3), "sum_raw")
    calibration.write_calibration(tmp_path / "c.json", stats)
    assert calibration.read_calibration(tmp_path / "c.json") == stats


def test_sum_raw_weighs_by_length_and_sum_unit_does_not():
    image, text = np.array([[3.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    np.testing.assert_allclose(fuse(image, text, "sum_raw"), [[3 / 10**0.5, 1 / 10**0.5]], rtol=1e-6)
    np.testing.assert_allclose(fuse(image, text, "sum_unit"), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_vectors_without_direction_are_refused(bad):
    with pytest.raises(ValueError, match="NaN or infinity|all zeros"):
        unit(np.array([[bad, 0.0]], np.float32))


def test_gr_clip_takes_the_mean_of_the_means_off_an_item_of_both(rng):
    image, text = rng.normal(size=(50, 8)).astype(np.float32) + 1, rng.normal(size=(50, 8)).astype(np.float32) - 1
    stats = calibration.fit(image, text, "sum_raw")
    (found,) = calibration.vectors(image[:1], text[:1], "gr_clip", "sum_raw", stats)
    i, t = unit(image[:1]), unit(text[:1])
    expected = (i + t) / 2 - (unit(image).mean(0) + unit(text).mean(0)) / 2
    np.testing.assert_allclose(found, unit(expected.astype(np.float32))[0], atol=1e-6)
    alone = calibration.vectors(image, None, "gr_clip", "sum_raw", stats)
    np.testing.assert_array_equal(alone, calibration.vectors(image, None, "center", "sum_raw", stats))
