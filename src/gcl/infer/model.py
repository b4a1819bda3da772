"""A model folder as an object that embeds what lies in memory: `gcl.load(folder).encode(images=..., texts=...)`."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcl.common.arrays import MODALITIES, Floats, Ints, fuse, unit
from gcl.common.errors import UserError
from gcl.data.images import MARGIN, decode, read_bytes, to_array, to_rgb
from gcl.infer.encoder import encode_fused, encode_texts, open_encoder, width_of
from gcl.infer.model_folder import read_export

CHUNK = 256  # items whose pictures are decoded at a time
Picture = str | Path | bytes | Image.Image | np.ndarray  # a file, its bytes, a PIL image, (H, W, 3) uint8


class RawOutputs(NamedTuple):
    """What the graphs make of n items; rows of what an item has not are zeros."""

    image: Floats  # (n, D)
    text: Floats  # (n, D); of items with both only where they are fused from it
    fused: Floats  # (n, D) of items with both, where fusion is native
    has_image: NDArray[np.bool_]  # (n,)
    has_text: NDArray[np.bool_]

    def by_modality(self) -> tuple[Ints, Ints, Ints]:
        """Return the rows of items of an image, of a text, and of both."""
        image, text = self.has_image, self.has_text
        only_image, only_text, both = (np.flatnonzero(rows) for rows in (image & ~text, text & ~image, image & text))
        return only_image, only_text, both


class Model:
    """An exported model; sessions are opened once, so keep it.

    Attributes:
        folder: where it lies.
        width: D of its vectors.
        fusion: how an image and a text become one vector: sum_raw, sum_unit, native.
    """

    def __init__(
        self, folder: str | Path, device: str = "auto", threads: int = 0, graphs: Collection[str] = MODALITIES
    ) -> None:
        """Open a folder that `gcl export`, `gcl bundle` or `gcl variants` wrote.

        Args:
            folder: with export.json, tokenizer.json and a graph per modality.
            device: auto, cpu or cuda.
            threads: of a CPU; 0: all.
            graphs: the modalities that will be embedded; graphs of others are not opened, which saves their time.

        Raises:
            UserError: no such folder, a part of it is missing or broken, or no GPU where one is asked for.
        """
        self.folder = Path(folder)
        about = read_export(self.folder)
        if about["kind"] != "all":
            raise UserError(f"{folder} holds {about['kind']} alone; join towers and heads with `gcl bundle`")
        if "encoder" in about:
            raise UserError(f"{folder} describes {about['encoder']['model']}, which is opened by its own library")
        self.fusion: str = about["fusion"]
        self.late: int = about.get("late", 1)
        self.encoder = open_encoder(self.folder, device, threads, graphs)
        self.width = width_of(self.encoder.image if self.encoder.text is None else self.encoder.text)

    def encode(
        self, images: Sequence[Picture | None] | None = None, texts: Sequence[str | None] | None = None
    ) -> Floats:
        """Embed n items: images, texts, or images with texts.

        Args:
            images: n pictures, None where an item has none: paths, encoded bytes (both are turned by their EXIF
                orientation), PIL images, or (H, W, 3) uint8.
            texts: n texts, None where an item has none.

        Returns:
            (n, D) float32 unit vectors; of a model of late interaction each is `late` vectors, one after the other,
            which `gcl.search(..., late=model.late)` compares.

        Raises:
            UserError: lists of different lengths, an item without both, or an unreadable picture; names it.

        Example:
            >>> import gcl
            >>> model = gcl.load("model")  # doctest: +SKIP
            >>> model.encode(texts=["a red bicycle"]).shape  # doctest: +SKIP
            (1, 256)
        """
        if images is not None and texts is not None and len(images) != len(texts):
            raise UserError(
                f"{len(images)} images and {len(texts)} texts: expected as many of both, with None for none"
            )
        n = len(images if images is not None else texts or ())
        raw = self.outputs(images or [None] * n, texts or [None] * n)
        vectors = np.empty((n, self.width), np.float32)
        only_image, only_text, both = raw.by_modality()
        vectors[only_image] = unit(raw.image[only_image], self.late)
        vectors[only_text] = unit(raw.text[only_text], self.late)
        if len(both):
            is_native = self.encoder.fused is not None
            vectors[both] = (
                unit(raw.fused[both], self.late)
                if is_native
                else fuse(raw.image[both], raw.text[both], self.fusion, self.late)
            )
        return vectors

    def outputs(self, images: Sequence[Picture | None], texts: Sequence[str | None]) -> RawOutputs:
        """Return what the graphs make of n items, before anything is fused or normalised; arguments as of `encode`.

        Raises:
            UserError: as `encode`.
        """
        if bare := [
            i for i, (image, text) in enumerate(zip(images, texts, strict=True)) if image is None and text is None
        ]:
            raise UserError(f"item {bare[0]} has neither image nor text")
        some = CHUNK if any(image is not None for image in images) else max(1, len(texts))
        with ThreadPoolExecutor() as pool:
            parts = [
                self.outputs_of([*pool.map(self.pixels, images[i : i + some], range(i, i + some))], texts[i : i + some])
                for i in range(0, len(texts), some)
            ]
        return RawOutputs(*map(np.concatenate, zip(*parts, strict=True))) if parts else self.outputs_of([], [])

    def outputs_of(self, pixels: Sequence[Floats | None], texts: Sequence[str | None]) -> RawOutputs:
        """Return the same of pictures that are decoded already, (3, S, S) each."""
        n, encoder = len(pixels), self.encoder
        has_image, has_text = (np.array([x is not None for x in xs], bool) for xs in (pixels, texts))
        image, text, fused = (np.zeros((n, self.width), np.float32) for _ in range(3))
        rows = np.flatnonzero(has_image).tolist()
        for start in range(0, len(rows), encoder.batch):
            some = rows[start : start + encoder.batch]
            image[some], *tokens = encoder.image.run(None, {"pixels": np.stack([np.asarray(pixels[i]) for i in some])})
            joined = [(place, i) for place, i in enumerate(some) if has_text[i]]
            if encoder.fused is not None and joined:
                places, items = (np.array(x) for x in zip(*joined, strict=True))
                fused[items] = encode_fused(encoder, tokens[0], places, [str(texts[i]) for i in items])
        needed = np.flatnonzero(has_text & ~has_image if encoder.fused is not None else has_text).tolist()
        if needed:
            text[needed] = encode_texts(encoder, [str(texts[i]) for i in needed])
        return RawOutputs(image, text, fused, has_image, has_text)

    def pixels(self, picture: Any, number: int = 0) -> Floats | None:
        """Return (3, S, S) float32 of a picture, the n-th of some; None of none."""
        how, name = self.encoder.preprocess, f"item {number}"
        if picture is None:
            return None
        if isinstance(picture, str | Path):
            name, picture = str(picture), read_bytes(str(picture))
        elif isinstance(picture, np.ndarray):
            if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
                raise UserError(f"{name} is an array {picture.shape} of {picture.dtype}, expected (H, W, 3) of uint8")
            picture = Image.fromarray(picture)
        if isinstance(picture, Image.Image):
            return to_array(to_rgb(picture, name), how)
        if not isinstance(picture, bytes):
            raise UserError(f"{name} is {type(picture).__name__}, expected a path, bytes, a PIL image or an array")
        return to_array(decode(picture, name, MARGIN * how.size, upright=True), how)


def load(folder: str | Path, device: str = "auto", threads: int = 0) -> Model:
    """Open a model folder; see Model.

    Args:
        folder: what `gcl export`, `gcl bundle` or `gcl variants` wrote.
        device: auto, cpu or cuda.
        threads: of a CPU; 0: all.

    Returns:
        The model, whose `encode` gives unit vectors.

    Raises:
        UserError: no such folder, a part of it is missing or broken, or no GPU where one is asked for.

    Example:
        >>> import gcl
        >>> gcl.load("no/such/folder")
        Traceback (most recent call last):
        gcl.common.errors.UserError: no/such/folder is no exported model: [Errno 2] No such file or directory: ...
    """
    return Model(folder, device, threads)
