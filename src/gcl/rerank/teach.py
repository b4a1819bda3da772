"""Write what a re-ranker's lists teach an embedder: towers' outputs of queries and candidates, and the new scores.

In:  a run that `gcl rerank` wrote for the benchmark that trained the re-ranker, the benchmark as prepared, and the
     frozen towers' outputs for it.
Out: image.npy, text.npy and, in a folder per seed, lists.npz: query_image, query_text (L,), candidate_image,
     candidate_text, scores (L, k); rows below 0 where there is none, scores minus infinity where a list is shorter.
     A recipe with `distil` trains on them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.data.prepared import read_benchmark
from gcl.infer.store import read_outputs
from gcl.rerank.lists import SECOND_STAGES, Lists, RankedLists
from gcl.retrieve.item_vectors import NOTHING


def arrays_of(lists: RankedLists, k: int) -> dict[str, np.ndarray]:
    """Return the arrays of lists.npz, of one ranking."""
    listed = np.arange(k) < np.array(lists.lengths)[:, None]
    arrays: dict[str, np.ndarray] = {"scores": np.full(listed.shape, -np.inf, np.float32)}
    arrays["scores"][listed] = lists.scores
    for part in ("images", "texts"):
        name = part.removesuffix("s")
        arrays[f"query_{name}"] = getattr(lists.queries, part)[lists.starts[:-1]]
        arrays[f"candidate_{name}"] = np.full(listed.shape, NOTHING, np.int64)
        arrays[f"candidate_{name}"][listed] = getattr(lists.candidates, part)
    return arrays


def teach(
    run_file: Path, prepared: Path, towers: Sequence[Path], shared: Path | None, kind: str, k: int, output: Path
) -> None:
    """Write the lists.

    Raises:
        UserError: the run has no ranking of that kind, or the towers' outputs are missing.
    """
    lists = Lists(read_benchmark(prepared), k)
    by_seed: dict[int, list[dict[str, np.ndarray]]] = {}
    for ranking, task in lists.rankings(run_file):
        if ranking.calibration == kind:
            by_seed.setdefault(ranking.seed, []).append(arrays_of(lists.lists(ranking, task), k))
    if not by_seed:
        raise UserError(f"{run_file} has no ranking with calibration {kind}; give what `gcl rerank` wrote")
    outputs = read_outputs(towers, shared)
    with atomic_path(output) as folder:
        folder.mkdir()
        shutil.copy(towers[-1] / "towers.json", folder)
        for name in ("image", "text"):
            np.save(folder / f"{name}.npy", np.asarray(getattr(outputs, name)[:], np.float32))
        for seed, parts in by_seed.items():
            (folder / f"seed{seed}").mkdir()
            whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            np.savez(folder / f"seed{seed}/lists.npz", **whole)  # type: ignore[arg-type]


def main() -> None:
    """Run from the command line."""
    options = parser(
        "teach",
        __doc__,
        "--run reranked/clipart9_validation.parquet --prepared prepared/clipart9_validation --towers towers"
        " --kind rerank --output taught",
    )
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `rerank` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="the benchmark, prepared")
    options.add_argument("--towers", required=True, nargs="+", type=Path, help="the frozen towers' outputs for it")
    options.add_argument("--shared", type=Path, help="as of `gcl retrieve`")
    options.add_argument("--kind", default="rerank", choices=SECOND_STAGES, help="which second stage (rerank)")
    options.add_argument("--k", type=int, default=20, help="candidates of a query (20)")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, teach)


if __name__ == "__main__":
    main()
