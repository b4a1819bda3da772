"""Embed every distinct image and text once, by onnxruntime alone.

In:  a prepared folder (images.parquet, texts.parquet) and exported graphs; graphs of heads take the
     towers' outputs for that folder instead.
Out: image.npy and text.npy, (rows, D) float32 raw outputs in the order of the prepared tables.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from gcl.command import parser, run
from gcl.config import Preprocess, parse
from gcl.files import atomic_path
from gcl.images import load
from gcl.progress import progress
from gcl.records import read_parquet
from gcl.runtime import open_session
from gcl.texts import load_tokenizer, to_ids

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


def embed_images(onnx: Path, prepared: Path, device: str, threads: int, mirrored: bool = False) -> np.ndarray:
    """Return (images, D) raw outputs of the image graph."""
    how = parse(Preprocess, read_export(onnx)["preprocess"], str(onnx / "export.json"))
    locations = read_parquet(prepared / "images.parquet")["location"].to_pylist()
    session = open_session(onnx / "image.onnx", device, threads)
    stream = decoded(locations, how, threads or 2)
    what = "embed mirrored images" if mirrored else "embed images"
    outputs = []
    for pixels in progress(stream, f"{what} (batches of {BATCH})", "batch", -(-len(locations) // BATCH)):
        given = np.ascontiguousarray(pixels[..., ::-1]) if mirrored else pixels
        outputs.append(session.run(None, {"pixels": given})[0])
    return np.concatenate(outputs)


def embed_texts(onnx: Path, prepared: Path, device: str, threads: int) -> np.ndarray:
    """Return (texts, D) raw outputs of the text graph; texts of like length share a batch."""
    tokenizer = load_tokenizer(onnx / "tokenizer.json", read_export(onnx)["context"])
    texts = read_parquet(prepared / "texts.parquet")["text"].to_pylist()
    lengths = [len(e.ids) for e in unpadded(tokenizer, texts)]
    order = sorted(range(len(texts)), key=lambda i: (lengths[i], i))
    session = open_session(onnx / "text.onnx", device, threads)
    outputs: list[np.ndarray] = [np.empty(0)] * len(texts)
    for start in progress(range(0, len(order), BATCH), f"embed texts (batches of {BATCH})", "batch"):
        rows = order[start : start + BATCH]
        (found,) = session.run(None, {"ids": to_ids(tokenizer, [texts[i] for i in rows])})
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


def infer_items(onnx: Path, prepared: Path, device: str, threads: int, flip: bool, folder: Path) -> None:
    """Embed a prepared folder with whole encoders or towers."""
    folder.mkdir()
    write(folder, "image", embed_images(onnx, prepared, device, threads))
    if flip:
        write(folder, "image_flipped", embed_images(onnx, prepared, device, threads, mirrored=True))
    write(folder, "text", embed_texts(onnx, prepared, device, threads))
    (folder / "towers.json").write_text(json.dumps(read_export(onnx)["graphs"], sort_keys=True) + "\n")


def infer_features(onnx: Path, features: Path, device: str, threads: int, folder: Path) -> None:
    """Run heads on the towers' outputs.

    Raises:
        ValueError: the features are another tower's.
    """
    if read_export(onnx)["towers"] != json.loads((features / "towers.json").read_text()):
        raise ValueError(
            f"{features} comes from other towers than {onnx} was trained on; run `infer` on the towers again"
        )
    folder.mkdir()
    for modality in ("image", "text"):
        session = open_session(onnx / f"{modality}.onnx", device, threads)
        write(folder, modality, run_batches(session, np.load(features / f"{modality}.npy")))


def infer(
    onnx: Path, prepared: Path | None, features: Path | None, device: str, threads: int, flip: bool, output: Path
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
            infer_items(model, prepared, device, threads, flip, folder)

    with atomic_path(output) as folder:
        if (onnx / "export.json").exists():
            embed(onnx, folder)
        else:
            folder.mkdir()
            for seed in sorted(onnx.glob("seed*")):
                embed(seed, folder / seed.name)
    model = next(onnx.rglob("image.onnx"))
    return {"device": device, "providers": open_session(model, device).get_providers(), "dtype": "float32"}


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
    made.add_argument("--flip", action="store_true", help="embed mirrored images too")
    made.add_argument("--output", required=True, type=Path, help="folder to write")
    run(made, infer)


if __name__ == "__main__":
    main()
