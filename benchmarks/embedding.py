"""Embedding from image files and texts to arrays on disk, against the bare ONNX session and against torch.

    python benchmarks/embedding.py [--images 1000] [--model ViT-B-32-quickgelu]

The model has random weights: speed does not depend on them. Pictures of the demo, pasted into photo-sized JPEGs.
"""

import functools
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from open_clip import create_model
from PIL import Image
from safetensors.torch import save_file

from gcl.common.files import sha256_file
from gcl.config.backbones import Backbone, Preprocess
from gcl.data import images
from gcl.data.images import MARGIN, decode, load, to_array
from gcl.data.items import Contents, Item, Qrel, Task, write_benchmark
from gcl.export.export import export_graphs, settings, write_export
from gcl.export.smaller import make
from gcl.infer.encoder import decoded, open_encoder
from gcl.infer.infer import infer
from gcl.models import family
from measure import Times, arguments, in_turns, options, table, write

PICTURES = Path("data/openclipart/pictures.parquet")
SIZES = ((640, 480), (1600, 1200))
BARE = 256  # images that bare sessions embed
FEW = 64  # images of a run that is mostly opening the model


def write_images(folder: Path, n: int, size: tuple[int, int]) -> list[str]:
    """Write n JPEGs: four pictures each on a gradient, with noise as a sensor has it; return their paths."""
    pictures = pq.read_table(PICTURES, columns=["image"])["image"][: 4 * n].to_pylist()
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for k in range(n):
        shade = np.linspace(rng.integers(60, 120, 3), rng.integers(140, 240, 3), size[1])[:, None, :]
        pixels = shade + rng.normal(0, 6, (size[1], size[0], 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        for part in range(4):
            picture = decode(pictures[(4 * k + part) % len(pictures)], "picture").resize((size[0] // 3, size[1] // 3))
            image.paste(picture, (size[0] // 2 * (part % 2), size[1] // 2 * (part // 2)))
        paths.append(str(folder / f"{k}.jpg"))
        image.save(paths[-1], quality=90)
    return paths


def write_model(folder: Path, name: str) -> tuple[Path, torch.nn.Module]:
    """Export an open_clip model with random weights, and its int8 variant; return the folder and the model."""
    torch.manual_seed(0)
    folder.mkdir()
    save_file(create_model(name).state_dict(), folder / "weights.safetensors")
    row = Backbone(family="clip", model=name, weights={"model": "weights.safetensors"}, fusion="sum_raw")
    built = family("clip").build(row, folder)
    (folder / "fp32").mkdir()
    about = export_graphs(folder / "fp32", built.graphs(), built)
    write_export(folder / "fp32", "all", name, row, settings(built) | {"parity": about})
    make(folder / "fp32", small(), folder / small())
    return folder, built.model.to(options.device)


def write_prepared(folder: Path, images: list[str], texts: int) -> None:
    """Write a prepared benchmark of images and captions of unequal lengths."""
    folder.mkdir()
    words = "a drawing of two small dogs that run along the beach after a red ball while it rains".split()
    queries = [Item(f"q{k}", " ".join([*words[: 3 + k % 14], str(k)]), ()) for k in range(texts)]
    pool = [Item(f"c{k}", None, (path,)) for k, path in enumerate(images)]
    task = Task("t", "text", "image", "query", {"all": ["pool"]}, headline="Success@10")
    contents = Contents({"query": queries, "pool": pool}, [task], [Qrel("t", "q0", "c0")])
    write_benchmark(folder, contents, {}, {path: sha256_file(Path(path)) for path in images})


def rates(models: Path, model: torch.nn.Module, paths: list[str], folder: Path, repeats: int) -> dict[str, Times]:
    """Time all ways of embedding the images, once each per turn; seconds are per image."""
    device, threads = options.device, torch.get_num_threads()
    encoders = {kind: open_encoder(models / kind, device, threads) for kind in ("fp32", small())}
    how = encoders["fp32"].preprocess
    batch, bare = encoders["fp32"].batch, paths[:BARE]
    batches = [np.stack([load(path, how) for path in bare[at : at + batch]]) for at in range(0, len(bare), batch)]

    def torch_run() -> None:
        with torch.inference_mode():
            for batch in batches:
                model.encode_image(torch.from_numpy(batch).to(device)).cpu()

    def session(kind: str) -> None:
        for batch in batches:
            encoders[kind].image.run(None, {"pixels": batch})

    def bound(kind: str) -> None:
        for batch in batches:
            binding = encoders[kind].image.io_binding()
            binding.bind_cpu_input("pixels", batch)
            binding.bind_output("features", device)
            encoders[kind].image.run_with_iobinding(binding)
            binding.copy_outputs_to_cpu()

    def whole(kind: str, prepared: str = "prepared") -> None:
        output = folder / "out"
        infer(models / kind, folder / prepared, None, device, threads, False, False, (0, 1), output)
        shutil.rmtree(output)

    few, all_of_them = len(bare), len(paths)
    every, unchecked = pa.chunked_array([paths]), pa.chunked_array([pa.nulls(len(paths), pa.string())])
    works: dict[str, tuple[Callable[[], object], int]] = {
        "decode and preprocess alone": (lambda: deque(decoded(every, unchecked, how, threads, batch), 0), all_of_them),
        "torch fp32, pixels to vectors": (torch_run, few),
    }
    for kind in encoders:
        works[f"ONNX {kind}, pixels to vectors"] = (lambda k=kind: session(k), few)
        if device == "cuda":
            works[f"ONNX {kind}, the same by IO binding"] = (lambda k=kind: bound(k), few)
        works[f"ONNX {kind}, files to disk"] = (lambda k=kind: whole(k), all_of_them)
        works[f"{kind} of a few"] = (lambda k=kind: whole(k, "a_few"), 1)
    seconds = in_turns({name: work for name, (work, _) in works.items()}, repeats)
    rates = {name: Times([s / works[name][1] for s in times.seconds]) for name, times in seconds.items()}
    for kind in encoders:  # what a long run has: without opening the model and reading what is to be done
        one, whole_run = rates.pop(f"{kind} of a few"), seconds[f"ONNX {kind}, files to disk"]
        further = [(b - a) / (all_of_them - FEW) for a, b in zip(one.seconds, whole_run.seconds, strict=True)]
        rates[f"ONNX {kind}, files to disk, each further image"] = Times(further)
    return rates


def small() -> str:
    """Return the variant that is quickest on the device."""
    return "fp16" if options.device == "cuda" else "int8"


def decoding(folder: Path, n: int, how: Preprocess, batch: int, repeats: int) -> list[list[str]]:
    """Compare decoding at a reduced size with decoding at the whole size, for small and large JPEGs."""
    rows = []
    for size in SIZES:
        paths = write_images(folder / f"{size[0]}", n, size)
        every, unchecked = pa.chunked_array([paths]), pa.chunked_array([pa.nulls(len(paths), pa.string())])

        def read(margin: int, every: pa.ChunkedArray = every, unchecked: pa.ChunkedArray = unchecked) -> None:
            images.MARGIN = margin
            deque(decoded(every, unchecked, how, torch.get_num_threads(), batch), 0)

        works = {name: functools.partial(read, margin) for name, margin in (("reduced", MARGIN), ("whole", 0))}
        times = in_turns(works, repeats)
        images.MARGIN = MARGIN
        differences = []
        for path in paths[:32]:
            exact = to_array(decode(Path(path).read_bytes(), path), how)
            differences.append(np.abs(load(path, how) - exact) * 255 * np.array(how.std)[:, None, None])
        off = f"{np.mean(differences):.2f}/255, {np.max(differences):.0f}/255"
        rates = [f"{n / times[name].median:.0f}" for name in ("reduced", "whole")]
        rows.append([f"{size[0]} x {size[1]}", *rates, times["whole"].over(times["reduced"]), off])
    return rows


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=3, images=1024, model="ViT-B-32-quickgelu")
    values = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models, model = write_model(folder / "models", given.model)
        paths = write_images(folder / "images", given.images, SIZES[0])
        write_prepared(folder / "prepared", paths, 1)
        write_prepared(folder / "a_few", paths[:FEW], 1)
        times = rates(models, model, paths, folder, given.repeats)
        rows = []
        for what, seconds in times.items():
            bare = times[f"ONNX {small() if small() in what else 'fp32'}, pixels to vectors"]
            values[what] = seconds.seconds
            peer = times["torch fp32, pixels to vectors"]
            rows.append([what, f"{1 / seconds.median:.1f}", bare.over(seconds), peer.over(seconds)])
        opened = open_encoder(models / "fp32", "cpu", 1)
        reading = decoding(folder, 192, opened.preprocess, opened.batch, given.repeats)
    caption = (
        f"{given.model}, random weights; {given.images} JPEGs of {SIZES[0][0]} x {SIZES[0][1]} pixels. 'files to disk'"
        " counts opening and hashing the model"
    )
    tables = [table(caption, ["what", "images/s", "of its bare session", "of torch fp32"], rows)]
    columns = ["JPEG", "images/s at a reduced size", "at the whole size", "ratio", "pixels differ by, mean and most"]
    tables.append(table("Decoding and preprocessing alone, to 224 x 224", columns, reading))
    write("embedding", "Embedding", tables, values=values)


if __name__ == "__main__":
    main()
