"""Embed every distinct image and text once, by onnxruntime alone.

In:  a prepared folder and exported graphs; graphs of heads take the towers' outputs for that folder instead.
Out: image.npy and text.npy, (rows, D) float32 raw outputs in the order of the prepared tables; where fusion
     is native also image_text.npy, a row for every image and text that occur together (records.fused_keys).
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from gcl.command import parser, run
from gcl.config import Preprocess
from gcl.files import atomic_path
from gcl.images import load
from gcl.progress import progress
from gcl.records import fused_keys, read_parquet
from gcl.runtime import open_session
from gcl.strict import parse
from gcl.texts import clean, pad_of, read_tokenizer

BATCH = 64
PREFETCH = 4  # batches decoded ahead


def read_export(onnx: Path) -> dict[str, Any]:
    """Read export.json."""
    try:
        about: dict[str, Any] = json.loads((onnx / "export.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{onnx} is no exported model: {error}; run `export`") from error
    return about


def run_batches(session: onnxruntime.InferenceSession, rows: np.ndarray) -> np.ndarray:
    """Run (n, F) rows through a graph of one input, 1024 at a time."""
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: rows[i : i + 1024]})[0] for i in range(0, len(rows), 1024)])


def decoded(locations: list[str], how: Preprocess, threads: int) -> Iterator[np.ndarray]:
    """Yield batches of pixels (B, 3, S, S), decoded ahead of use in threads."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        chunks = [locations[i : i + BATCH] for i in range(0, len(locations), BATCH)]
        ahead = [[pool.submit(load, name, how) for name in chunk] for chunk in chunks[:PREFETCH]]
        for i in range(len(chunks)):
            if i + PREFETCH < len(chunks):
                ahead.append([pool.submit(load, name, how) for name in chunks[i + PREFETCH]])
            yield np.stack([future.result() for future in ahead.pop(0)])


class Model(NamedTuple):
    """Sessions and settings of an exported model."""

    image: onnxruntime.InferenceSession
    text: onnxruntime.InferenceSession
    fused: onnxruntime.InferenceSession | None
    preprocess: Preprocess
    tokenizer: Any
    clean: str
    fused_context: int  # text tokens beside an image
    threads: int


def open_model(onnx: Path, device: str, threads: int) -> Model:
    """Open a folder that `export` or `bundle` wrote."""
    about = read_export(onnx)

    def session(name: str) -> Any:
        return open_session(onnx / f"{name}.onnx", device, threads, about["dtype"]) if name in about["graphs"] else None

    preprocess = parse(Preprocess, about["preprocess"], str(onnx / "export.json"))
    tokenizer = read_tokenizer(onnx / "tokenizer.json")
    texts = (tokenizer, about["clean"], about.get("fused_context", about["context"]))
    return Model(session("image"), session("text"), session("image_text"), preprocess, *texts, threads)


def embed_images(
    model: Model, prepared: Path, texts: "Texts", mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (images, D) raw outputs, and (combinations, D) if fusion is native.

    The image graph runs once per image; its tokens go to every text that the image is joined with.
    """
    locations = read_parquet(prepared / "locations.parquet")["location"].to_pylist()
    keys = fused_keys(prepared) if model.fused else []  # sorted by image
    stream = decoded(locations, model.preprocess, model.threads or 2)
    what = "embed mirrored images" if mirrored else "embed images"
    outputs: list[np.ndarray] = []
    fused: list[np.ndarray] = []
    at = 0
    for number, pixels in enumerate(
        progress(stream, f"{what} (batches of {BATCH})", "batch", -(-len(locations) // BATCH))
    ):
        given = np.ascontiguousarray(pixels[..., ::-1]) if mirrored else pixels
        features, *tokens = model.image.run(None, {"pixels": given})
        outputs.append(features)
        end = bisect_left(keys, ((number + 1) * BATCH, -1))
        if at < end:
            fused.append(embed_fused(model, tokens[0], number * BATCH, keys[at:end], texts))
        at = end
    return np.concatenate(outputs), np.concatenate(fused) if fused else None


class Texts(NamedTuple):
    """The distinct texts of a prepared folder as unpadded token ids."""

    ids: list[list[int]]
    pad: int


def tokenize(model: Model, prepared: Path) -> Texts:
    """Tokenise every distinct text once."""
    texts = read_parquet(prepared / "texts.parquet")["text"].to_pylist()
    encodings = unpadded(model.tokenizer, [clean(text, model.clean) for text in texts])
    return Texts([e.ids for e in encodings], pad_of(model.tokenizer))


def padded(rows: list[list[int]], pad: int, length: int | None) -> np.ndarray:
    """Return (B, L) int64 ids, padded to `length` or the longest."""
    width = length or max(map(len, rows))
    ids = np.full((len(rows), width), pad, np.int64)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = row
    return ids


def shortened(row: list[int], limit: int) -> list[int]:
    """Cut to `limit` tokens, the last of them the one that ends a text."""
    return row if len(row) <= limit else [*row[: limit - 1], row[-1]]


def embed_fused(model: Model, tokens: np.ndarray, first: int, keys: list[tuple[int, int]], texts: Texts) -> np.ndarray:
    """Embed combinations of images of one batch, whose tokens are (B, P, W), with texts; of like length together."""
    rows = [shortened(texts.ids[text], model.fused_context) for _, text in keys]
    order = sorted(range(len(keys)), key=lambda i: len(rows[i]))
    outputs: list[np.ndarray] = [np.empty(0)] * len(keys)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        images = tokens[[keys[i][0] - first for i in chosen]]
        ids = padded([rows[i] for i in chosen], texts.pad, None)
        (found,) = model.fused.run(None, {"image_tokens": images, "ids": ids})  # type: ignore[union-attr]
        for i, vector in zip(chosen, found, strict=True):
            outputs[i] = vector
    return np.stack(outputs)


def embed_texts(model: Model, texts: Texts) -> np.ndarray:
    """Return (texts, D) raw outputs of the text graph; texts of like length share a batch."""
    order = sorted(range(len(texts.ids)), key=lambda i: (len(texts.ids[i]), i))
    length = model.tokenizer.padding["length"]
    outputs: list[np.ndarray] = [np.empty(0)] * len(order)
    for start in progress(range(0, len(order), BATCH), f"embed texts (batches of {BATCH})", "batch"):
        rows = order[start : start + BATCH]
        (found,) = model.text.run(None, {"ids": padded([texts.ids[i] for i in rows], texts.pad, length)})
        for i, vector in zip(rows, found, strict=True):
            outputs[i] = vector
    return np.stack(outputs)


def unpadded(tokenizer: Any, texts: list[str]) -> list[Any]:
    """Tokenise without padding, to learn the lengths."""
    padding = tokenizer.padding
    tokenizer.no_padding()
    encodings: list[Any] = tokenizer.encode_batch(texts)
    tokenizer.enable_padding(**padding)
    return encodings


def write(folder: Path, name: str, vectors: np.ndarray) -> None:
    """Write one array; NaN is an error here, where its cause is near."""
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors)).any(1).sum())
        raise ValueError(f"{bad} of {len(vectors)} {name} embeddings hold NaN or infinity")
    np.save(folder / f"{name}.npy", vectors.astype(np.float32))


def infer_items(
    onnx: Path, prepared: Path, device: str, threads: int, flip: bool, folder: Path, only_texts: bool = False
) -> None:
    """Embed a prepared folder with whole encoders or towers."""
    folder.mkdir()
    model = open_model(onnx, device, threads)
    texts = tokenize(model, prepared)
    if not only_texts:
        image, fused = embed_images(model, prepared, texts)
        write(folder, "image", image)
        if fused is not None:
            write(folder, "image_text", fused)
    if flip:
        write(folder, "image_flipped", embed_images(model._replace(fused=None), prepared, texts, mirrored=True)[0])
    write(folder, "text", embed_texts(model, texts))
    (folder / "towers.json").write_text(json.dumps(read_export(onnx)["graphs"], sort_keys=True) + "\n")


def infer_features(onnx: Path, features: Path, device: str, threads: int, folder: Path) -> None:
    """Run heads on the towers' outputs.

    Raises:
        ValueError: the features are another tower's.
    """
    about = read_export(onnx)
    if about["towers"] != json.loads((features / "towers.json").read_text()):
        raise ValueError(
            f"{features} comes from other towers than {onnx} was trained on; run `infer` on the towers again"
        )
    folder.mkdir()
    for modality in about["graphs"]:
        session = open_session(onnx / f"{modality}.onnx", device, threads)
        write(folder, modality, run_batches(session, np.load(features / f"{modality}.npy")))


def infer(
    onnx: Path,
    prepared: Path | None,
    features: Path | None,
    device: str,
    threads: int,
    flip: bool,
    only_texts: bool,
    output: Path,
) -> dict[str, Any]:
    """Embed with the model in `onnx`, or with each of its seeds.

    Raises:
        ValueError: no GPU where cuda is asked for, an unreadable image, or NaN in an output.
    """
    if (prepared is None) == (features is None):
        raise ValueError("give either --prepared, a prepared folder, or --features, the towers' outputs of one")

    def embed(model: Path, folder: Path) -> None:
        if features is not None:
            infer_features(model, features, device, threads, folder)
        elif prepared is not None:
            infer_items(model, prepared, device, threads, flip, folder, only_texts)

    with atomic_path(output) as folder:
        if (onnx / "export.json").exists():
            embed(onnx, folder)
        else:
            folder.mkdir()
            for seed in sorted(onnx.glob("seed*")):
                embed(seed, folder / seed.name)
    model = next(onnx.rglob("image.onnx"))
    dtype = read_export(model.parent)["dtype"]
    return {"device": device, "providers": open_session(model, device, 0, dtype).get_providers(), "dtype": dtype}


def main() -> None:
    """Run from the command line."""
    made = parser(
        "infer", __doc__, "--onnx results/onnx/clip_lite/towers --prepared data/prepared/clipart9 --output embeddings"
    )
    made.add_argument("--onnx", required=True, type=Path, help="exported model, or folder of seeds")
    made.add_argument("--prepared", type=Path, help="prepared folder to embed")
    made.add_argument("--features", type=Path, help="for heads: the towers' outputs")
    made.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    made.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    made.add_argument("--flip", action="store_true", help="embed mirrored images too (alone, not with texts)")
    made.add_argument("--only-texts", action="store_true", help="embed texts and no images")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, infer)


if __name__ == "__main__":
    main()
