"""Losses that were tried for the combined vector (ramp), on the two validation splits: which of them adds to it.

    python benchmarks/losses_tried.py

Heads of clip_lite are trained on from `pretrained`, 30 epochs, three seeds; `config/emoji.yaml` must have been run.
Each loss is written out on N x N matrices by autograd, since most are no members of the family.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

from gcl.common.rows import load_yaml
from gcl.config.project import Project, load
from gcl.config.recipes import Combine
from gcl.data.prepared import PreparedBenchmark, read_benchmark
from gcl.infer.infer import infer_items
from gcl.infer.store import Outputs
from gcl.losses.gcl import duplicates
from gcl.models import family
from gcl.models.weights.checkpoints import read_checkpoint
from gcl.prepare.prepare import prepare_benchmark
from gcl.retrieve.calibration import fit
from gcl.retrieve.item_vectors import ModelOutputs
from gcl.retrieve.task_ranker import Ranker
from gcl.train.heads.combined import apply_combined, combine, private_part, training_features
from gcl.train.heads.frozen import Features, read_features, standardised
from gcl.train.optimizer import Steps
from measure import arguments, table, write

RESULTS, SEEDS, T = Path("results/emoji"), (0, 1, 2), 0.05
KEYS = family("timm_hf").heads or {}
HOWS = {"joint": Combine(), "private": Combine(private=2), "ramp": Combine(private=2, expand=0.7)}
SPLITS = ("clipart9_validation", "emoji9_validation")
GONE = -1e9
Views = dict[str, Tensor]  # modality -> (N, D) unit vectors


def contrast(own: Tensor, columns: list[Tensor]) -> Tensor:
    """Return the cross-entropy of (N, 1) logits of positives against themselves and (N, M) logits of others."""
    return (torch.logsumexp(torch.cat([own, *columns], 1), 1) - own[:, 0]).mean()


def entropy(row: Tensor, positive: Tensor, columns: list[Tensor], masked: Tensor, t: float = T) -> Tensor:
    """Return the cross-entropy of positives against themselves and the unmasked of each of the columns."""
    own = (row * positive).sum(1, keepdim=True) / t
    return contrast(own, [(row @ x.T / t).masked_fill(masked, GONE) for x in columns])


def both(a: Views, columns: Callable[[str], list[Tensor]], masked: Tensor) -> Tensor:
    """Return image to text and text to image, each with its columns."""
    return entropy(a["image"], a["text"], columns("image"), masked) + entropy(
        a["text"], a["image"], columns("text"), masked
    )


def cl(a: Views, b: Views, masked: Tensor, frozen: Views) -> Tensor:
    """Contrast images and texts."""
    return both(a, lambda m: [a["text" if m == "image" else "image"]], masked)


def gte(a: Views, b: Views, masked: Tensor, frozen: Views) -> Tensor:
    """Contrast with images and texts alike (arXiv 2308.03281)."""
    return both(a, lambda m: [a["image"], a["text"]], masked)


def six(a: Views, b: Views, masked: Tensor, weakest: float | None = None) -> Tensor:
    """GCL without the co-positive; negatives above the row's weaker positive, by a margin, may be left out."""
    total = torch.zeros(())
    for row in a:
        others = [m for m in a if m != row]
        least = torch.stack([(a[row] * a[m]).sum(1) for m in others]).amin(0).detach()
        for target in others:
            own = (a[row] * a[target]).sum(1, keepdim=True) / T
            columns = []
            for x in a.values():
                cosines = a[row] @ x.T
                out = masked if weakest is None else masked | (cosines > least[:, None] + weakest)
                columns.append((cosines / T).masked_fill(out, GONE))
            total = total + contrast(own, columns)
    return total / 3


def puma(a: Views, b: Views, masked: Tensor, t: float) -> Tensor:
    """Contrast within a modality at a temperature of its own (arXiv 2507.08064)."""
    total = torch.zeros(())
    for row, target in (("image", "text"), ("text", "image")):
        own = (a[row] * a[target]).sum(1, keepdim=True) / T
        columns = [(a[row] @ x.T / u).masked_fill(masked, GONE) for x, u in ((a[target], T), (a[row], t))]
        total = total + contrast(own, columns)
    return total


def nine(a: Views, b: Views, masked: Tensor, frozen: Views) -> Tensor:
    """Contrast every modality of one view with every one of another: mirrored images, other captions."""
    return sum((entropy(a[q], b[c], list(b.values()), masked) for q in a for c in b), torch.zeros(())) * 2 / 9


def views(a: Views, b: Views, masked: Tensor, frozen: Views) -> Tensor:
    """CL over two views, and half as much of each modality's two views."""
    within = sum((entropy(a[m], b[m], [b[m]], masked) for m in ("image", "text")), torch.zeros(()))
    across = entropy(a["image"], b["text"], [b["text"]], masked) + entropy(a["text"], b["image"], [b["image"]], masked)
    return across + 0.5 * within


def keeps_frozen(a: Views, masked: Tensor, frozen: Views, weight: float) -> Tensor:
    """CL that keeps the similarities within each modality near those of the frozen features."""
    total = cl(a, a, masked, frozen)
    own = torch.eye(len(masked), dtype=torch.bool)
    for m, x in frozen.items():
        actual, wanted = ((v @ v.T / 0.1).masked_fill(own, GONE) for v in (a[m], x))
        total = total + weight * kl_div(log_softmax(actual, 1), softmax(wanted, 1), reduction="batchmean")
    return total


def atp_cu(a: Views, masked: Tensor, frozen: Views) -> Tensor:
    """CL, true pairs drawn together and the middles of pairs apart."""
    middle = normalize(a["image"] + a["text"], dim=1)
    squares = (2 - 2 * middle @ middle.T)[torch.triu(torch.ones_like(masked), 1)]
    gap = (a["image"] - a["text"]).pow(2).sum(1).mean() + torch.exp(-2 * squares).mean().log()
    return cl(a, a, masked, frozen) + 0.5 * gap


LOSSES: dict[str, Callable[[Views, Views, Tensor, Views], Tensor]] = {
    "CL": cl,
    "GCL, no co-positive": lambda a, b, masked, frozen: six(a, b, masked),
    "GTE": gte,
    "GCL, negatives below the weaker positive": lambda a, b, masked, frozen: six(a, b, masked, 0.0),
    "the same, and 0.1 above": lambda a, b, masked, frozen: six(a, b, masked, 0.1),
    "PUMA, 0.1 within a modality": lambda a, b, masked, frozen: puma(a, b, masked, 0.1),
    "PUMA, 0.2 within a modality": lambda a, b, masked, frozen: puma(a, b, masked, 0.2),
    "nine directions over two views": nine,
    "CL and two views of a modality": views,
    "CL, frozen similarities kept": lambda a, b, masked, frozen: keeps_frozen(a, masked, frozen, 1),
    "CL, true pairs and centroids": lambda a, b, masked, frozen: atp_cu(a, masked, frozen),
}


@cache
def project() -> Project:
    """Read the registries."""
    return load(load_yaml(Path("config/config.yaml")))


def train(loss: Callable[..., Tensor], data: Features, frozen: Views, seed: int) -> dict[str, Tensor]:
    """Train the heads of one seed."""
    recipe = project().recipes["cl_t05"]
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    heads, _, data = standardised(data, dict(KEYS), 256, recipe.dropout)
    for head in heads.values():
        head.unfold(read_checkpoint(RESULTS / f"checkpoints/clip_lite/pretrained/seed{seed}", "clip_lite"))
    n, size = len(data.image_ids), recipe.batch_size
    steps = Steps((p for head in heads.values() for p in head.parameters()), recipe, n // size, "losses")
    for _ in range(recipe.epochs):
        order = torch.randperm(n, generator=draw)
        for rows in order[: n // size * size].split(size):
            steps.begin()
            both, masked = [], torch.eye(size, dtype=torch.bool)
            for _ in range(2):
                mirrored = torch.rand(size, generator=draw) < 0.5
                texts = data.text_rows[rows, (torch.rand(size, generator=draw) * data.views[rows]).long()]
                inputs = {"image": data.images[rows + n * mirrored], "text": data.text[texts]}
                units = {m: normalize(heads[m](x), dim=1) for m, x in inputs.items()}
                both.append(units | {"image_text": normalize(units["image"] + units["text"], dim=1)})
                first, second = duplicates(data.image_ids[rows], texts)
                masked[first, second] = masked[second, first] = True
            value = loss(*both, masked, {m: x[rows] for m, x in frozen.items()})
            value.backward()
            steps.end(value.item(), 0)
    return {k: v for head in heads.values() for k, v in head.folded().items()}


def hits(bench: PreparedBenchmark, ranker: Ranker) -> tuple[float, float]:
    """Return Success@10 of the global and the local pools, in percent."""
    shares: dict[str, list[float]] = {"global": [], "local": []}
    for task in bench.tasks:
        relevant = [bench.qrels[task.name][query] for query in bench.queries(task)]
        for pool, values in shares.items():
            ids = bench.pool_ids(task, pool).to_pylist()
            ranked = ranker.rank(task, pool, "center_zscore", 10)
            good = [any(ids[row] in own for row in rows) for rows, own in zip(ranked.rows, relevant, strict=True)]
            values.append(100 * float(np.mean(good)))
    return tuple(float(np.mean(values)) for values in shares.values())  # type: ignore[return-value]


def scored(states: list, data: Features, how: Combine, benches: dict) -> list[str]:
    """Return global / local of each validation split."""
    state, cells = combine(data, KEYS, states, how), []
    pairs = {m: apply_combined(KEYS[m], state, m, x, how).numpy() for m, x in training_features(data).items()}
    stats = fit(pairs["image"], pairs["text"], "sum_raw")
    for bench, features in benches.values():
        image, text = (apply_combined(KEYS[m], state, m, features[m], how).numpy() for m in ("image", "text"))
        source = ModelOutputs(Outputs(image, text), np.empty(0, np.int64), "sum_raw")
        cells.append("{:.1f} / {:.1f}".format(*hits(bench, Ranker(bench, source, stats, "cpu"))))
    return cells


def validation(name: str, folder: Path) -> tuple[PreparedBenchmark, Views]:
    """Prepare and embed a split by the frozen towers."""
    row = project().benchmarks[name]
    data = Path("data") / row.dataset
    prepare_benchmark(data, data, row, None, 2, folder / name)
    infer_items(RESULTS / "onnx/clip_lite/towers", folder / name, "cpu", 0, folder / f"{name}.out")
    outputs = folder / f"{name}.out"
    return read_benchmark(folder / name), {
        m: torch.from_numpy(np.load(outputs / f"{m}.npy")) for m in ("image", "text")
    }


def main() -> None:
    """Train and score."""
    given = arguments(__doc__, only="")
    data = read_features(RESULTS / "prepared/openclipart", RESULTS / "embeddings/clip_lite/towers/openclipart", None)
    rows = []
    with TemporaryDirectory() as folder:
        benches = {name: validation(name, Path(folder)) for name in SPLITS}
        start = [read_checkpoint(RESULTS / f"checkpoints/clip_lite/pretrained/seed{s}", "clip_lite") for s in SEEDS]
        means = combine(data, KEYS, start, Combine())
        frozen = {m: private_part(means, m, x) for m, x in training_features(data).items()}
        for name, loss in LOSSES.items():
            if given.only not in name:
                continue
            states = [train(loss, data, frozen, seed) for seed in SEEDS]
            rows.append([name, *(cell for how in HOWS.values() for cell in scored(states, data, how, benches))])
            print(rows[-1], flush=True)
    columns = ["loss", *(f"{split}, {how}" for how in HOWS for split in SPLITS)]
    caption = "Success@10, global / local, center_zscore; three seeds' heads as one vector, and what stands beside it"
    write("losses_tried", "Losses tried for the combined vector", [table(caption, columns, rows)])


if __name__ == "__main__":
    main()
