"""Items of texts and images in turns, read in that order by a model that has a graph for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from gcl.common.arrays import Floats
from gcl.common.progress import progress
from gcl.data.in_turns import InTurns, items_in_turns, pieces
from gcl.data.records import read_parquet
from gcl.infer.encoder import Encoder, by_length, decoded, padded, tokenize, width_of
from gcl.models.tokenizers import pad_of

ITEMS = 64  # whose images' tokens are held at a time
NOWHERE = -1  # in an order: padding


def sequence(row: list[str | int], words: Iterator[list[int]], tokens: int) -> tuple[list[int], list[tuple[str, int]]]:
    """Return the token ids of an item, and its sequence: ("image", number of an image's token) or ("word", place).

    Args:
        row: of data.in_turns.pieces.
        words: token ids of its texts in order, each with the ids that begin and end a text.
        tokens: of an image.
    """
    ids, order = [], []
    for piece in row:
        if isinstance(piece, int):
            order += [("image", piece * tokens + i) for i in range(tokens)]
            continue
        own = next(words)[1:-1]
        ids += own
        order += [("word", 1 + len(ids) - len(own) + i) for i in range(len(own))]
    return ids, order


def encode_in_turns(model: Encoder, tokens: np.ndarray, items: list[tuple[list[int], str, tuple[int, ...]]]) -> Floats:
    """Return (n, D) outputs of items.

    Args:
        model: opened with the graph for them.
        tokens: (B, P, W) of images.
        items: of each the rows of `tokens`, the text and the places.
    """
    rows = [pieces(text, places) for _, text, places in items]
    texts = [piece for row in rows for piece in row if isinstance(piece, str)]
    begin, *_, end = tokenize(model, [""])[0]
    words, per_image = iter(tokenize(model, texts)), tokens.shape[1]
    outputs = np.empty((len(items), width_of(model.in_turns)), np.float32)
    read = [sequence(row, words, per_image) for row in rows]
    cut = [order[: model.positions - 2] for _, order in read]

    def embed(chosen: list[int]) -> None:
        most = max(len(items[i][0]) for i in chosen)
        images = np.zeros((len(chosen), max(most * per_image, 2), tokens.shape[2]), np.float32)
        orders = []
        for line, i in zip(images, chosen, strict=True):
            own = tokens[items[i][0]].reshape(-1, tokens.shape[2])
            line[: len(own)] = own
            words_at = len(line)
            last = words_at + 1 + len(read[i][0])
            middle = [place if kind == "image" else words_at + place for kind, place in cut[i]]
            orders.append([words_at, *middle, last])
        ids = padded([[begin, *read[i][0], end] for i in chosen], pad_of(model.tokenizer), None)
        inputs = {"image_tokens": images, "ids": ids, "order": padded(orders, NOWHERE, None)}
        outputs[chosen] = model.in_turns.run(None, inputs)[0]  # type: ignore[union-attr]

    model.map(embed, by_length([[0] * len(order) for order in cut], model.batch))
    return outputs


def blocks(model: Encoder, prepared: Path, start: int, stop: int) -> Iterator[Floats]:
    """Yield outputs of the items in turns of a folder from `start` to `stop`, ITEMS at a time."""
    items = items_in_turns(prepared)[start:stop]
    locations = read_parquet(prepared / "locations.parquet")["location"]
    hashes = read_parquet(prepared / "images.parquet")["sha256"]
    texts = read_parquet(prepared / "texts.parquet")["text"]
    parts = range(0, len(items), ITEMS)
    for at in progress(parts, f"embed items in turns ({ITEMS} each)", "part"):
        yield some_items(model, items[at : at + ITEMS], locations, hashes, texts)


def some_items(
    model: Encoder, items: list[InTurns], locations: pa.ChunkedArray, hashes: pa.ChunkedArray, texts: pa.ChunkedArray
) -> Floats:
    """Return outputs of some items; an image is decoded once for all of them."""
    used = sorted({row for item in items for row in item.images})
    place = {row: number for number, row in enumerate(used)}
    some = pa.array(used, pa.int64())
    stream = decoded(locations.take(some), hashes.take(some), model.preprocess, model.threads or 2, model.batch)
    tokens = model.map(lambda pixels: model.image.run(["image_tokens"], {"pixels": pixels})[0], stream)
    own = texts.take(pa.array([item.text for item in items])).to_pylist()
    rows = [[place[row] for row in item.images] for item in items]
    return encode_in_turns(model, np.concatenate(tokens), [*zip(rows, own, (i.places for i in items), strict=True)])
