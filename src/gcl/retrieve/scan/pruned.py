"""Exact search of large pools: a scan in low precision keeps what may be among the best, the rest is dropped unseen.

1. A block's cosines a with all queries come from one product in bf16 (CPU), fp16 (GPU) or fp32. They are off by a
   bounded amount: with u the unit roundoff of the numbers, d how far rounding has moved the query, and v the roundoff
   of the result, for unit vectors of D numbers

       |a - q.x| <= d (1 + u) + u + 2^-23 D (sums in fp32) + v |a|

   (Cauchy-Schwarz on the rounded vectors; Higham, Accuracy and Stability of Numerical Algorithms, 3.1), so that
   scores have a lower and an upper bound.
2. The k-th best lower bound so far is one of the k-th best score. Whatever's upper bound is below is dropped; the
   largest of every 32 candidates is looked at first.
3. What is left (about twice k for each query) is scored in float64, as gcl.retrieve.exact does it.

The result is gcl.retrieve.exact's, whose slow search of everything the tests compare it with.
"""

import time
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gcl.common.arrays import Floats, Ints
from gcl.data.records import split_codes, to_codes
from gcl.retrieve.exact import Pool, Query, best_k, merged, scores_of, top_k

BLOCK = 32768  # candidates that are scanned at a time, a multiple of GROUP
ROWS = 4096  # candidates that a CPU rounds at a time: they are in a cache still when they are multiplied
GROUP = 32  # candidates of which the best is looked at first, at most
MANY = 4  # times k: if a block has so many candidates for each query, all of it is scored exactly
BITS = {2: torch.int16, 4: torch.int32}  # whole numbers as wide as a float
TRIED, WIDE = 2048, 512  # candidates and numbers of the product that is timed
FRESH = 4  # the k best lower bounds are updated once a k/FRESH-th of new ones has gathered
PENDING = 4_000_000  # candidates of all queries that wait for their exact score
SLACK = 2.0**-20  # of a score of size 1: covers rounding of thresholds and of exact scores to float32


class Precision(NamedTuple):
    """The numbers that a scan computes with."""

    dtype: torch.dtype
    unit: float  # unit roundoff of the vectors
    result: float  # twice that of the products
    least: float  # absolute error of numbers near zero

    def error(self, queries: Tensor) -> Tensor:
        """Return the bound of step 1 without its last term, (Q,) float64, for (Q, D) queries of length 1 + 1e-5."""
        exact, width = queries.double(), queries.shape[1]
        moved = (queries.to(self.dtype).double() - exact).norm(dim=1)
        rounding = moved * (1 + self.unit) + self.unit + 2 * self.least * width**0.5
        return (rounding + 2.0**-23 * width) * (1 + 1e-4)


BF16 = Precision(torch.bfloat16, 2.0**-9, 2.0**-8, 0.0)
FP16 = Precision(torch.float16, 2.0**-11, 2.0**-10, 2.0**-25)
FP32 = Precision(torch.float32, 0.0, 0.0, 0.0)


def precision_of(device: torch.device) -> Precision:
    """Return what is fastest on a device: half precision where it has units for it."""
    if device.type == "cuda":
        return FP16
    capabilities = torch.cpu.get_capabilities()
    if capabilities.get("amx_bf16"):
        return BF16
    return faster() if capabilities.get("avx512_bf16") else FP32


@cache
def faster() -> Precision:
    """Return what a small product is faster in, measured once: some processors have bf16 and are slower with it."""

    def seconds(precision: Precision) -> float:
        one, other = torch.ones(TRIED, WIDE, dtype=precision.dtype), torch.ones(WIDE, 256, dtype=precision.dtype)
        times = []
        for _ in range(4):
            started = time.perf_counter()
            torch.mm(one, other)
            times.append(time.perf_counter() - started)
        return min(times)

    return min((BF16, FP32), key=seconds)


class Products:
    """Products of blocks with some queries' vectors, which searches share that make other scores of them."""

    def __init__(self, vectors: Floats, k: int, precision: Precision, memory: Tensor) -> None:
        """Take (Q, D) vectors, and memory for their products with a block, which all parts share."""
        n, moved = len(vectors), torch.from_numpy(vectors).to(memory.device)
        self.precision, self.device, self.error = precision, memory.device, precision.error(moved)  # (Q,)
        self.group = next((size for size in (GROUP, 8, 4, 2) if 2 * k * size <= BLOCK), 1)
        self.across = moved.to(precision.dtype).T.contiguous()  # (D, Q)
        self.memory = memory[: len(memory) // n * n].view(-1, n)

    def of(self, block: Tensor) -> Tensor:
        """Return products (groups, G, Q) with (B, D) candidates; what fills up the last group is -inf."""
        groups = -(-len(block) // self.group)
        products = self.memory[: groups * self.group]
        self.multiply(block, products[: len(block)])
        products[len(block) :] = -torch.inf
        return products.view(groups, self.group, -1)

    def multiply(self, block: Tensor, output: Tensor) -> None:
        """Write products of (B, D) candidates, rounded already or as they are, with all queries to (B, Q)."""
        if block.dtype == self.across.dtype:
            torch.mm(block, self.across, out=output)
            return
        memory = torch.empty(min(ROWS, len(block)), block.shape[1], dtype=self.across.dtype)
        for start in range(0, len(block), ROWS):
            some = block[start : start + ROWS]
            torch.mm(memory[: len(some)].copy_(some), self.across, out=output[start : start + ROWS])


class QueryScan:
    """The search of some queries."""

    def __init__(self, query: Query, k: int, products: Products) -> None:
        self.query, self.k, self.products = query, k, products
        self.precision, self.device, self.error = products.precision, products.device, products.error
        device, n = self.device, len(query.vectors)
        self.factors = torch.from_numpy(query.factors).to(device)  # (Q, 3) float64
        self.offsets = torch.from_numpy(query.offsets).to(device)
        self.slack = SLACK * (self.factors + self.offsets.abs())
        self.least = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)  # k-th best score is this or more
        self.low = torch.full((n, k), -torch.inf, dtype=torch.float64, device=device)  # best lower bounds
        self.fresh: list[tuple[Tensor, Tensor]] = []  # queries and lower bounds that `low` has not seen
        self.pending: list[tuple[Ints, Ints, Floats]] = []  # queries, rows, upper bounds
        self.scores, self.rows = np.empty((n, 0), np.float32), np.empty((n, 0), np.int64)

    def cuts(self, modality: int) -> Tensor:
        """Return (Q,) cosines as scanned below which no score reaches the k-th best, in the numbers of the scan."""
        needed = (self.least - self.slack[:, modality] - self.offsets[:, modality]) / self.factors[:, modality]
        needed -= self.error
        needed = needed / (1 + torch.sign(needed) * self.precision.result)
        # No cosine is below -2; what fills up the last group is. Rounding to the result's numbers must not go up.
        return (needed - max(self.precision.result, 2.0**-23) * needed.abs()).clamp(min=-2).to(self.precision.dtype)

    def bounds(self, cosines: Tensor, queries: Tensor, modality: int) -> tuple[Tensor, Tensor]:
        """Return lower and upper bounds of the scores of scanned cosines."""
        factor = self.factors[queries, modality]
        middle = cosines * factor + self.offsets[queries, modality]
        off = (self.error[queries] + self.precision.result * cosines.abs()) * factor + self.slack[queries, modality]
        return middle - off, middle + off

    def scan(self, cosines: Tensor, rows: Ints, modality: int) -> bool:
        """Look at products (groups, G, Q) with candidates of one modality; False: they can't tell them apart."""
        if len(cosines) >= self.k and torch.isinf(self.least).any():  # k groups have k candidates as good as their best
            kth = cosines.amax(1).T.double().topk(self.k, sorted=False).values.amin(1)
            self.raise_to(self.bounds(kth, torch.arange(len(kth), device=self.device), modality)[0])
        cut = self.cuts(modality)
        group, query = (largest(cosines, cut) >= cut).nonzero().T
        inside = cosines[group, :, query]  # (hits, group)
        hit, place = (inside >= cut[query, None]).nonzero().T
        if len(hit) > MANY * self.k * len(self.least):
            return False
        queries, values = query[hit], inside[hit, place].double()
        lower, upper = self.bounds(values, queries, modality)
        self.fresh.append((queries, lower))
        if sum(len(queries) for queries, _ in self.fresh) * FRESH > len(self.least) * self.k:
            self.take()
        alive = (upper >= self.least[queries]).nonzero()[:, 0]
        places = (group[hit] * cosines.shape[1] + place)[alive].cpu().numpy()
        self.pending.append((queries[alive].cpu().numpy(), rows[places], upper[alive].cpu().numpy()))
        return True

    def search(self, vectors: Floats, rows: Ints, modalities: Ints | NDArray[np.int8]) -> None:
        """Score all of a block exactly."""
        best, columns = top_k(self.query.scores(vectors, modalities), self.k)
        self.keep(best, rows[columns])

    def keep(self, scores: Floats, rows: Ints) -> None:
        """Add exactly scored candidates to the best."""
        self.scores, self.rows = merged(self.scores, self.rows, scores, rows, self.k)
        if self.scores.shape[1] == self.k:
            self.raise_to(torch.from_numpy(self.scores[:, -1].astype(np.float64)).to(self.device))

    def raise_to(self, least: Tensor) -> None:
        """Note that the k-th best scores are no less."""
        self.least = torch.maximum(self.least, least)

    def take(self) -> None:
        """Update the k best lower bounds of each query."""
        queries, lower = (torch.cat(parts) for parts in zip(*self.fresh, strict=True))
        self.fresh = []
        queries, order = queries.sort(stable=True)
        counts = queries.bincount(minlength=len(self.least))
        starts = counts.cumsum(0) - counts
        padded = self.low.new_full((len(counts), int(counts.max())), -torch.inf)
        padded[queries, torch.arange(len(queries), device=self.device) - starts[queries]] = lower[order]
        self.low = torch.cat([self.low, padded], 1).topk(self.k, sorted=False).values
        self.raise_to(self.low.amin(1))

    def settle(self, pool: Pool) -> None:
        """Score what waits exactly, if it can still be among the best."""
        if not self.waiting():
            return
        if self.fresh:
            self.take()
        queries, rows, upper = (np.concatenate(parts) for parts in zip(*self.pending, strict=True))
        alive = upper >= self.least.cpu().numpy()[queries]
        queries, rows = split_codes(np.sort(to_codes(queries[alive], rows[alive]))).T
        scores = scores_of(self.query, queries, rows, pool, torch.get_num_threads())
        self.pending = []
        self.keep(*best_k(queries, scores, rows, len(self.least), self.k))

    def waiting(self) -> int:
        """Return how many candidates wait."""
        return sum(len(queries) for queries, _, _ in self.pending)


def largest(cosines: Tensor, cut: Tensor) -> Tensor:
    """Return (groups, Q), which of (groups, G, Q) cosines is the largest of each group, right if it reaches the cut.

    Where all cuts are above zero so is what reaches them, and numbers above zero are in the order of their bits, which
    a CPU compares in a third of the time.
    """
    if cosines.device.type == "cpu" and bool((cut > 0).all()):
        return cosines.view(BITS[cosines.element_size()]).amax(1).view(cosines.dtype)
    return cosines.amax(1)


def scan_pool(
    queries: list[Query], pool: Pool, k: int, device: torch.device, precision: Precision | None = None
) -> tuple[Floats, Ints]:
    """Return the k best of a pool for each query, as ranking.best_of_pool does.

    Args:
        queries: parts of them, each as large as one product should have; products are made once for parts with the
            same array of vectors.
        pool: read twice, once in order and once where the best lie.
        k: 1 <= k; at most the size of the pool are returned.
        device: where it is scanned.
        precision: of the scan; the device's best if None.

    Returns:
        Scores (Q, min(k, C)) float32, highest first, and rows of the pool (Q, min(k, C)); ties to the lower row.
    """
    precision = precision or precision_of(device)
    k = min(k, pool.size)
    memory = torch.empty(BLOCK * max(len(q.vectors) for q in queries), dtype=precision.dtype, device=device)
    arrays = {id(query.vectors): query.vectors for query in queries}
    products_of = {key: Products(vectors, k, precision, memory) for key, vectors in arrays.items()}
    parts = [QueryScan(query, k, products_of[id(query.vectors)]) for query in queries]
    shared = [(products, [p for p in parts if p.products is products]) for products in products_of.values()]
    for start, vectors, block in blocks(pool, device, precision, is_rounded=len(shared) > 1):
        modalities = pool.modalities[start : start + len(block)]
        for modality in np.unique(modalities).tolist():
            chosen = np.flatnonzero(modalities == modality)
            some = block if len(chosen) == len(block) else block[torch.from_numpy(chosen).to(device)]
            for products, own in shared:
                cosines = products.of(some)
                for part in own:
                    if not part.scan(cosines, start + chosen, modality):
                        part.search(vectors[chosen], start + chosen, modalities[chosen])
                    if part.waiting() > PENDING // len(parts):
                        part.settle(pool)
    for part in parts:
        part.settle(pool)
    return np.concatenate([p.scores for p in parts]), np.concatenate([p.rows for p in parts])


def blocks(
    pool: Pool, device: torch.device, precision: Precision, is_rounded: bool
) -> Iterator[tuple[int, Floats, Tensor]]:
    """Yield first rows, vectors, and the same rounded in memory that the next block overwrites.

    Unless `is_rounded` is asked for, a CPU's are as they are: one part of queries rounds them as it multiplies.
    """
    memory: Tensor | None = None
    for start in range(0, pool.size, BLOCK):
        vectors = pool.vectors(slice(start, min(start + BLOCK, pool.size)))
        plain = torch.from_numpy(vectors)
        if device.type == "cpu" and (plain.dtype == precision.dtype or not is_rounded):
            yield start, vectors, plain
            continue
        memory = torch.empty_like(plain, dtype=precision.dtype, device=device) if memory is None else memory
        yield start, vectors, memory[: len(plain)].copy_(plain)
