"""Embed with a model as it is, through its own code: sentence-transformers, transformers, open_clip, or anything else.

What opens it is in models/encoder.py. Every one becomes an object with encode(images=, texts=), as gcl.Model has: two
lists of n, PIL images and texts, of which one may be absent; (n, D) float32.
"""

import importlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from gcl.common.arrays import Floats
from gcl.common.devices import resolve
from gcl.common.errors import UserError
from gcl.common.progress import progress
from gcl.data.images import open_image
from gcl.infer.resumable import Growing

if TYPE_CHECKING:
    from gcl.infer.infer import Work

Pictures = Sequence[Image.Image] | None
Texts = Sequence[str] | None
CHUNK = 256  # items after which what is done is kept


class SentenceTransformers:
    """A model of sentence-transformers; with "message" among its modalities it reads image and text together."""

    def __init__(self, name: str, device: str, **arguments: Any) -> None:
        """Open a folder, or a name on the hub."""
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(name, device=device, **arguments)

    def encode(self, images: Pictures = None, texts: Texts = None) -> Floats:
        """Embed."""
        if images is None or texts is None:
            items: list[Any] = list(images if texts is None else texts)  # type: ignore[arg-type]
        else:
            items = [{"image": image, "text": text} for image, text in zip(images, texts, strict=True)]
        vectors: Floats = self.model.encode(items, batch_size=len(items), show_progress_bar=False)
        return vectors


class Transformers:
    """A CLIP-like model of transformers, with its processor."""

    def __init__(self, name: str, device: str, **arguments: Any) -> None:
        """Open a folder, or a name on the hub."""
        from transformers import AutoModel, AutoProcessor

        self.model = AutoModel.from_pretrained(name, **arguments).eval().to(device)
        self.processor, self.device = AutoProcessor.from_pretrained(name), device

    def encode(self, images: Pictures = None, texts: Texts = None) -> Floats:
        """Embed images or texts."""
        import torch

        if images is not None and texts is not None:
            raise UserError("a model of transformers embeds image and text apart; set another fusion than native")
        more = {"images": list(images)} if images is not None else {"text": list(texts or ()), "padding": True}
        inputs = self.processor(**more, truncation=True, return_tensors="pt").to(self.device)
        get = self.model.get_image_features if images is not None else self.model.get_text_features
        with torch.inference_mode():
            output = get(**inputs)
        features: Floats = getattr(output, "pooler_output", output).float().cpu().numpy()
        return features


class OpenClip:
    """A model of open_clip."""

    def __init__(self, name: str, device: str, **arguments: Any) -> None:
        """Open a built-in name, local-dir:FOLDER or hf-hub:ORG/NAME."""
        import open_clip

        self.model, self.preprocess = open_clip.create_model_from_pretrained(name, device=device, **arguments)
        self.tokenize, self.device = open_clip.get_tokenizer(name), device
        self.model.eval()

    def encode(self, images: Pictures = None, texts: Texts = None) -> Floats:
        """Embed images or texts."""
        import torch

        if images is not None and texts is not None:
            raise UserError("a model of open_clip embeds image and text apart; set another fusion than native")
        with torch.inference_mode():
            if images is not None:
                vectors = self.model.encode_image(torch.stack([*map(self.preprocess, images)]).to(self.device))
            else:
                vectors = self.model.encode_text(self.tokenize(list(texts or ())).to(self.device))
        features: Floats = vectors.float().cpu().numpy()
        return features


KINDS: dict[str, Callable[..., Any]] = {
    "sentence-transformers": SentenceTransformers,
    "transformers": Transformers,
    "open_clip": OpenClip,
}


def open_foreign(about: dict[str, Any], device: str) -> Any:
    """Open a model that models/encoder.py describes.

    Raises:
        UserError: it can't be imported or opened, or has no `encode`.
    """
    kind, _, name = about["model"].partition(":")
    try:
        if kind in KINDS:
            return KINDS[kind](name, resolve(device), **about["arguments"])
        encoder = getattr(importlib.import_module(kind), name)(**about["arguments"])
    except UserError:
        raise
    except Exception as error:  # whatever its code raises
        raise UserError(f"can't open {about['model']} with {about['arguments']}: {error!r}") from error
    if not callable(getattr(encoder, "encode", None)):
        raise UserError(f"{about['model']} gives {type(encoder).__name__}, which has no encode(images=, texts=)")
    return encoder


class Foreign:
    """A model with its prompts, whose answers are checked."""

    def __init__(self, about: dict[str, Any], device: str) -> None:
        """Open it."""
        self.about, self.model, self.width = about, open_foreign(about, device), 0

    def encode(self, images: Pictures, texts: Texts) -> Floats:
        """Return (n, D) float32.

        Raises:
            UserError: its code fails, or answers in another shape.
        """
        n = len(images if images is not None else texts or ())
        kind = "image_text" if images is not None and texts is not None else "image" if texts is None else "text"
        prompt = self.about["prompts"].get(kind, "")
        prompted = None if texts is None else [f"{prompt}{text}" for text in texts]
        try:
            vectors = np.asarray(self.model.encode(images=images, texts=prompted), np.float32)
        except UserError:
            raise
        except Exception as error:  # whatever its code raises
            raise UserError(f"{self.about['model']} can't embed {n} items of {kind}: {error!r}") from error
        width = self.width or (vectors.shape[1] if vectors.ndim == 2 else 0)
        if vectors.shape != (n, width) or not width:
            raise UserError(
                f"{self.about['model']} gives {vectors.shape} for {n} items of {kind}, expected ({n}, {width})"
            )
        self.width = width
        return vectors


def blank() -> Image.Image:
    """Return a small picture, to learn how wide vectors are."""
    return Image.new("RGB", (64, 64), "white")


def infer_foreign(about: dict[str, Any], work: "Work", key: str, device: str, is_native: bool, folder: Path) -> None:
    """Embed a shard of a prepared folder, going on with what `folder` has.

    Raises:
        UserError: the model can't be opened, or reads no images or no texts where there are some.
    """
    model, n = Foreign(about, device), len(work.locations)
    model.encode([blank()] if n else None, None if n else ["a text"])
    texts = work.texts[1] - work.texts[0]
    shapes = {"text": (texts, model.width), "image": (work.own_images, model.width)}
    if is_native:
        shapes["image_text"] = (len(work.keys), model.width)
    grown = Growing(folder, key, shapes)
    batch = about["batch"]
    with ThreadPoolExecutor() as pool:
        for start in progress(range(grown.done("image"), n, CHUNK), f"embed images (chunks of {CHUNK})", "chunk"):
            stop = min(start + CHUNK, n)
            some = [column[start:stop].to_pylist() for column in (work.locations, work.hashes)]
            images = list(pool.map(lambda location, sha256: open_image(location, 0, sha256), *some))
            own = max(0, min(stop, work.own_images) - start)
            blocks = {"image": pieces(model, images[:own], None, batch)}
            if is_native:
                keys = work.keys[slice(*np.searchsorted(work.keys[:, 0], [start, stop]))]
                captions = work.all_texts.take(keys[:, 1]).to_pylist()
                blocks["image_text"] = pieces(model, [images[row - start] for row in keys[:, 0]], captions, batch)
            grown.append("image", stop, blocks)
    for start in progress(range(grown.done("text"), texts, CHUNK), f"embed texts (chunks of {CHUNK})", "chunk"):
        stop = min(start + CHUNK, texts)
        captions = work.all_texts[work.texts[0] + start : work.texts[0] + stop].to_pylist()
        grown.append("text", stop, {"text": pieces(model, None, captions, batch)})
    grown.check()
    (folder / "towers.json").write_text(json.dumps({}) + "\n", encoding="utf-8")


def pieces(model: Foreign, images: Pictures, texts: Texts, batch: int) -> Floats:
    """Embed items, some at a time."""
    n = len(images if images is not None else texts or ())
    blocks = []
    for start in range(0, n, batch):
        some = slice(start, start + batch)
        blocks.append(model.encode(None if images is None else images[some], None if texts is None else texts[some]))
    return np.concatenate(blocks) if blocks else np.empty((0, model.width), np.float32)
