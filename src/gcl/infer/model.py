"""A model folder as an object that embeds what lies in memory: `gcl.load(folder).encode(images=..., texts=...)`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gcl.common.arrays import Floats, fuse, unit
from gcl.common.errors import UserError
from gcl.data.images import MARGIN, decode, read_bytes, to_array, to_rgb
from gcl.infer.encoder import encode_fused, encode_texts, open_encoder, width_of
from gcl.infer.model_folder import read_export

Picture = str | Path | bytes | Image.Image | np.ndarray  # a file, its bytes, a PIL image, (H, W, 3) uint8


class Model:
    """An exported model; sessions are opened once, so keep it.

    Attributes:
        folder: where it lies.
        width: D of its vectors.
        fusion: how an image and a text become one vector: sum_raw, sum_unit, native.
    """

    def __init__(self, folder: str | Path, device: str = "auto", threads: int = 0) -> None:
        """Open a folder that `gcl export`, `gcl bundle` or `gcl variants` wrote.

        Args:
            folder: with export.json, tokenizer.json and a graph per modality.
            device: auto, cpu or cuda.
            threads: of a CPU; 0: all.

        Raises:
            UserError: no such folder, a part of it is missing or broken, or no GPU where one is asked for.
        """
        self.folder = Path(folder)
        about = read_export(self.folder)
        if about["kind"] != "all":
            raise UserError(f"{folder} holds {about['kind']} alone; join towers and heads with `gcl bundle`")
        self.fusion: str = about["fusion"]
        self.encoder = open_encoder(self.folder, device, threads)
        self.width = width_of(self.encoder.text)

    def encode(
        self, images: Sequence[Picture | None] | None = None, texts: Sequence[str | None] | None = None
    ) -> Floats:
        """Embed n items: images, texts, or images with texts.

        Args:
            images: n pictures, None where an item has none: paths, encoded bytes (both are turned by their EXIF
                orientation), PIL images, or (H, W, 3) uint8.
            texts: n texts, None where an item has none.

        Returns:
            (n, D) float32 unit vectors.

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
        pictures, captions = images or [None] * n, texts or [None] * n
        has_image, has_text = (np.array([x is not None for x in xs], bool) for xs in (pictures, captions))
        if (bare := np.flatnonzero(~has_image & ~has_text)).size:
            raise UserError(f"item {bare[0]} has neither image nor text")
        found = np.empty((n, self.width), np.float32)
        image, fused = self.encode_images(pictures, captions)
        only_text = np.flatnonzero(has_text & ~has_image).tolist()
        found[only_text] = unit(encode_texts(self.encoder, [str(captions[i]) for i in only_text]))
        only_image, both = (np.flatnonzero(x).tolist() for x in (has_image & ~has_text, has_image & has_text))
        found[only_image] = unit(image[only_image])
        if len(both):
            text = None if self.encoder.fused else encode_texts(self.encoder, [str(captions[i]) for i in both])
            found[both] = unit(fused[both]) if text is None else fuse(image[both], text, self.fusion)
        return found

    def encode_images(
        self, pictures: Sequence[Picture | None], captions: Sequence[str | None]
    ) -> tuple[Floats, Floats]:
        """Return raw outputs (n, D) of images, and of images with captions if fusion is native; zeros elsewhere."""
        encoder, rows = self.encoder, [i for i, picture in enumerate(pictures) if picture is not None]
        image, fused = (np.zeros((len(pictures), self.width), np.float32) for _ in range(2))
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(rows), encoder.batch):
                some = rows[start : start + encoder.batch]
                pixels = np.stack([*pool.map(lambda i: self.pixels(pictures[i], f"item {i}"), some)])
                image[some], *tokens = encoder.image.run(None, {"pixels": pixels})
                joined = [(place, i) for place, i in enumerate(some) if captions[i] is not None]
                if encoder.fused is not None and joined:
                    places, items = (np.array(x) for x in zip(*joined, strict=True))
                    fused[items] = encode_fused(encoder, tokens[0], places, [str(captions[i]) for i in items])
        return image, fused

    def pixels(self, picture: Any, name: str) -> np.ndarray:
        """Return (3, S, S) float32 of a picture."""
        how = self.encoder.preprocess
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
