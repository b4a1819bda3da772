"""Embed every distinct image and text once, by onnxruntime alone.

In:  a prepared folder, or what `share` says is new in it, and exported graphs; graphs of heads take the towers'
     outputs for that folder instead.
Out: image.npy and text.npy, (rows, D) float32 raw outputs in the order of the folder's tables; where fusion
     is native also image_text.npy, a row for every image and text that occur together (records.fused_keys), and
     in_turns.npy, one for every item of texts and images in turns (in_turns.items_in_turns), if the model reads such.

What is done is kept beside the output until all is: a process that was killed goes on. Shards are parts of the rows;
they hold whole chunks, so that batches, and with them the last bits, are the same whatever the number of shards.
"""

import json
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from gcl.common.arrays import Floats, Ints, read_array
from gcl.common.command import digest, parser, run
from gcl.common.devices import claim_gpu
from gcl.common.errors import UserError
from gcl.common.files import key_of, unfinished
from gcl.common.progress import progress
from gcl.data.in_turns import items_in_turns
from gcl.data.records import fused_keys, own_counts, read_parquet
from gcl.infer.encoder import Encoder, decoded, encode_fused, encode_texts, open_workers, run_batches, width_of
from gcl.infer.foreign import infer_foreign
from gcl.infer.in_turns import blocks
from gcl.infer.model_folder import read_export
from gcl.infer.resumable import Growing, move_into_place
from gcl.infer.session import open_session

CHUNK = 1024  # rows, a multiple of JOINED, after which what is done is kept
JOINED = 128  # images, a multiple of a batch, whose texts are sorted by length together; their tokens are held


class Shard(NamedTuple):
    """One of several parts of the work."""

    number: int = 0  # 0 <= number < of
    of: int = 1

    def rows(self, n: int) -> tuple[int, int]:
        """Return the first row and the one after the last, of n."""
        chunks = -(-n // CHUNK)
        start, stop = (CHUNK * (chunks * k // self.of) for k in (self.number, self.number + 1))
        return min(start, n), min(stop, n)


WHOLE = Shard()


class Work(NamedTuple):
    """What a shard embeds."""

    locations: pa.ChunkedArray  # of images
    hashes: pa.ChunkedArray  # of their bytes, as `prepare` read them
    own_images: int  # the first so many of them have an output; others only lend their tokens to combinations
    keys: Ints  # (K, 2) image among `locations` and text row of combinations, sorted
    all_texts: pa.ChunkedArray
    texts: tuple[int, int]  # rows from and to


def read_work(prepared: Path, shard: Shard, is_native: bool) -> Work:
    """Read what a shard of a prepared folder holds."""
    locations = read_parquet(prepared / "locations.parquet")["location"]
    hashes = read_parquet(prepared / "images.parquet")["sha256"]
    texts = read_parquet(prepared / "texts.parquet")["text"]
    images, own_texts = own_counts(prepared) or (len(locations), len(texts))
    start, stop = shard.rows(len(locations) if is_native else images)
    keys: Ints = fused_keys(prepared) if is_native else np.empty((0, 2), np.int64)
    keys = keys[slice(*np.searchsorted(keys[:, 0], [start, stop]))] - np.array([start, 0])
    own = min(max(images - start, 0), stop - start)
    return Work(locations[start:stop], hashes[start:stop], own, keys, texts, shard.rows(own_texts))


def chunks_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the one after the last of each chunk."""
    yield from ((at, min(at + CHUNK, stop)) for at in range(start, stop, CHUNK))


def embed_images(model: Encoder, work: Work, grown: Growing) -> None:
    """Embed images, each also with the texts it is joined with, and mirrored if that is asked for.

    An image is decoded once, and its tokens go to every text that it is joined with.
    """
    start, end, batch = grown.done("image"), len(work.locations), model.batch
    stream = decoded(work.locations[start:], work.hashes[start:], model.preprocess, model.threads or 2, batch)
    batches = iter(progress(stream, f"embed images (batches of {batch})", "batch", -(-(end - start) // batch)))

    def embed(pixels: Floats) -> dict[str, Floats]:
        features, *tokens = model.image.run(None, {"pixels": pixels})
        outputs = {"image": features} | ({"image_tokens": tokens[0]} if tokens else {})
        if "image_flipped" in grown.shapes:
            outputs["image_flipped"] = model.image.run(None, {"pixels": np.ascontiguousarray(pixels[..., ::-1])})[0]
        return outputs

    for first, stop in chunks_of(start, end):
        blocks: dict[str, list[Floats]] = {name: [] for name in grown.shapes if name not in ("text", "in_turns")}
        for at in range(first, stop, JOINED):
            embedded = model.map(embed, islice(batches, JOINED // batch))  # fewer at the end
            for name in blocks.keys() - {"image_text"}:
                blocks[name] += [outputs[name] for outputs in embedded]
            if model.fused is not None:
                keys = work.keys[slice(*np.searchsorted(work.keys[:, 0], [at, at + JOINED]))]
                texts = work.all_texts.take(pa.array(keys[:, 1])).to_pylist()
                tokens = np.concatenate([outputs["image_tokens"] for outputs in embedded])
                blocks["image_text"].append(encode_fused(model, tokens, keys[:, 0] - at, texts))
        own = slice(max(0, work.own_images - first))
        whole = {name: np.concatenate(outputs) for name, outputs in blocks.items()}
        grown.append("image", stop, {name: x if name == "image_text" else x[own] for name, x in whole.items()})


def embed_texts(model: Encoder, work: Work, grown: Growing) -> None:
    """Embed texts; those of a chunk that are of like length share a batch."""
    start = work.texts[0] + grown.done("text")
    todo = list(chunks_of(start, work.texts[1]))
    for first, stop in progress(todo, f"embed texts (chunks of {CHUNK})", "chunk"):
        outputs = encode_texts(model, work.all_texts[first:stop].to_pylist())
        grown.append("text", stop - work.texts[0], {"text": outputs})


def infer_items(
    onnx: Path,
    prepared: Path,
    device: str,
    threads: int,
    folder: Path,
    shard: Shard = WHOLE,
    flip: bool = False,
    only_texts: bool = False,
) -> dict[str, Any]:
    """Embed a prepared folder with whole encoders or towers, going on with what `folder` has; return what it ran on."""
    about = read_export(onnx)
    if encoder := about.get("encoder"):
        is_native = about["fusion"] == "native"
        key = key_of(digest(onnx), digest(prepared), shard)
        work = read_work(prepared, shard, is_native and not only_texts)
        if only_texts:
            work = work._replace(locations=work.locations[:0], own_images=0)
        infer_foreign(encoder, work, key, device, is_native, folder)
        return {"model": encoder["model"]}
    model = open_workers(onnx, device, threads)
    work = read_work(prepared, shard, model.fused is not None)
    shapes = {"text": (work.texts[1] - work.texts[0], width_of(model.text))}
    if not only_texts:
        shapes["image"] = (work.own_images, width_of(model.image))
        if flip:
            shapes["image_flipped"] = shapes["image"]
        if model.fused is not None:
            shapes["image_text"] = (len(work.keys), width_of(model.fused))
        if model.in_turns is not None:
            turns = shard.rows(len(items_in_turns(prepared)))
            shapes["in_turns"] = (turns[1] - turns[0], width_of(model.in_turns))
    sizes = (threads, shard, CHUNK, JOINED, model.batch)
    key = key_of(digest(onnx), digest(prepared), model.image.get_providers(), *sizes, sorted(shapes))
    grown = Growing(folder, key, shapes)
    if not only_texts:
        embed_images(model, work, grown)
    embed_texts(model, work, grown)
    if "in_turns" in shapes:
        start = turns[0] + grown.done("in_turns")
        for block in blocks(model, prepared, start, turns[1]):
            grown.append("in_turns", grown.done("in_turns") + len(block), {"in_turns": block})
    grown.check()
    (folder / "towers.json").write_text(json.dumps(about["graphs"], sort_keys=True) + "\n", encoding="utf-8")
    return {"providers": model.image.get_providers(), "dtype": about["dtype"]}


def infer_features(onnx: Path, features: Path, device: str, threads: int, folder: Path) -> dict[str, Any]:
    """Run heads on the towers' outputs, going on with what `folder` has; return what it ran on.

    Raises:
        UserError: the features are another tower's.
    """
    about = read_export(onnx)
    if about["towers"] != json.loads((features / "towers.json").read_text(encoding="utf-8")):
        raise UserError(
            f"{features} comes from other towers than {onnx} was trained on; run `infer` on the towers again"
        )
    sessions = {name: open_session(onnx / f"{name}.onnx", device, threads) for name in about["graphs"]}
    if (features / "in_turns.npy").exists():
        sessions["in_turns"] = sessions["image_text"]
    arrays = {name: read_array(features / f"{name}.npy") for name in sessions}
    shapes = {name: (len(arrays[name]), width_of(session)) for name, session in sessions.items()}
    stamps = [(path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(features.iterdir())]
    grown = Growing(folder, key_of(digest(onnx), features, stamps), shapes)
    for name, session in sessions.items():
        for first, stop in chunks_of(grown.done(name), len(arrays[name])):
            grown.append(name, stop, {name: run_batches(session, arrays[name][first:stop])})
    grown.check()
    return {"providers": next(iter(sessions.values())).get_providers(), "dtype": about["dtype"]}


def infer(
    onnx: Path,
    prepared: Path | None,
    features: Path | None,
    device: str,
    threads: int,
    flip: bool,
    only_texts: bool,
    shard: Shard,
    output: Path,
) -> dict[str, Any]:
    """Embed with the model in `onnx`, or with each of its seeds.

    Raises:
        UserError: no GPU where cuda is asked for, an unreadable image, or NaN in an output.
    """
    if device != "cpu":
        claim_gpu()
    if (prepared is None) == (features is None):
        raise UserError("give either --prepared, a prepared folder, or --features, the towers' outputs of one")
    if not 0 <= shard[0] < shard[1]:
        raise UserError(f"--shard {shard[0]} {shard[1]}: expected a number from 0 to {shard[1] - 1}, then how many")

    def embed(model: Path, folder: Path) -> dict[str, Any]:
        if prepared is not None:
            return infer_items(model, prepared, device, threads, folder, Shard(*shard), flip, only_texts)
        assert features is not None  # noqa: S101
        return infer_features(model, features, device, threads, folder)

    seeds = [] if (onnx / "export.json").exists() else sorted(onnx.glob("seed*"))
    with unfinished(output) as work:
        for stale in {*work.glob("seed*")} - {work / seed.name for seed in seeds}:
            shutil.rmtree(stale)
        ran = [embed(seed, work / seed.name) for seed in seeds] or [embed(onnx, work)]
        move_into_place(work, output)
    return {"device": device} | ran[0]


def main() -> None:
    """Run from the command line."""
    options = parser(
        "infer",
        __doc__,
        "--onnx results/onnx/clip_lite/towers --prepared results/prepared/clipart9 --output vectors",
    )
    options.add_argument("--onnx", required=True, type=Path, help="exported model, or folder of seeds")
    options.add_argument("--prepared", type=Path, help="prepared folder to embed, or what `share` made of it")
    options.add_argument("--features", type=Path, help="for heads: the towers' outputs")
    options.add_argument("--device", default="auto", choices=["auto", "cuda", "cpu"])
    options.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    options.add_argument("--flip", action="store_true", help="embed mirrored images too (alone, not with texts)")
    options.add_argument("--only-texts", action="store_true", help="embed texts and no images")
    options.add_argument("--shard", nargs=2, type=int, default=(0, 1), metavar=("K", "N"), help="part K of N, from 0")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, infer)
