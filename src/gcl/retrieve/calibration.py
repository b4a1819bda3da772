"""Training-free calibration of retrieval scores, with statistics of training pairs only.

center     subtracts each modality's mean from the unit tower outputs, renormalises, then fuses
gr_clip    the same, but an item of both is the mean of its unit outputs minus the mean of the means, then made unit
           (GR-CLIP, arXiv 2507.19054, with alpha 0.5)
zscore     standardises a score by the mean and deviation it has over mismatched training pairs of the
           same query and candidate modality

and the biases of gcl.retrieve.biases.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import Floats, fuse, unit
from gcl.common.errors import UserError
from gcl.common.files import write_json
from gcl.common.rows import made_by
from gcl.retrieve.biases import BIASES, FACTOR
from gcl.retrieve.exact import maxsim

MEASURED = 1024  # pairs whose maxsim is taken for statistics
MODES = ("none", "center", "gr_clip", "zscore", "center_zscore", *BIASES)


class Scale(NamedTuple):
    """Mean and deviation of the scores of mismatched pairs."""

    mean: float
    deviation: float


class Calibration(NamedTuple):
    """All statistics of one model; `scales` is by mode of the vectors, then "query>candidate"."""

    image_mean: list[float]  # (D,) of unit vectors
    text_mean: list[float]
    fused_mean: list[float] | None  # where fusion is native
    scales: dict[str, dict[str, Scale]]


def vectors_of(mode: str) -> str:
    """Return the mode that compares the same vectors without a z-score; a mode that has its own is that itself."""
    return {"zscore": "none", "center_zscore": "center"}.get(mode, mode)


def centered(outputs: Floats, mean: list[float], late: int = 1) -> Floats:
    """Remove the modality's mean from unit vectors, (n, D) -> (n, D) of length 1."""
    return unit(unit(outputs, late) - np.asarray(mean, np.float32), late)


def vectors(
    image: Floats | None,
    text: Floats | None,
    mode: str,
    fusion: str,
    stats: Calibration | None,
    fused: Floats | None = None,
    late: int = 1,
) -> Floats:
    """Return the unit vectors that `mode` compares, from (n, D) outputs; `fused` takes the place of both."""
    if "center" not in mode and mode != "gr_clip":
        return unit(fused, late) if fused is not None else fuse(image, text, fusion, late)
    if stats is None:
        raise UserError(f"calibration '{mode}' needs statistics of training pairs, and the model has none")
    if fused is not None:
        return centered(fused, stats.fused_mean or [], late)
    if mode == "gr_clip" and image is not None and text is not None:
        means = np.asarray(stats.image_mean, np.float32) + np.asarray(stats.text_mean, np.float32)
        return unit(unit(image) + unit(text) - means)  # twice the published vector, before it is made unit
    image = None if image is None else centered(image, stats.image_mean, late)
    text = None if text is None else centered(text, stats.text_mean, late)
    return fuse(image, text, "sum_raw", late)


def mismatched_scales(matched: Mapping[str, Floats]) -> dict[str, Scale]:
    """Mean and deviation of q_j . c_k over all j != k, by "query's>candidate's" modality, without N x N matrices.

    The sum over all pairs of q_j . c_k is (sum q) . (sum c), that of its square is <Q'Q, C'C>, both in float64; the
    matched pairs are taken off.

    Args:
        matched: (N, D) unit vectors by modality, row j of each from the same pair.
    """
    exact = {m: x.astype(np.float64) for m, x in matched.items()}
    sums, squares = {m: x.sum(0) for m, x in exact.items()}, {m: x.T @ x for m, x in exact.items()}
    scales: dict[str, Scale] = {}
    for query, candidate in itertools.combinations_with_replacement(exact, 2):
        own = (exact[query] * exact[candidate]).sum(1)
        n = len(own) * (len(own) - 1)
        mean = (sums[query] @ sums[candidate] - own.sum()) / n
        square = ((squares[query] * squares[candidate]).sum() - (own**2).sum()) / n
        scale = Scale(float(mean), float(np.sqrt(square - mean**2)))
        scales |= {f"{query}>{candidate}": scale, f"{candidate}>{query}": scale}
    return scales


def maxsim_scales(matched: Mapping[str, Floats], late: int) -> dict[str, Scale]:
    """Mean and deviation of the maxsim of q_j and c_k over j != k, of at most MEASURED pairs, evenly spaced.

    Args:
        matched: (N, late * D) by modality, row j of each from the same pair.
        late: vectors of an item.
    """
    count = len(next(iter(matched.values())))
    rows = np.linspace(0, count - 1, min(count, MEASURED)).round().astype(np.int64)
    some = {m: x[rows].astype(np.float64) for m, x in matched.items()}
    others = ~np.eye(len(rows), dtype=bool)
    scores_by_pair = {(q, c): maxsim(some[q], some[c], late)[others] for q in some for c in some}
    return {f"{q}>{c}": Scale(float(x.mean()), float(x.std())) for (q, c), x in scores_by_pair.items()}


def fit(image: Floats, text: Floats, fusion: str, fused: Floats | None = None, late: int = 1) -> Calibration:
    """Fit all statistics on the (N, D) raw outputs of N >= 3 matched training pairs; `late` vectors an item."""
    if len(image) != len(text) or len(image) < 3:
        raise UserError(f"calibration needs 3 or more matched pairs, got {len(image)} images and {len(text)} texts")
    means = [None if part is None else unit(part, late).mean(0).tolist() for part in (image, text, fused)]
    stats = Calibration(means[0] or [], means[1] or [], means[2], {})
    for mode in ("none", "center"):
        by_modality = {
            "image": vectors(image, None, mode, fusion, stats, late=late),
            "text": vectors(None, text, mode, fusion, stats, late=late),
            "image_text": vectors(image, text, mode, fusion, stats, fused, late),
        }
        stats.scales[mode] = mismatched_scales(by_modality) if late == 1 else maxsim_scales(by_modality, late)
    return stats


def affine(
    mode: str, query: str, candidates: Sequence[str], stats: Calibration | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (C,) factors and (C,) offsets of the scores of candidates of the given modalities.

    Within a task the query's modality is fixed, so a z-score is one affine map per candidate modality.
    """
    if "zscore" not in mode:
        return np.full(len(candidates), FACTOR if mode in BIASES else 1.0), np.zeros(len(candidates))
    if stats is None:
        raise UserError(f"calibration '{mode}' needs statistics of training pairs, and the model has none")
    scales = stats.scales["center" if "center" in mode else "none"]
    pair_scales = [scales[f"{query}>{c}"] for c in candidates]
    factors = np.array([1 / s.deviation for s in pair_scales])
    offsets = np.array([-s.mean / s.deviation for s in pair_scales])
    return factors, offsets


def write_calibration(path: Path, stats: Calibration) -> None:
    """Write the statistics as JSON."""
    write_json(path, stats._asdict())


def read_calibration(path: Path) -> Calibration:
    """Read what `calibrate` wrote.

    Raises:
        UserError: there is no such file, or it is broken.
    """
    with made_by("calibrate", path):
        value = json.loads(path.read_text(encoding="utf-8"))
        scales = {mode: {k: Scale(*v) for k, v in rows.items()} for mode, rows in value["scales"].items()}
        return Calibration(value["image_mean"], value["text_mean"], value["fused_mean"], scales)
