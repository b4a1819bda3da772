"""GCL's loss against CLIP's, value and gradient: time, memory and error.

    python benchmarks/loss.py [--sizes 4096 16384]

The peer is open_clip's ClipLoss with autograd, which sees 2 of the 9 blocks of logits; "naive" is GCL by autograd on
the 3N x 3N logits. Errors are against the formula in float64: of the value (relative, below 1 absolute) and of the
gradient as a whole (relative).
"""

import itertools
import json

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.arrays import MODALITIES
from gcl.losses.denominators import RULES
from gcl.losses.gcl import gcl_loss
from measure import arguments, growth, growth_alone, in_turns, options, table, write

WIDTH = 512
SIX = {f"{a}>{b}": 1.0 for a, b in itertools.permutations(MODALITIES, 2)}
NAIVE_UP_TO = 4096  # its logits grow as 36 N^2 bytes, several times over
ROWS = 1024  # samples whose float64 logits are held at a time


def batch(n: int, spread: float) -> Tensor:
    """Return (2, N, D) unit vectors; texts are images plus noise of that size, as after some training."""
    generator = torch.Generator().manual_seed(n)
    image, noise = (normalize(torch.randn(n, WIDTH, generator=generator), dim=1) for _ in range(2))
    return torch.stack([image, normalize(image + spread * noise, dim=1)]).to(options.device)


def mix_of(vectors: Tensor) -> Tensor:
    """Return the mix of the normalised sum."""
    return 1 / (vectors[0].double() + vectors[1].double()).norm(dim=1).expand(2, -1)


def fused(vectors: Tensor, mix: Tensor) -> Tensor:
    """Return (3, N, D) with the sums."""
    mixed = mix.to(vectors.dtype)
    return torch.cat([vectors, (mixed[0, :, None] * vectors[0] + mixed[1, :, None] * vectors[1])[None]])


def literal(stacked: Tensor, rule: str, t: float, rows: slice) -> Tensor:
    """Return the part of some samples of the loss with six directions, by autograd on all their logits."""
    n = stacked.shape[1]
    own = torch.arange(n, device=stacked.device)[rows]
    total = stacked.new_zeros(())
    for a in range(3):
        logits = torch.einsum("jd,mkd->jmk", stacked[a, rows], stacked) / t
        for b in range(3):
            if a == b:
                continue
            hidden = torch.zeros(logits.shape, dtype=torch.bool, device=own.device)
            for m in range(3):
                if (rule == "cross_only" and m == a) or (rule == "target_only" and m != b):
                    hidden[:, m] = True
                elif (rule == "no_self" and m == a) or (rule == "no_self_no_copositive" and m != b):
                    hidden[own - own[0], m, own] = True
            shown = logits.masked_fill(hidden, -torch.inf).flatten(1)
            total = total + (shown.logsumexp(1) - logits[own - own[0], b, own]).sum()
    return total / (6 * n)


def errors(n: int, rule: str, t: float, spread: float) -> tuple[float, float]:
    """Return the relative errors of value and gradient."""
    vectors = batch(n, spread)
    mix = mix_of(vectors)
    found_at, exact_at = vectors.clone().requires_grad_(), vectors.double().requires_grad_()
    ours = gcl_loss(found_at, SIX, rule, t, None, None, mix)
    ours.backward()
    value = 0.0
    for start in range(0, n, ROWS):
        part = literal(fused(exact_at, mix), rule, t, slice(start, start + ROWS))
        part.backward()
        value += part.item()
    at = exact_at.grad
    return abs(ours.item() - value) / max(value, 1.0), ((found_at.grad.double() - at).norm() / at.norm()).item()


def works(n: int) -> dict[str, object]:
    """Return what is timed: each computes value and gradient."""
    vectors = batch(n, 3.0)
    mix = mix_of(vectors)
    pair, triple = vectors.requires_grad_(), fused(vectors, mix).detach().requires_grad_()
    clip, scale = ClipLoss(), torch.tensor(1 / 0.07, device=vectors.device)

    def run(leaf: Tensor, loss) -> None:
        leaf.grad = None
        loss().backward()

    runs = {"clip": lambda: run(pair, lambda: clip(pair[0], pair[1], scale))}
    for rule in RULES if n <= NAIVE_UP_TO else ["no_self"]:
        runs[rule] = lambda r=rule: run(pair, lambda: gcl_loss(pair, SIX, r, 0.07, None, None, mix))
    runs["no_self, native"] = lambda: run(triple, lambda: gcl_loss(triple, SIX, "no_self", 0.07))
    if n <= NAIVE_UP_TO:
        runs["naive no_self"] = lambda: run(triple, lambda: literal(triple, "no_self", 0.07, slice(None)))
    return runs


def main() -> None:
    """Run from the command line."""
    given = arguments(__doc__, repeats=5, sizes=[4096, 16384], errors=2048, memory="")
    if given.memory:
        name, n = given.memory.split(":")
        print(growth(works(int(n))[name]))
        return
    tables, values = [], {}
    peak = json.loads((given.results / f"machine{'_cuda' if given.device == 'cuda' else ''}.json").read_text())[
        "peaks"
    ]["float32"]
    for n in given.sizes:
        times = in_turns(works(n), given.repeats if n <= NAIVE_UP_TO else 3)
        rows = []
        for name, seconds in times.items():
            mb = growth_alone(__file__, f"{name}:{n}")
            # Multiplications and additions of the products that the method needs, with what symmetry saves.
            blocks = {"clip": 6, "naive no_self": 27, "no_self, native": 18}.get(name, 8)
            rate = 2 * blocks * n * n * WIDTH / seconds.median / 1e12
            leaf = (3 if "native" in name or "naive" in name else 2) * n * WIDTH * 4 / 2**20
            rows.append(
                [
                    name,
                    seconds.shown(),
                    seconds.over(times["clip"]),
                    f"{rate / peak:.0%}",
                    f"{mb:.0f}",
                    f"{mb - leaf:.0f}",
                ]
            )
            values[f"{name}:{n}"] = {"seconds": seconds.seconds, "megabytes": mb}
        columns = [
            "loss",
            "time",
            "times CLIP's",
            "of the fp32 peak",
            "MB beyond the vectors",
            "of that, beyond their gradient",
        ]
        tables.append(table(f"N = {n}, D = {WIDTH}, value and gradient; t = 0.07", columns, rows))
    rows = []
    for t, spread in itertools.product((0.07, 0.01), (100.0, 3.0)):
        for rule in RULES:
            value, gradient = errors(given.errors, rule, t, spread)
            rows.append(
                [given.errors, rule, t, "random" if spread > 10 else "trained", f"{value:.1e}", f"{gradient:.1e}"]
            )
    for n in given.sizes:
        value, gradient = errors(n, "no_self", 0.07, 3.0)
        rows.append([n, "no_self", 0.07, "trained", f"{value:.1e}", f"{gradient:.1e}"])
    tables.append(
        table("Relative errors against float64", ["N", "denominator", "t", "vectors", "value", "gradient"], rows)
    )
    write("loss", "The loss", tables, values=values)


if __name__ == "__main__":
    main()
