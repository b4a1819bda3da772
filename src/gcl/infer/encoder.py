"""An exported model, and what it makes of images, of texts, and of both together; by onnxruntime alone."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime
import pyarrow as pa

from gcl.common.arrays import MODALITIES, Floats, Ints
from gcl.common.devices import cores, resolve
from gcl.common.rows import made_by, parse
from gcl.config.backbones import Preprocess
from gcl.data.images import load
from gcl.infer.model_folder import About, read_export
from gcl.infer.session import open_session
from gcl.models.tokenizers import clean, pad_of, read_tokenizer

BATCHES = {"cpu": 16, "cuda": 64}  # items at a time; on a CPU more are slower, the second-level cache overflows
PREFETCH = 4  # batches decoded ahead
WORKERS = 8  # batches on a CPU at a time: as many as are read together
ROWS = 1024  # of heads' inputs at a time

S = TypeVar("S")
T = TypeVar("T")


def run_batches(session: onnxruntime.InferenceSession, rows: np.ndarray) -> np.ndarray:
    """Run (n, F) rows through a graph of one input, ROWS at a time."""
    name = session.get_inputs()[0].name
    blocks = [session.run(None, {name: np.asarray(rows[i : i + ROWS])})[0] for i in range(0, len(rows), ROWS)]
    return np.concatenate(blocks) if blocks else np.empty((0, width_of(session)), np.float32)


def width_of(session: onnxruntime.InferenceSession) -> int:
    """Return D of a graph's features."""
    return int(session.get_outputs()[0].shape[1])


class Encoder(NamedTuple):
    """Sessions and settings of an exported model."""

    image: onnxruntime.InferenceSession
    text: onnxruntime.InferenceSession
    fused: onnxruntime.InferenceSession | None
    preprocess: Preprocess
    tokenizer: Any
    clean: str
    fused_context: int  # text tokens beside an image
    threads: int
    batch: int
    pool: ThreadPoolExecutor | None = None  # of workers that take a batch each
    in_turns: onnxruntime.InferenceSession | None = None  # of texts and images in their order
    positions: int = 0  # that such an item may have

    def map(self, function: Callable[[S], T], batches: Iterable[S]) -> list[T]:
        """Return what a function makes of batches, in their order; workers take them side by side."""
        return [*(self.pool.map if self.pool else map)(function, batches)]


def open_encoder(onnx: Path, device: str, threads: int, graphs: Collection[str] = MODALITIES) -> Encoder:
    """Open those graphs of a folder that `export` or `bundle` wrote that are of the given modalities.

    Raises:
        UserError: something of it is missing or broken.
    """
    with made_by("export", onnx):
        return open_graphs(onnx, read_export(onnx), device, threads, graphs)


def open_workers(onnx: Path, device: str, threads: int, graphs: Collection[str] = MODALITIES) -> Encoder:
    """Open graphs for many items: cores of a CPU take a batch each, which keeps them busier than one for all."""
    if resolve(device) == "cuda":
        return open_encoder(onnx, device, threads, graphs)
    threads = threads or cores()
    workers = min(threads, WORKERS)
    opened = open_encoder(onnx, device, threads // workers, graphs)
    return opened._replace(threads=threads, pool=ThreadPoolExecutor(workers))


def open_graphs(onnx: Path, about: About, device: str, threads: int, graphs: Collection[str]) -> Encoder:
    """Open the graphs and the tokenizer that export.json describes."""

    def session(name: str) -> Any:
        is_wanted = name in about["graphs"] and (name in graphs or (name == "in_turns" and "image_text" in graphs))
        return open_session(onnx / f"{name}.onnx", device, threads, about["dtype"]) if is_wanted else None

    preprocess = parse(Preprocess, about["preprocess"], str(onnx / "export.json"))
    tokenizer = read_tokenizer(onnx / "tokenizer.json")
    texts = (tokenizer, about["clean"], about.get("fused_context", about["context"]))
    batch = BATCHES[resolve(device)]
    encoder = Encoder(session("image"), session("text"), session("image_text"), preprocess, *texts, threads, batch)
    return encoder._replace(in_turns=session("in_turns"), positions=about.get("positions", 0))


def decoded(
    locations: pa.ChunkedArray, hashes: pa.ChunkedArray, how: Preprocess, threads: int, batch: int
) -> Iterator[np.ndarray]:
    """Yield pixels (B, 3, S, S) of at most `batch` images at a time, decoded ahead of use in threads.

    Raises:
        UserError: an image is missing, unreadable, or not the one of its hash.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        starts = iter(range(0, len(locations), batch))

        def submitted(start: int) -> list[Future[np.ndarray]]:
            some = slice(start, start + batch)
            pairs = zip(locations[some].to_pylist(), hashes[some].to_pylist(), strict=True)
            return [pool.submit(load, name, how, sha256) for name, sha256 in pairs]

        ahead = deque(map(submitted, islice(starts, PREFETCH)))
        while ahead:
            first = ahead.popleft()
            ahead.extend(map(submitted, islice(starts, 1)))
            yield np.stack([future.result() for future in first])


def tokenize(model: Encoder, texts: list[str]) -> list[list[int]]:
    """Turn texts into token ids without padding."""
    padding = model.tokenizer.padding
    model.tokenizer.no_padding()
    encodings = model.tokenizer.encode_batch([clean(text, model.clean) for text in texts])
    model.tokenizer.enable_padding(**padding)
    return [encoding.ids for encoding in encodings]


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


def by_length(rows: list[list[int]], batch: int) -> Iterator[list[int]]:
    """Yield places of rows of like length, at most `batch` at a time."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    yield from (order[start : start + batch] for start in range(0, len(order), batch))


def encode_texts(model: Encoder, texts: list[str]) -> Floats:
    """Return (n, D) raw outputs of the text graph; texts of like length share a batch."""
    rows = tokenize(model, texts)
    length, pad = model.tokenizer.padding["length"], pad_of(model.tokenizer)
    outputs = np.empty((len(rows), width_of(model.text)), np.float32)

    def embed(chosen: list[int]) -> None:
        outputs[chosen] = model.text.run(None, {"ids": padded([rows[i] for i in chosen], pad, length)})[0]

    model.map(embed, by_length(rows, model.batch))
    return outputs


def encode_fused(model: Encoder, tokens: np.ndarray, places: Ints, texts: list[str]) -> Floats:
    """Return (n, D) outputs for n texts, each with one of the images whose tokens (B, P, W) are given."""
    rows = [shortened(row, model.fused_context) for row in tokenize(model, texts)]
    pad = pad_of(model.tokenizer)
    outputs = np.empty((len(rows), width_of(model.fused)), np.float32)

    def embed(chosen: list[int]) -> None:
        inputs = {"image_tokens": tokens[places[chosen]], "ids": padded([rows[i] for i in chosen], pad, None)}
        outputs[chosen] = model.fused.run(None, inputs)[0]  # type: ignore[union-attr]

    model.map(embed, by_length(rows, model.batch))
    return outputs
