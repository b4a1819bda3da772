"""Value and gradient of a GCL loss from tiles of logits, in memory that grows with N, not with its square.

With logits s_am[j,k] = e_a^j . e_m^k / t:

1. Sums. Tile by tile, R_am[j] = log sum_(k != j) exp(s_am[j,k]) for the pairs of modalities that the loss asks
   for. Since s_am[j,k] = s_ma[k,j], the rows and the columns of one tile give R_am and R_ma.
2. Denominators. By every rule, Z is a sum over modalities m: exp(R_am[j]) where other samples' columns are in it,
   and exp(s_am[j,j]), in float64, where the row's own are. So
   log Z, the loss and the gradient at the own columns are algebra on arrays of length N; and with
   C_am[j] = log( sum of w_ab / Z_ab[j] over the directions a > b whose denominator has m's columns ).
3. Gradient. Tile by tile once more, dL/ds at both places of the symmetric matrix is
   exp(s_am[j,k]) * (exp(C_am[j]) + exp(C_ma[k])), and the vectors of each side get its product with the other's.

If image+text vectors are combinations of the other two (score fusion), their logits are those combinations too:
the products are of 2N vectors, not of 3N, and no gradient at image+text vectors is needed.

exp() is taken of logits less one constant; a sum so small that terms may have vanished (possible below t = 0.0125)
sends all tiles through the slower form that shifts every row by its own.

The order of sums is that of Inf-CL (arXiv 2410.17243) and flash attention; the symmetry and the combination are ours.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TILES = {"cpu": 512, "cuda": 2048}  # samples of a tile of Mixed; on a CPU what it needs stays in the second-level cache
LEAST = -60.0  # log of the least sum that the constant shift may leave: what vanished is then below 1e-8 of it

Blocks = dict[tuple[int, int], Tensor]  # (a, m) -> (J, K) logits, or what became of them


class Tile(NamedTuple):
    """Which logits are looked at together."""

    rows: slice  # samples j
    columns: slice  # samples k
    blocks: tuple[tuple[int, int], ...]  # modalities (a, m) of row and column
    is_square: bool  # its row vectors are its column vectors, so that its columns say nothing new


class LogitSource(Protocol):
    """Where logits come from and their gradients go."""

    gradient: Tensor

    def tiles(self) -> Iterator[Tile]:
        """Yield tiles that have every pair of vectors that the loss looks at once."""

    def logits(self, tile: Tile) -> Blocks:
        """Return logits, in memory that the next tile overwrites."""

    def spread(self, tile: Tile, by_logit: Blocks) -> None:
        """Add what dL/ds / t gives to the gradient."""


class Grid:
    """Samples cut into tiles, of which only those count that touch the rows whose loss is asked for."""

    def __init__(self, n: int, rows: slice, size: int) -> None:
        self.n, self.size = n, min(n, size)
        self.parts = [slice(start, min(start + self.size, n)) for start in range(0, n, self.size)]
        self.row_parts = [part for part in self.parts if part.start < rows.stop and part.stop > rows.start]

    def all(self) -> Iterator[tuple[slice, slice]]:
        """Yield all rows with all columns."""
        for j in self.parts:
            for k in self.parts if j in self.row_parts else self.row_parts:
                yield j, k

    def upper(self) -> Iterator[tuple[slice, slice]]:
        """Yield each unordered pair once."""
        return ((j, k) for j, k in self.all() if j.start <= k.start)


def tile_size(device: torch.device, is_mixed: bool) -> int:
    """Return the samples of a tile; one of Free has one block, one of Mixed nine."""
    return TILES.get(device.type, TILES["cpu"]) * (1 if is_mixed else 2)


class Free:
    """Three modalities with vectors of their own."""

    def __init__(self, vectors: Tensor, pairs: set[tuple[int, int]], grid: Grid, temperature: float) -> None:
        """Take (3, N, D) vectors and the unordered pairs of modalities a <= m that the loss looks at."""
        self.vectors, self.pairs, self.grid, self.temperature = vectors, sorted(pairs), grid, temperature
        self.gradient = torch.zeros_like(vectors)
        self.memory = vectors.new_empty(grid.size, grid.size)

    def tiles(self) -> Iterator[Tile]:
        """See LogitSource."""
        for a, m in self.pairs:
            for j, k in self.grid.upper() if a == m else self.grid.all():
                yield Tile(j, k, ((a, m),), a == m and j == k)

    def logits(self, tile: Tile) -> Blocks:
        """See LogitSource."""
        (a, m) = tile.blocks[0]
        rows, columns = self.vectors[a, tile.rows], self.vectors[m, tile.columns]
        tile_logits = self.memory[: len(rows), : len(columns)]
        torch.addmm(tile_logits, rows, columns.T, beta=0, alpha=1 / self.temperature, out=tile_logits)
        return {(a, m): tile_logits}

    def spread(self, tile: Tile, by_logit: Blocks) -> None:
        """See LogitSource."""
        for (a, m), weights in by_logit.items():
            self.gradient[a, tile.rows].addmm_(weights, self.vectors[m, tile.columns])
            if not tile.is_square:
                self.gradient[m, tile.columns].addmm_(weights.T, self.vectors[a, tile.rows])


class Mixed:
    """Image and text vectors, and image+text vectors that are e_it = mix_0 e_i + mix_1 e_t."""

    def __init__(self, vectors: Tensor, mix: Tensor, grid: Grid, temperature: float) -> None:
        """Take (2, N, D) vectors and the (2, N) mix."""
        self.vectors, self.mix, self.grid, self.temperature = vectors, mix.to(vectors.dtype), grid, temperature
        self.gradient = torch.zeros_like(vectors)
        self.at_mix = torch.zeros_like(mix)  # float64
        c = grid.size
        self.gram, self.weights = vectors.new_empty(4 * c * c), vectors.new_empty(4 * c * c)
        self.memory = vectors.new_empty(10, c, c)

    def tiles(self) -> Iterator[Tile]:
        """See LogitSource."""
        blocks = tuple((a, m) for a in range(3) for m in range(3))
        for j, k in self.grid.upper():
            yield Tile(j, k, blocks, j == k)

    def logits(self, tile: Tile) -> Blocks:
        """See LogitSource."""
        gram = self.products(tile)
        blocks: Blocks = {}
        rows, columns = self.mix[:, tile.rows, None], self.mix[:, None, tile.columns]
        memory = self.memory[:, : rows.shape[1], : columns.shape[2]]
        for m in range(2):
            for a in range(2):
                blocks[a, m] = memory[3 * a + m].copy_(gram[a, :, m])
            blocks[2, m] = torch.mul(gram[0, :, m], rows[0], out=memory[6 + m]).addcmul_(gram[1, :, m], rows[1])
        for a in range(3):
            blocks[a, 2] = torch.mul(blocks[a, 0], columns[0], out=memory[3 * a + 2]).addcmul_(blocks[a, 1], columns[1])
        return blocks

    def products(self, tile: Tile) -> Tensor:
        """Compute the logits (2, J, 2, K) of images and texts, which `spread` needs too."""
        rows, columns = self.vectors[:, tile.rows], self.vectors[:, tile.columns]
        shape = (2 * rows.shape[1], 2 * columns.shape[1])
        self.found = self.gram[: shape[0] * shape[1]].view(shape)
        torch.addmm(
            self.found, rows.flatten(0, 1), columns.flatten(0, 1).T, beta=0, alpha=1 / self.temperature, out=self.found
        )
        return self.found.view(2, -1, 2, columns.shape[1])

    def spread(self, tile: Tile, by_logit: Blocks) -> None:
        """See LogitSource; with M = [[1, 0], [0, 1], [mix_0, mix_1]], dL/dgram = M_j' dL/ds M_k."""
        mix_j, mix_k = self.mix[:, tile.rows, None], self.mix[:, None, tile.columns]
        gram = self.found.view(2, mix_j.shape[1], 2, mix_k.shape[2])
        if not tile.is_square:
            self.mix_of_columns(tile, gram, by_logit, mix_j)
        for a in range(3):
            for m in range(2):
                by_logit[a, m].addcmul_(by_logit[a, 2], mix_k[m])
        spare = self.memory[9, : mix_j.shape[1], : mix_k.shape[2]]
        for b in range(2):
            for m in range(2):
                self.at_mix[b, tile.rows] += torch.mul(by_logit[2, m], gram[b, :, m], out=spare).sum(1)
        weights = self.weights[: self.found.numel()].view_as(self.found)
        blocks = weights.view_as(gram)
        for a in range(2):
            for m in range(2):
                torch.addcmul(by_logit[a, m], by_logit[2, m], mix_j[a], out=blocks[a, :, m])
        rows, columns = self.vectors[:, tile.rows], self.vectors[:, tile.columns]
        self.gradient[:, tile.rows] += (weights @ columns.flatten(0, 1)).view_as(rows)
        if not tile.is_square:
            self.gradient[:, tile.columns] += (weights.T @ rows.flatten(0, 1)).view_as(columns)

    def mix_of_columns(self, tile: Tile, gram: Tensor, by_logit: Blocks, mix_j: Tensor) -> None:
        """Add to the gradient at the mix of the columns' samples."""
        whole = self.memory[9, : gram.shape[1], : gram.shape[3]]
        for a in range(2):
            folded = torch.addcmul(by_logit[a, 2], by_logit[2, 2], mix_j[a])
            for b in range(2):
                self.at_mix[b, tile.columns] += torch.mul(folded, gram[a, :, b], out=whole).sum(0)


class Hidden:
    """Samples that are no negatives of each other: a sample and itself, and the masked pairs."""

    def __init__(self, masked: Tensor | None, grid: Grid, device: torch.device) -> None:
        """Sort pairs (2, P), each in one of its two orders, by tile."""
        own = torch.arange(grid.n, device=device).expand(2, -1)
        both = own if masked is None else torch.cat([own, masked, masked.flip(0)], 1)
        tiles = both // grid.size
        codes, order = (tiles[0] * len(grid.parts) + tiles[1]).sort()
        self.at = (both - tiles * grid.size)[:, order]
        tile_codes, counts = codes.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0).tolist()
        self.ranges = dict(zip(tile_codes.tolist(), zip([0, *ends], ends, strict=False), strict=True))
        self.grid = grid

    def fill(self, tile: Tile, blocks: Blocks, value: float) -> None:
        """Write a value at the hidden places of blocks."""
        size = self.grid.size
        code = tile.rows.start // size * len(self.grid.parts) + tile.columns.start // size
        if code in self.ranges:
            j, k = self.at[:, slice(*self.ranges[code])]
            for block in blocks.values():
                block[j, k] = value


def exponentials(vectors: LogitSource, hidden: Hidden, shift: float) -> Iterator[tuple[Tile, Blocks]]:
    """Yield exp(logits - shift), 0 where hidden."""
    for tile in vectors.tiles():
        blocks = vectors.logits(tile)
        for block in blocks.values():
            if shift:
                block.sub_(shift)
            block.exp_()
        hidden.fill(tile, blocks, 0)
        yield tile, blocks


def log_sums(source: Iterable[tuple[Tile, Blocks]], n: int, device: torch.device, shift: float) -> Tensor:
    """Return R (3, 3, N) float64 of step 1 from the exponentials, -inf where nothing is summed."""
    sums = torch.zeros(3, 3, n, dtype=torch.float64, device=device)
    for tile, blocks in source:
        for (a, m), block in blocks.items():
            sums[a, m, tile.rows] += block.sum(1)
            if not tile.is_square:
                sums[m, a, tile.columns] += block.sum(0)
    return sums.log_().add_(shift)


def add_gradient(
    vectors: LogitSource, source: Iterable[tuple[Tile, Blocks]], log_weights: Tensor, shift: float
) -> None:
    """Do step 3 from the exponentials, given C (3, 3, N) float64, -inf where a row asks for nothing."""
    weights = (log_weights + shift).exp().to(vectors.gradient.dtype)
    for tile, blocks in source:
        for (a, m), block in blocks.items():
            block.mul_(weights[a, m, tile.rows, None] + weights[m, a, tile.columns])
        vectors.spread(tile, blocks)


def shifted_log_sums(vectors: LogitSource, hidden: Hidden, n: int) -> Tensor:
    """Do step 1 with a shift for each row."""
    sums = torch.full((3, 3, n), -torch.inf, dtype=torch.float64, device=vectors.gradient.device)
    for tile in vectors.tiles():
        blocks = vectors.logits(tile)
        hidden.fill(tile, blocks, -torch.inf)
        for (a, m), block in blocks.items():
            sums[a, m, tile.rows] = sums[a, m, tile.rows].logaddexp(block.logsumexp(1).double())
            if not tile.is_square:
                sums[m, a, tile.columns] = sums[m, a, tile.columns].logaddexp(block.logsumexp(0).double())
    return sums


def add_shifted_gradient(vectors: LogitSource, hidden: Hidden, log_weights: Tensor) -> None:
    """Do step 3 with a shift for each row and column."""
    weights = log_weights.to(vectors.gradient.dtype)
    for tile in vectors.tiles():
        blocks = vectors.logits(tile)
        for (a, m), block in blocks.items():
            by_row, by_column = block + weights[a, m, tile.rows, None], block + weights[m, a, tile.columns]
            block.copy_(by_row.exp_() + by_column.exp_())
        hidden.fill(tile, blocks, 0)
        vectors.spread(tile, blocks)


def constant_shift(n: int, temperature: float, dtype: torch.dtype) -> float:
    """Return what logits of unit vectors are reduced by so that sums of their exponentials don't overflow."""
    return max(0.0, 1 / temperature + 1 + math.log(n) - math.log(torch.finfo(dtype).max))


def sums_are_safe(sums: Tensor, pairs: set[tuple[int, int]], rows: slice, shift: float) -> bool:
    """Tell whether no sum of the rows lost terms that matter, see LEAST."""
    return all(bool((sums[a, m, rows] >= shift + LEAST).all()) for a, m in pairs)
