"""Small benchmarks whose right ranking is known."""

import csv

import numpy as np

from gcl.data.items import Item, write_benchmark
from gcl.retrieve.retrieve import retrieve
from gcl.score.score import score
from support.arrays import SAME
from support.retrieval import write_model


def texts(names):
    return [Item(name, name, ()) for name in names]


def run(folder, contents, queries, candidates, measures, depth=100):
    """Rank and score texts with given vectors; return scores.csv and ties.csv as {(task, pool, measure): number}."""
    names = [item.text for items in contents.tables.values() for item in items]
    known = dict(zip(dict.fromkeys(names), range(len(names)), strict=False))
    array = np.zeros((len(known), 4), np.float32)
    for name, row in known.items():
        array[row] = queries[name] if name in queries else candidates[name]
    prepared, embeddings, onnx = folder / "p", folder / "e", folder / "o"
    prepared.mkdir()
    write_benchmark(prepared, contents, {}, SAME)
    write_model(embeddings, onnx, np.zeros((0, 4), np.float32), array)
    retrieve(prepared, [embeddings], None, onnx, None, ["none"], depth, "cpu", folder / "trec", folder / "run.parquet")
    score(folder / "run.parquet", prepared, "b", "r", "x", measures, 10, folder / "s")
    found = {}
    for name, column in (("scores", "value"), ("ties", "decided_by_tie")):
        with (folder / f"s/{name}.csv").open() as file:
            found[name] = {(r["task"], r["pool"], r["measure"]): float(r[column]) for r in csv.DictReader(file)}
    return found


def ordered(query, names, candidates):
    """The official way: all scores, highest first, the earlier candidate where they are equal."""
    scores = [float(np.float32(query @ candidates[name])) for name in names]
    return [names[i] for i in sorted(range(len(names)), key=lambda i: (-scores[i], i))]
