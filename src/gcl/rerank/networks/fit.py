"""What `fit_joint` does with torch: a network that reads query and candidate together is trained on lists, exported.

A step takes some queries of one task, for each a relevant candidate of its list and others that are not; the loss is
minus the log of the softmax's share of the relevant one. The last fifth of the queries takes no part: on their lists it
is chosen how much of what is read counts beside the first stage's score, perhaps nothing.
"""

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gcl.common.arrays import Ints
from gcl.common.errors import UserError
from gcl.common.progress import progress
from gcl.data.prepared import PreparedBenchmark
from gcl.export.export import compare
from gcl.export.graphs import export_module
from gcl.infer.session import open_session
from gcl.models import Graph
from gcl.rerank.fit_reranker import relevance_of
from gcl.rerank.joint import Contents
from gcl.rerank.lists import ADAPTER, JOINT, Lists, RankedLists
from gcl.rerank.networks.adapter import Adapter
from gcl.rerank.networks.joint import Joint, Side

STEPS, DECAY, CLIP = 120, 1e-2, 1.0
QUERIES, CANDIDATES = 8, 6  # of a step, and of each of its queries
WARMUP = 10  # steps
HELD_OUT = 5  # of so many queries one, the last of them
Network = Joint | Adapter
NETWORKS: dict[str, type[Network]] = {JOINT: Joint, ADAPTER: Adapter}
SHARES = (0.0, 0.25, 0.5, 1.0)  # of what is read


class Trained(NamedTuple):
    """The lists of one ranking, and which of their pairs are relevant."""

    lists: RankedLists
    relevant: np.ndarray  # (n,) bool
    useful: Ints  # queries with a relevant candidate and others that aren't
    held_out: Ints  # such queries that take no part


def useful_lists(bench: PreparedBenchmark, run_file: Path, seed: int, k: int) -> list[Trained]:
    """Return what a seed's lists can teach.

    Raises:
        UserError: nothing: no list has a relevant candidate and another.
    """
    trained = []
    for lists in Lists(bench, k).of_run(run_file, seed):
        relevant = relevance_of(lists, bench)
        own = [relevant[start:stop] for start, stop in pairwise(lists.starts.tolist())]
        useful = np.array([i for i, flags in enumerate(own) if flags.any() and not flags.all()], np.int64)
        is_out = useful >= len(own) - max(1, len(own) // HELD_OUT)  # queries of one subject stand together
        if not is_out.all():
            trained.append(Trained(lists, relevant, useful[~is_out], useful[is_out]))
    if not trained:
        raise UserError(f"{run_file}: no list has a relevant candidate and others: nothing can be learned")
    return trained


def drawn(lists: Trained, generator: np.random.Generator) -> Ints:
    """Return (QUERIES, CANDIDATES) places of pairs, a relevant one first; a short list repeats its others."""
    chosen = generator.choice(lists.useful, QUERIES, replace=len(lists.useful) < QUERIES)
    starts, rows = lists.lists.starts, []
    for start, stop in zip(starts[chosen], starts[chosen + 1], strict=True):
        places, flags = np.arange(start, stop), lists.relevant[start:stop]
        others = places[~flags]
        some = generator.choice(others, CANDIDATES - 1, replace=len(others) < CANDIDATES - 1)
        rows.append([generator.choice(places[flags]), *some])
    return np.array(rows)


def sides(model: Network, lists: RankedLists, places: Ints, contents: Contents) -> tuple[Side, Side]:
    """Return both sides of some pairs; an image is compressed once for all of them."""
    both = [contents.side(items, places) for items in (lists.queries, lists.candidates)]
    rows = [np.maximum(items.images[places], 0) for items in (lists.queries, lists.candidates)]
    used, where = np.unique(np.concatenate(rows), return_inverse=True)
    images = model.compress(torch.from_numpy(contents.images[used]))[torch.from_numpy(where)]
    parts = images.split(len(places))
    query, candidate = (
        Side(image, torch.from_numpy(has), torch.from_numpy(ids))
        for image, (_, has, ids) in zip(parts, both, strict=True)
    )
    return query, candidate


def train_joint(model: Network, useful: list[Trained], contents: Contents, seed: int) -> None:
    """Train the network in place.

    Raises:
        UserError: a loss that is no longer finite.
    """
    torch.set_num_threads(1)  # the result doesn't depend on how many cores there are
    torch.set_flush_denormal(True)
    generator = np.random.default_rng(seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=model.rate, weight_decay=DECAY)
    model.train()
    for step in progress(range(STEPS), f"train joint re-ranker seed {seed}", "step"):
        optimizer.param_groups[0]["lr"] = model.rate * min(1, (step + 1) / WARMUP) * (1 - step / STEPS)
        lists = useful[generator.integers(len(useful))]
        places = drawn(lists, generator)
        first = torch.from_numpy(lists.lists.scores[places])
        scores = model.weight * first + model(*sides(model, lists.lists, places.ravel(), contents)).view(first.shape)
        loss: Tensor = (scores.logsumexp(1) - scores[:, 0]).mean()
        if not torch.isfinite(loss):
            raise UserError(f"the loss of the re-ranker is {loss.item()} at step {step}; are the scores finite?")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, CLIP)
        optimizer.step()
    model.eval()


class Compress(nn.Module):
    """The part that runs once for an image."""

    def __init__(self, model: Network) -> None:
        """Take the whole network."""
        super().__init__()
        self.model = model

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Return (B, TOKENS, W)."""
        return self.model.compress(image_tokens)


class Read(nn.Module):
    """The part that runs for every pair."""

    def __init__(self, model: Network) -> None:
        """Take the whole network."""
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, has: Tensor, ids: Tensor, image_2: Tensor, has_2: Tensor, ids_2: Tensor) -> Tensor:
        """Return (B,) of a query and a candidate."""
        scores: Tensor = self.model(Side(image, has, ids), Side(image_2, has_2, ids_2))
        return scores


def graphs_of(model: Network, contents: Contents) -> dict[str, Graph]:
    """Return both graphs, with examples of pairs that lack parts."""
    tokens = torch.from_numpy(contents.images[np.arange(3) % len(contents.images)])
    with torch.inference_mode():
        image = model.compress(tokens).clone()
    has, pad = torch.tensor([1.0, 0.0, 1.0]), model.pad
    texts = {"query": [[7, 8, 9, 10], [7, 8, 9, pad], [pad] * 4], "candidate": [[7, 8, 9], [pad] * 3, [7, pad, pad]]}
    inputs: dict[str, Tensor] = {}
    free: dict[str, tuple[str, ...]] = {}
    for side, ids in texts.items():
        inputs |= {f"{side}_image": image.clone(), f"{side}_has_image": has.clone(), f"{side}_ids": torch.tensor(ids)}
        free |= dict.fromkeys((f"{side}_image", f"{side}_has_image"), ("batch",))
        free[f"{side}_ids"] = "batch", f"{side}_words"
    return {
        "compress": Graph(Compress(model), {"image_tokens": tokens}, {"image_tokens": ("batch",)}),
        "joint": Graph(Read(model), inputs, free),
    }


def chosen_share(model: Network, useful: list[Trained], contents: Contents) -> float:
    """Return the share of what is read with which the lists that were held out lose least; the least on a tie."""
    losses = dict.fromkeys(SHARES, 0.0)
    for trained in useful:
        starts = trained.lists.starts
        for query in trained.held_out.tolist():
            places = np.arange(starts[query], starts[query + 1])
            with torch.inference_mode():
                read = model(*sides(model, trained.lists, places, contents))
                first = model.weight * torch.from_numpy(trained.lists.scores[places])
                good = torch.from_numpy(trained.relevant[places])
                for share in SHARES:
                    scores = first + share * read
                    losses[share] += (scores.logsumexp(0) - scores[good].logsumexp(0)).item()
    return min(SHARES, key=lambda share: losses[share])


def export_joint(model: Network, contents: Contents, folder: Path) -> dict[str, dict[str, float]]:
    """Write both graphs; return how far they are from torch."""
    parity = {}
    for name, graph in graphs_of(model, contents).items():
        export_module(graph, folder / f"{name}.onnx")
        with torch.inference_mode():
            expected = graph.module(*graph.inputs.values()).numpy()
        session = open_session(folder / f"{name}.onnx", "cpu", 1)
        outputs = session.run(None, {key: value.numpy() for key, value in graph.inputs.items()})[0]
        one, other = (x.reshape(len(x), -1) for x in (expected, outputs))
        parity[name] = compare(one, other, f"{name}.onnx")
    return parity
