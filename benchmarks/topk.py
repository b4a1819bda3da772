"""Exact search against FAISS' IndexFlatIP, with the same threads: time, and whether the candidates are the right ones.

    python benchmarks/topk.py [--candidates 500000]         # FAISS: pip install faiss-cpu

FAISS holds its own copy of the vectors; ours reads them as they are. "from vectors" counts the making of that copy. A
pool that is asked few queries often may have a copy in 8 bits beside it, `gcl.rounded`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gcl.retrieve import exact as ranking
from gcl.retrieve.exact import Pool, Query
from gcl.retrieve.scan import pruned as scan
from gcl.retrieve.scan.rounded import Rounded, rounded
from gcl.retrieve.search import FEW, best_rows
from measure import arguments, growth, growth_alone, in_turns, options, table, write

WIDTH = 512
# Queries, k.
CASES = [(256, 100), (1, 1), (1, 100), (2, 100), (4, 100), (16, 100), (1024, 100), (256, 10), (1, 1000), (256, 1000)]


def unit_rows(n: int, seed: int, centres: int = 0) -> np.ndarray:
    """Return (n, D) unit vectors, random or around a few centres, where near ties are many."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, WIDTH, generator=generator)
    if centres:
        middle = torch.randn(centres, WIDTH, generator=torch.Generator().manual_seed(1))
        vectors = middle[torch.arange(n) % centres] + 0.1 * vectors
    return torch.nn.functional.normalize(vectors, dim=1).numpy()


def faiss_index(vectors: np.ndarray) -> Any:
    """Return FAISS' exact index, or None where FAISS is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def torch_loop(vectors: torch.Tensor, queries: torch.Tensor, k: int) -> np.ndarray:
    """Search in blocks of fp32 products and topk: what one writes first."""
    vectors, queries = vectors.to(options.device), queries.to(options.device)
    best, rows = (
        queries.new_empty(len(queries), 0),
        torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device),
    )
    for start in range(0, len(vectors), scan.BLOCK):
        products = queries @ vectors[start : start + scan.BLOCK].T
        scores, columns = products.topk(min(k, products.shape[1]))
        best, order = torch.cat([best, scores], 1).topk(min(k, best.shape[1] + scores.shape[1]))
        rows = torch.cat([rows, columns + start], 1).gather(1, order)
    return rows.cpu().numpy()


def search(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    precision: scan.Precision | None = None,
    copy: Rounded | None = None,
) -> np.ndarray:
    """Search as `gcl.search` does, or by a scan in a precision; return rows."""
    if precision is None:
        return best_rows(parts(queries), pool_of(vectors)._replace(rounded=copy), k, options.device)[1]
    return scan.scan_pool(parts(queries), pool_of(vectors), k, torch.device(options.device), precision)[1]


def parts(queries: np.ndarray) -> list[Query]:
    """Return queries whose scores are cosines."""
    return [Query(queries, np.ones((len(queries), 3)), np.zeros((len(queries), 3)))]


def pool_of(vectors: np.ndarray) -> Pool:
    """Return vectors of one modality."""
    return Pool(len(vectors), vectors.__getitem__, np.zeros(len(vectors), np.int8))


def right(actual: np.ndarray, expected: np.ndarray) -> str:
    """Count the places of the ranking that hold the right candidate."""
    return f"{(actual == expected).sum():,} of {expected.size:,}"


def compared(
    vectors: np.ndarray, queries: np.ndarray, k: int, repeats: int, has_faiss: bool, copy: Rounded | None
) -> list[list[str]]:
    """Return rows of the table for one case."""
    index = faiss_index(vectors) if has_faiss else None
    tensors = torch.from_numpy(vectors), torch.from_numpy(queries)
    works: dict[str, Callable[[], np.ndarray]] = {"ours": lambda: search(vectors, queries, k)}
    if index is not None:
        works["FAISS"] = lambda: index.search(queries, k)[1]
        works["FAISS from vectors"] = lambda: faiss_index(vectors).search(queries, k)[1]
    works["torch fp32 loop"] = lambda: torch_loop(*tensors, k)
    if copy is not None and len(queries) <= FEW:
        works["ours, with the copy in 8 bits"] = lambda: search(vectors, queries, k, copy=copy)
    times = in_turns(works, repeats)
    peer = times.get("FAISS", times["torch fp32 loop"])
    expected = ranking.best_of_pool(parts(queries), pool_of(vectors), k)[1]  # plain search in float64
    rows = []
    for name, work in works.items():
        rate = 2 * len(vectors) * WIDTH * len(queries) / times[name].median / 1e12
        rows.append([name, times[name].shown(), peer.over(times[name]), f"{rate:.3f}", right(work(), expected)])
    return rows


def calibrated_twice(vectors: np.ndarray, repeats: int) -> dict[str, Any]:
    """Return a table of one search for two calibrations that compare the same vectors, and of two searches."""
    (plain,), pool, device = parts(unit_rows(256, 3)), pool_of(vectors), torch.device(options.device)
    other = plain._replace(factors=7 * plain.factors, offsets=plain.offsets - 1)
    works = {
        "one calibration": lambda: scan.scan_pool([plain], pool, 100, device),
        "two in one search": lambda: scan.scan_pool([plain, other], pool, 100, device),
        "two searches": lambda: [scan.scan_pool([one], pool, 100, device) for one in (plain, other)],
    }
    times = in_turns(works, repeats)
    rows = [[name, times[name].shown(), times[name].over(times["two searches"])] for name in works]
    return table("Calibrations that compare the same vectors; 256 queries, k = 100", ["search", "time", "ratio"], rows)


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=5, candidates=500_000, memory=0)
    if given.memory:
        vectors, queries = unit_rows(given.memory, 2), unit_rows(256, 3)
        print(growth(lambda: search(vectors, queries, 100)))
        return
    has_faiss = faiss_index(unit_rows(8, 0)) is not None
    if not has_faiss:
        print("FAISS is not installed (pip install faiss-cpu): ratios are to the loop in torch")
    peer = "FAISS" if has_faiss else "the loop"
    columns = [
        "queries",
        "k",
        "vectors",
        "search",
        "time",
        f"throughput of {peer}'s",
        "Tera-operations/s",
        "right places",
    ]
    rows, values, others = [], {}, []
    for centres in (0, 1000):
        vectors = unit_rows(given.candidates, 2, centres)
        copy = None if options.device == "cuda" else rounded(vectors)
        for n, k in CASES if not centres else CASES[:1]:
            queries = unit_rows(n, 3, centres)
            kind = "around 1000 centres" if centres else "random"
            lines = compared(vectors, queries, k, given.repeats, has_faiss, copy)
            rows += [[n, k, kind, *row] for row in lines]
            values[f"{n}:{k}:{kind}"] = lines
        if not centres:
            others.append(calibrated_twice(vectors, given.repeats))
    mb = growth_alone(__file__, str(given.candidates))
    memory = f"{mb:.0f} MB beyond vectors and queries (256 queries, k = 100)"
    dtype = scan.precision_of(torch.device(options.device)).dtype
    caption = f"{given.candidates:,} candidates, D = {WIDTH}, scan in {dtype}; {memory}"
    write("topk", "Exact search", [table(caption, columns, rows), *others], values=values)


if __name__ == "__main__":
    main()
