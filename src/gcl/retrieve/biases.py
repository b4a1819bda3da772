"""Biases of candidates: what a candidate scores with training queries says how often it is found wrongly.

    score(q, c) = q . c - b(c),  b from the scores s(x, c) of a bank of N training queries x in q's modality

nnn               b = the mean of the 32 largest s(x, c); arXiv 2410.24114, there 0.75 times that of 128
inverted_softmax  b = log mean_x exp(50 s(x, c)) / 50; Smith et al. 2017, QB-Norm (arXiv 2112.12777) has 20
sinkhorn          the same with weights of the bank's queries for which, in P = u exp(50 s) v with the candidates of the
                  pool, all rows have one sum and all columns one sum; NCL, arXiv 2212.11790

No test query is looked at. The first two know of a candidate only itself, the last the pool that is searched. The bank
is the pairs that `calibrate` was given.

A bias becomes four more numbers of a vector, so that the exact search stays as it is: candidates are
[c, -b for each modality of queries, r] / 2, with r for the length to be 1, and queries
[q, 1 at their modality, 0] / sqrt 2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcl.common.arrays import MODALITIES, Floats
from gcl.common.errors import UserError
from gcl.common.rows import made_by

Doubles = NDArray[np.float64]
Bank = Mapping[str, Floats]  # modality -> (N, D) unit vectors of training queries

NEAREST = 32  # of nnn
SHARPNESS = 50.0  # of inverted_softmax and sinkhorn
ROUNDS = 30  # of sinkhorn, at most
STILL = 0.01  # relative change of a weight from which it is done
HELD = 1 << 24  # numbers of a small pool's kernels, which are then made once
FACTOR = 8**0.5  # a score over the product of a query's and a candidate's vectors
PIECE = 1024  # candidates that are compared with a bank at a time


def nnn(scores: Doubles, weights: Doubles) -> Doubles:
    """Return (C,): the mean of the largest of each column of (N, C)."""
    k = min(NEAREST, len(scores))
    means: Doubles = np.partition(scores, len(scores) - k, axis=0)[len(scores) - k :].mean(0)
    return means


def soft_maximum(scores: Doubles, weights: Doubles) -> Doubles:
    """Return (C,): the soft maximum of each column of (N, C), its rows weighed by (N,), which sum to 1."""
    maxima: Doubles = 1 + np.log(weights @ np.exp(SHARPNESS * (scores - 1))) / SHARPNESS
    return maxima


BIASES: dict[str, Callable[[Doubles, Doubles], Doubles]] = {
    "nnn": nnn,
    "inverted_softmax": soft_maximum,
    "sinkhorn": soft_maximum,
}


def equal_weights(bank: Bank) -> dict[str, Doubles]:
    """Return by modality (N,) weights of the bank's queries."""
    return {m: np.full(len(rows), 1 / len(rows)) for m, rows in bank.items()}


def sinkhorn_weights(bank: Bank, size: int, blocks: Callable[[], Iterable[Floats]]) -> dict[str, Doubles]:
    """Return by modality the (N,) weights with which a bank's queries find a pool's candidates alike.

    Args:
        bank: training queries by modality.
        size: of the pool.
        blocks: yields the pool's unit vectors, a block of (B, D) after the other; a large pool is read once a round.

    Source: Sinkhorn and Knopp 1967; arXiv 2212.11790.
    """
    weights = equal_weights(bank)
    held = list(kernels(bank, blocks())) if size * sum(map(len, bank.values())) <= HELD else None
    for _ in range(ROUNDS):
        sums = {m: np.zeros(len(rows)) for m, rows in bank.items()}
        for modality, kernel in held or kernels(bank, blocks()):
            sums[modality] += kernel @ (1 / (weights[modality] @ kernel))
        before, weights = weights, {m: (1 / own) / (1 / own).sum() for m, own in sums.items()}
        if all(np.abs(weights[m] / before[m] - 1).max() < STILL for m in weights):
            break
    return weights


def kernels(bank: Bank, blocks: Iterable[Floats]) -> Iterator[tuple[str, Doubles]]:
    """Yield modality and (N, B) exponentials of similarities, below 1, of pieces of a pool."""
    for block in blocks:
        for start in range(0, len(block), PIECE):
            for modality, rows in bank.items():
                yield modality, np.exp(SHARPNESS * (similarities(rows, block[start : start + PIECE]) - 1))


def similarities(bank: Floats, candidates: Floats) -> Doubles:
    """Return (N, C) cosines in float64."""
    cosines: Doubles = bank.astype(np.float64) @ candidates.astype(np.float64).T
    return cosines


def biases(mode: str, candidates: Floats, bank: Bank, weights: Mapping[str, Doubles]) -> Floats:
    """Return (C, 3): the bias of each candidate (C, D) for queries of each modality."""
    by_query = np.zeros((len(candidates), len(MODALITIES)), np.float32)
    for start in range(0, len(candidates), PIECE):
        some = slice(start, start + PIECE)
        for column, modality in enumerate(MODALITIES):
            scores = similarities(bank[modality], candidates[some])
            by_query[some, column] = BIASES[mode](scores, weights[modality])
    return by_query


def with_biases(candidates: Floats, by_query: Floats) -> Floats:
    """Return (C, D + 4) unit vectors of candidates (C, D) with biases (C, 3) in [-1, 1]."""
    rest = np.sqrt(np.maximum(len(MODALITIES) - (by_query**2).sum(1, keepdims=True), 0))
    return (np.concatenate([candidates, -by_query, rest], 1) / 2).astype(np.float32)


def as_queries(queries: Floats, modalities: NDArray[np.int8]) -> Floats:
    """Return (Q, D + 4) unit vectors of queries (Q, D) of some modalities (Q,)."""
    chosen = np.zeros((len(queries), len(MODALITIES) + 1), np.float32)
    chosen[np.arange(len(queries)), modalities] = 1
    return (np.concatenate([queries, chosen], 1) / 2**0.5).astype(np.float32)


def bank_path(calibration: Path) -> Path:
    """Return where the bank of a file of statistics lies."""
    return calibration.with_suffix(".npz")


def write_bank(path: Path, bank: Bank) -> None:
    """Write the vectors by modality."""
    np.savez(path, **bank)  # type: ignore[arg-type]


def read_bank(path: Path, modes: Iterable[str]) -> Bank | None:
    """Read the bank of a file of statistics, None where no mode needs it.

    Raises:
        UserError: there is none, or it is broken.
    """
    needed = [mode for mode in modes if mode in BIASES]
    if not needed:
        return None
    if not bank_path(path).exists():
        raise UserError(
            f"calibration {', '.join(needed)} compares with training queries, and {bank_path(path)} does not exist; "
            f"run `gcl calibrate --bank 1024`"
        )
    with made_by("calibrate", bank_path(path)), np.load(bank_path(path)) as file:
        return {m: file[m] for m in MODALITIES}
