"""Examining many images: what a kill costs, and that what was found is what there is."""

import csv
import json

import pytest
from PIL import Image

from gcl.data import images as module
from gcl.data.images import examine, examined
from gcl.data.records import read_parquet
from gcl.prepare import prepare as stage
from gcl.prepare.prepare import prepare_pairs


@pytest.fixture
def locations(tmp_path):
    """Seven images, of which one is broken and one is turned."""
    (tmp_path / "things").mkdir()
    paths = [tmp_path / f"things/{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        turned = Image.Exif()
        turned[0x0112] = 6 if number == 2 else 1
        Image.new("RGB", (9, 5), (number, 0, 0)).save(path, exif=turned)
        path.with_suffix(".txt").write_text(f"thing {number}")
    paths[4].write_bytes(b"no image")
    return [str(path) for path in paths]


@pytest.fixture
def asked(monkeypatch):
    """What is examined, in order; two at a time are kept."""
    whole, names = module.examine, []
    monkeypatch.setattr(module, "examine", lambda location: names.append(location) or whole(location))
    monkeypatch.setattr(module, "EXAMINED", 2)
    return names


def test_what_was_examined_before_a_kill_is_not_examined_again(locations, asked, tmp_path):
    expected = [examine(location) for location in locations]
    assert [bool(image.fault) for image in expected] == [number == 4 for number in range(7)]
    assert [image.is_turned for image in expected] == [number == 2 for number in range(7)]
    images = examined(locations, 1, tmp_path / "work")
    assert [next(images) for _ in range(3)] == expected[:3]
    images.close()
    with (tmp_path / "work/examined.jsonl").open("a") as file:
        file.write(json.dumps(expected[4])[:9])  # cut in the middle
    assert asked == locations[:4]
    assert list(examined(locations, 3, tmp_path / "work")) == expected
    assert sorted(asked[4:]) == locations[4:]
    assert list(examined(locations, 1, tmp_path / "work")) == expected
    assert len(asked) == 7


def test_what_was_found_of_other_images_is_not_taken(locations, asked, tmp_path):
    list(examined(locations[1:], 1, tmp_path / "work"))
    assert list(examined(locations, 1, tmp_path / "work")) == [examine(location) for location in locations]
    assert asked == [*locations[1:], *locations]


def test_preparing_pairs_goes_on_and_looks_at_an_image_once(locations, asked, tmp_path, monkeypatch):
    with (tmp_path / "things/pairs.csv").open("w", newline="") as file:
        rows = [(f"{number}.png", f"thing {number}, {way}") for way in "ab" for number in range(7)]
        csv.writer(file).writerows([("image", "caption"), *rows])
    with monkeypatch.context() as patch:
        patch.setattr(stage, "write_pairs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_pairs(tmp_path / "things", "table", 1.0, None, tmp_path / "out")
    assert len(asked) == 7
    prepare_pairs(tmp_path / "things", "table", 1.0, None, tmp_path / "out", workers=2)
    assert len(asked) == 7
    assert not [*tmp_path.glob(".*")]
    assert len(read_parquet(tmp_path / "out/images.parquet")) == 6
    with (tmp_path / "out/rejects.csv").open(newline="") as file:
        assert len([*csv.DictReader(file)]) == 2
