"""Fit the statistics of calibration on the training pairs' vectors, one file per seed.

In:  what `infer` made of the prepared pairs with a model or its seeds, the pairs, the model.
Out: a folder with seed0.json, ... or, for a single model, the one file calibration.json: means of the modalities,
     and mean and deviation of mismatched pairs' scores. `retrieve --calibration` reads it.
"""

from pathlib import Path

import numpy as np

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.records import fused_keys, read_pairs, to_codes
from gcl.infer.model_folder import read_export
from gcl.infer.store import Outputs, read_outputs
from gcl.retrieve.calibration import Calibration, fit, write_calibration


def fit_pairs(outputs: Outputs, pairs: Path, fusion: str) -> Calibration:
    """Fit on each pair's image and full caption.

    Raises:
        UserError: the vectors are not those of these pairs.
    """
    prepared = read_pairs(pairs)
    full = np.array([rows[0] for rows in prepared.text_rows])
    needed = {"image": int(prepared.image_rows.max()) + 1, "text": max(map(max, prepared.text_rows)) + 1}
    for name, rows in needed.items():
        if len(array := getattr(outputs, name)) != rows:
            raise UserError(f"{len(array)} {name} vectors, but {pairs} has {rows}; run `infer` on these pairs again")
    fused = None
    if outputs.fused is not None:
        codes = to_codes(*fused_keys(pairs).T)
        fused = outputs.fused[np.searchsorted(codes, to_codes(prepared.image_rows, full))]
    return fit(outputs.image[prepared.image_rows], outputs.text[full], fusion, fused)


def calibrate(embeddings: Path, prepared: Path, onnx: Path, output: Path) -> None:
    """Fit each seed of the model.

    Raises:
        UserError: no vectors, or those of other pairs.
    """
    seeds = [folder.name for folder in sorted(embeddings.glob("seed*"))]
    if not seeds and not (embeddings / "image.npy").exists():
        raise UserError(f"{embeddings} holds neither image.npy nor folders of seeds; run `infer` on the pairs")
    with atomic_path(output) as folder:
        folder.mkdir()
        for seed in seeds:
            stats = fit_pairs(read_outputs([embeddings / seed]), prepared, read_export(onnx / seed)["fusion"])
            write_calibration(folder / f"{seed}.json", stats)
        if not seeds:
            stats = fit_pairs(read_outputs([embeddings]), prepared, read_export(onnx)["fusion"])
            write_calibration(folder / "calibration.json", stats)


def main() -> None:
    """Run from the command line."""
    arguments = parser(
        "calibrate",
        __doc__,
        "--embeddings pair_vectors --prepared results/prepared/openclipart --onnx results/onnx/clip_lite/gcl"
        " --output results/calibrations/clip_lite/gcl",
    )
    arguments.add_argument("--embeddings", required=True, type=Path, help="what `infer` made of the pairs")
    arguments.add_argument("--prepared", required=True, type=Path, help="the prepared pairs")
    arguments.add_argument("--onnx", required=True, type=Path, help="the model or its seeds, for its fusion")
    arguments.add_argument("--output", required=True, type=Path, help="folder to write")
    run(arguments, calibrate)


if __name__ == "__main__":
    main()
