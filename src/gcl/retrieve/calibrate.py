"""Fit the statistics of calibration on the training pairs' vectors, one file per seed.

In:  what `infer` made of the prepared pairs with a model or its seeds, the pairs, the model.
Out: a folder with seed0.json, ... or, for a single model, the one file calibration.json: means of the modalities,
     and mean and deviation of mismatched pairs' scores; with --bank, seed0.npz or calibration.npz beside it, the
     vectors of some pairs, which biases of candidates need. `retrieve --calibration` reads both.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl.common.arrays import Floats
from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.records import fused_keys, read_pairs, to_codes
from gcl.infer.model_folder import read_export
from gcl.infer.store import Outputs, read_outputs
from gcl.retrieve.biases import Bank, bank_path, write_bank
from gcl.retrieve.calibration import fit, vectors, write_calibration


class Matched(NamedTuple):
    """Outputs of the training pairs, row by row; each pair's image and full caption."""

    image: Floats  # (N, D)
    text: Floats
    fused: Floats | None

    def bank(self, size: int, fusion: str) -> Bank:
        """Return the unit vectors of at most `size` pairs, evenly spaced, by modality."""
        count = len(self.image)
        rows = np.linspace(0, count - 1, min(size, count)).round().astype(np.int64)
        both = None if self.fused is None else self.fused[rows]
        image, text = self.image[rows], self.text[rows]
        return {
            "image": vectors(image, None, "none", fusion, None),
            "text": vectors(None, text, "none", fusion, None),
            "image_text": vectors(image, text, "none", fusion, None, both),
        }


def matched_pairs(outputs: Outputs, pairs: Path) -> Matched:
    """Take each pair's rows.

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
    return Matched(outputs.image[prepared.image_rows], outputs.text[full], fused)


def calibrate(embeddings: Path, prepared: Path, onnx: Path, output: Path, bank: int = 0) -> None:
    """Fit each seed of the model.

    Raises:
        UserError: no vectors, those of other pairs, or a bank below 0.
    """
    if bank < 0:
        raise UserError(f"--bank {bank}: expected 0 for none, or how many training pairs to keep")
    seeds = [folder.name for folder in sorted(embeddings.glob("seed*"))]
    if not seeds and not (embeddings / "image.npy").exists():
        raise UserError(f"{embeddings} holds neither image.npy nor folders of seeds; run `infer` on the pairs")
    models = {name: (embeddings / name, onnx / name) for name in seeds} or {"calibration": (embeddings, onnx)}
    with atomic_path(output) as folder:
        folder.mkdir()
        for name, (outputs, model) in models.items():
            matched, about = matched_pairs(read_outputs([outputs]), prepared), read_export(model)
            fusion, late = about["fusion"], about.get("late", 1)
            path = folder / f"{name}.json"
            write_calibration(path, fit(matched.image, matched.text, fusion, matched.fused, late))
            if bank:
                write_bank(bank_path(path), matched.bank(bank, fusion))


def main() -> None:
    """Run from the command line."""
    arguments = parser(
        "calibrate",
        __doc__,
        "--embeddings pair_vectors --prepared results/prepared/openclipart --onnx results/onnx/clip_lite/cl_t05"
        " --output results/calibrations/clip_lite/cl_t05",
    )
    arguments.add_argument("--embeddings", required=True, type=Path, help="what `infer` made of the pairs")
    arguments.add_argument("--prepared", required=True, type=Path, help="the prepared pairs")
    arguments.add_argument("--onnx", required=True, type=Path, help="the model or its seeds, for its fusion")
    arguments.add_argument(
        "--bank", type=int, default=0, help="training pairs whose vectors are kept for biases of candidates (0: none)"
    )
    arguments.add_argument("--output", required=True, type=Path, help="folder to write")
    run(arguments, calibrate)


if __name__ == "__main__":
    main()
