"""A model with its calibration: what an index stores of items, and what asks it.

With statistics of training pairs (calibration.json beside the model) the modality's mean is taken off every vector
(center), and a score is told as a z-score: how many deviations it lies above what unrelated items of these modalities
have. So one cut-off means the same for every pair of modalities. Without them a score is a cosine.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcl.common.arrays import MODALITIES, Floats, unit
from gcl.common.errors import UserError
from gcl.data.own import fingerprint
from gcl.infer.model import Model, Picture, RawOutputs
from gcl.retrieve.calibration import Calibration, affine, read_calibration, vectors
from gcl.retrieve.exact import Query

CALIBRATED = "center_zscore"


class Term(NamedTuple):
    """A part of a query: a text or a picture, and how much it counts; below 0 it is taken away."""

    weight: float
    text: str | None = None
    image: Picture | None = None


class Embedder:
    """A model folder, its graphs opened once.

    Attributes:
        mode: center_zscore, or none where the model has no calibration.
    """

    def __init__(self, folder: Path, device: str = "auto", graphs: Collection[str] = MODALITIES) -> None:
        """Open a model.

        Raises:
            UserError: as gcl.load, or a broken calibration.json.
        """
        self.model = Model(folder, device, graphs=graphs)
        path = folder / "calibration.json"
        self.stats: Calibration | None = read_calibration(path) if path.exists() else None
        self.mode = "none" if self.stats is None else CALIBRATED

    def of_outputs(self, raw: RawOutputs) -> Floats:
        """Return the (n, D) unit vectors of items from their raw outputs."""
        units = np.empty((len(raw.image), self.model.width), np.float32)
        fusion, is_native = self.model.fusion, self.model.encoder.fused is not None
        for modality, rows in zip(MODALITIES, raw.by_modality(), strict=True):
            if len(rows):
                fused = raw.fused[rows] if modality == "image_text" and is_native else None
                image = raw.image[rows] if modality != "text" and fused is None else None
                text = raw.text[rows] if modality != "image" and fused is None else None
                units[rows] = vectors(image, text, self.mode, fusion, self.stats, fused, self.model.late)
        return units

    def embed(self, images: Sequence[Picture | None], texts: Sequence[str | None]) -> Floats:
        """Return the (n, D) unit vectors of items; arguments and errors as of gcl.Model.encode."""
        return self.of_outputs(self.model.outputs(images, texts))

    def query(self, terms: Sequence[Term]) -> Query:
        """Return one query of some terms.

        One text with one picture, both counting alike, is an item of both, as the model was trained on; otherwise the
        vectors of the terms are added by their weights.

        Raises:
            UserError: no term, or terms that add up to nothing.
        """
        if not terms or all(term.weight <= 0 for term in terms):
            raise UserError("the query is empty: give a text, an image, or both, with a weight above 0")
        has_image = any(term.image is not None for term in terms)
        modality = ("image_text" if any(term.text is not None for term in terms) else "image") if has_image else "text"
        if modality == "image_text" and len(terms) == 2 and len({term.weight for term in terms}) == 1:
            (text,), (image,) = ([x for x in xs if x is not None] for xs in zip(*(t[1:] for t in terms), strict=True))
            vector = self.embed([image], [text])
        else:
            parts = self.embed([term.image for term in terms], [term.text for term in terms])
            vector = (np.array([[term.weight for term in terms]], np.float32) @ parts).astype(np.float32)
            if np.linalg.norm(vector) < 1e-6:
                raise UserError("the terms of the query cancel each other: nothing is left to look for")
        return self.query_of(unit(vector, self.model.late)[0], modality)

    def query_of(self, vector: Floats, modality: str) -> Query:
        """Return the query that a (D,) unit vector of an item of a modality is."""
        factors, offsets = affine(self.mode, modality, MODALITIES, self.stats)
        return Query(np.array(vector, np.float32)[None], factors[None], offsets[None], self.model.late)


def model_hash(folder: Path, memory: Path) -> str:
    """Return the hash of a model's files; taken again only of those whose size or time has changed.

    Raises:
        UserError: there is no such folder.
    """
    if not (folder / "export.json").exists():
        raise UserError(f"{folder} is no model folder (it has no export.json); make one with `gcl bundle`")
    return fingerprint(folder, memory)
