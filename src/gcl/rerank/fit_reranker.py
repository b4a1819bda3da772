"""Train a re-ranker on a benchmark whose items the model was not trained on.

In:  a run on that benchmark with its ranking by center_zscore, the benchmark as prepared, the model's and the frozen
     towers' outputs for it, the model's statistics, and the training pairs, whose texts say which words are rare.
Out: a folder per seed with reranker.onnx, tower_means.npz, words.json and reranker.json. `gcl rerank` reads it.
"""

from pathlib import Path

import numpy as np

from gcl.common.command import parser, run
from gcl.common.files import atomic_path, write_json
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.data.records import read_parquet
from gcl.export.graphs import head_graph
from gcl.infer.store import Outputs, read_outputs
from gcl.rerank.features import NAMES, Evidence, Words, count_words, pair_features
from gcl.rerank.lists import (
    FIRST_STAGE,
    RERANK,
    Inputs,
    Lists,
    RankedLists,
    add_inputs,
    evidence_of,
    gathered,
    seeds_of,
)


def relevance_of(lists: RankedLists, bench: PreparedBenchmark) -> np.ndarray:
    """Return (n,) bool: which of the pairs are relevant."""
    (task,) = (task for task in bench.tasks if task.name == lists.ranking.task)
    labels = [
        candidate in bench.qrels[task.name].get(query, {})
        for query, own, n in zip(bench.queries(task), lists.ranking.candidates, lists.lengths, strict=True)
        for candidate in own[:n]
    ]
    return np.array(labels, bool)


def padded(bench: PreparedBenchmark, run: Path, seed: int, k: int, evidence: Evidence) -> tuple[np.ndarray, ...]:
    """Return (L, k, F) features, (L, k) relevance and (L, k) what is listed, of all queries, tasks and pools."""
    rows, good, places = [], [], []
    for lists in Lists(bench, k).of_run(run, seed):
        rows.append(pair_features(lists.queries, lists.candidates, lists.scores, evidence))
        good.append(relevance_of(lists, bench))
        places.append(np.arange(k) < np.array(lists.lengths)[:, None])
    listed = np.concatenate(places)
    features = np.zeros((*listed.shape, len(NAMES)), np.float32)
    features[listed] = np.concatenate(rows)
    relevant = np.zeros(listed.shape, bool)
    relevant[listed] = np.concatenate(good)
    return features, relevant, listed


def mean_of(outputs: Outputs) -> dict[str, np.ndarray]:
    """Return the means of towers' outputs by modality."""
    return {name: np.asarray(getattr(outputs, name)[:], np.float32).mean(0) for name in ("image", "text")}


def fit_reranker(inputs: Inputs, pairs: Path, k: int, output: Path) -> None:
    """Train a re-ranker for each seed.

    Raises:
        UserError: a run of other queries, k below 1, no relevant candidate in any list, or no seeds.
    """
    from gcl.rerank.listwise import train

    bench = read_benchmark(inputs.prepared)
    words: Words = count_words(read_parquet(pairs / "texts.parquet")["text"].to_pylist())
    means = mean_of(read_outputs(inputs.towers, inputs.shared)) if inputs.towers else {}
    with atomic_path(output) as folder:
        folder.mkdir()
        for name in seeds_of(inputs.embeddings):
            number = int(name.removeprefix("seed"))
            evidence = evidence_of(inputs, name, means, words)
            features, relevant, listed = padded(bench, inputs.run_file, number, k, evidence)
            first, bias, second = train(features, relevant, listed, number)
            (folder / name).mkdir()
            head_graph(first, bias, second, folder / name / "reranker.onnx")
            np.savez(folder / name / "tower_means.npz", **means)  # type: ignore[arg-type]
            write_json(folder / name / "words.json", words._asdict())
            useful = int(relevant.any(1).sum())
            about = {
                "kind": RERANK,
                "k": k,
                "first_stage": FIRST_STAGE,
                "features": list(NAMES),
                "lists": len(listed),
                "useful": useful,
            }
            write_json(folder / name / "reranker.json", about)


def main() -> None:
    """Run from the command line."""
    options = parser(
        "fit_reranker",
        __doc__,
        "--run runs/clipart9_validation.parquet --prepared prepared/clipart9_validation --embeddings vectors"
        " --towers towers --calibration calibrations --pairs prepared/openclipart --output reranker",
    )
    add_inputs(options)
    options.add_argument("--pairs", required=True, type=Path, help="the training pairs, prepared")
    options.add_argument("--k", type=int, default=50, help="candidates of a query that are ranked again (50)")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, gathered(fit_reranker))


if __name__ == "__main__":
    main()
