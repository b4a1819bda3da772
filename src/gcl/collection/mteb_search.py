"""mteb asks, our exact search answers: mixed pools of images, texts and both, with the model's calibration.

    import mteb
    from gcl.collection.mteb_search import GCLSearch
    mteb.evaluate(GCLSearch("model"), task)

mteb sorts by score and knows no order among ties, so a candidate's score is its rank, negated: the order is ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gcl.collection.embedder import Embedder
from gcl.common.arrays import MODALITIES, Floats, Ints
from gcl.common.errors import UserError
from gcl.retrieve.calibration import affine
from gcl.retrieve.exact import Pool, Query
from gcl.retrieve.search import best_rows

ROWS = 256  # of a data set that are embedded at a time


class GCLSearch:
    """A model folder as mteb's SearchProtocol."""

    def __init__(self, folder: str | Path, device: str = "auto", name: str = "gcl/model") -> None:
        """Open a model.

        Args:
            folder: what `bundle` wrote; with calibration.json scores are z-scores.
            device: auto, cpu or cuda.
            name: ORG/NAME under which results are kept.

        Raises:
            UserError: as gcl.load.
        """
        self.embedder, self.device = Embedder(Path(folder), device), device
        self.mteb_model_meta = meta(name, self.embedder.model.width)
        self.ids: list[str] = []
        self.vectors, self.modalities = np.empty((0, self.embedder.model.width), np.float32), np.empty(0, np.int8)

    def index(self, corpus: Iterable[Mapping[str, Any]], **about: Any) -> None:
        """Embed the candidates."""
        self.ids, self.vectors, self.modalities = self.embedded(corpus)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **about: Any,
    ) -> dict[str, dict[str, float]]:
        """Return for every query the ids of its best candidates with minus their ranks.

        Args:
            queries: rows with id, and text, image or both.
            top_k: candidates of a query.
            top_ranked: the candidates that each query ranks; none: all.
            about: what else mteb says of the task.

        Raises:
            UserError: an item without text and image, or a listed candidate that is not there.
        """
        names, vectors, modalities = self.embedded(queries)
        scales = [affine(self.embedder.mode, MODALITIES[code], MODALITIES, self.embedder.stats) for code in modalities]
        factors, offsets = (np.array([pair[n] for pair in scales]).reshape(-1, 3) for n in range(2))
        query = Query(vectors, factors, offsets, self.embedder.model.late)
        if top_ranked is None:
            _, rows = best_rows([query], self.pool(np.arange(len(self.ids))), top_k, self.device)
            return {name: ranks([self.ids[row] for row in own]) for name, own in zip(names, rows, strict=True)}
        place = {name: row for row, name in enumerate(self.ids)}
        results = {}
        for number, name in enumerate(names):
            listed = top_ranked.get(name, ())
            if unknown := [candidate for candidate in listed if candidate not in place]:
                raise UserError(f"query '{name}' lists candidate '{unknown[0]}', which the corpus lacks")
            own = np.array(sorted(place[candidate] for candidate in listed), np.int64)
            _, rows = best_rows([query.row(number)], self.pool(own), top_k, self.device)
            results[name] = ranks([self.ids[own[row]] for row in rows[0]])
        return results

    def pool(self, rows: Ints) -> Pool:
        """Return some candidates as a pool."""
        return Pool(len(rows), lambda some: self.vectors[rows[some]], self.modalities[rows])

    def embedded(self, items: Iterable[Mapping[str, Any]]) -> tuple[list[str], Floats, np.ndarray]:
        """Return ids, vectors and modalities of a data set's rows; each has what of text and image it has."""
        names: list[str] = []
        vectors, codes = [self.vectors[:0]], []
        source = iter(items)
        while some := list(islice(source, ROWS)):
            images, texts = [row.get("image") for row in some], [text_of(row) for row in some]
            names += [str(row["id"]) for row in some]
            vectors.append(self.embedder.embed(images, texts))
            has = zip(images, texts, strict=True)
            codes += [1 if image is None else 0 if text is None else 2 for image, text in has]
        return names, np.concatenate(vectors), np.array(codes, np.int8)


def text_of(row: Mapping[str, Any]) -> str | None:
    """Return title and text of a row, None where both are empty."""
    return " ".join(part for part in (row.get("title") or "", row.get("text") or "") if part).strip() or None


def ranks(names: list[str]) -> dict[str, float]:
    """Return minus the rank of each."""
    return {name: -float(rank) for rank, name in enumerate(names, 1)}


def meta(name: str, width: int) -> Any:
    """Return what mteb wants to know of a model.

    Raises:
        UserError: mteb is not installed.
    """
    try:
        from mteb.models.model_meta import ModelMeta
    except ImportError as error:
        raise UserError("mteb is not installed; `pip install 'gcl-retrieval[mteb]'` has it") from error
    unknown = (
        "loader", "release_date", "languages", "n_parameters", "memory_usage_mb", "max_tokens", "license",
        "public_training_code", "public_training_data", "training_datasets",
    )  # fmt: skip
    return ModelMeta(
        **dict.fromkeys(unknown), name=name, revision="1", embed_dim=width, open_weights=True, framework=["ONNX"],
        similarity_fn_name="cosine", use_instructions=False, modalities=["text", "image"],
    )  # fmt: skip
