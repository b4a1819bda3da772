"""Train projection heads on features of frozen towers that were computed once per view."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.backbones.timm_hf import HEAD_KEYS
from gcl.config import Recipe
from gcl.heads import Head, apply_folded
from gcl.losses import duplicates, gcl_loss
from gcl.progress import progress
from gcl.records import read_pairs
from gcl.schedule import learning_rate, weight_groups

PARITY_ROWS = 32


class Features(NamedTuple):
    """Tower outputs of the training pairs."""

    images: Tensor  # (2 P, F) float32, the pairs' images and then the same mirrored
    text: Tensor  # (T, G) of distinct texts
    image_ids: Tensor  # (P,) equal for equal images
    text_rows: Tensor  # (P, V) rows of `text`, the full caption first; short lists repeat their first
    views: Tensor  # (P,) how many of them are distinct


def read_features(pairs: Path, features: Path) -> Features:
    """Read tower outputs of a prepared folder of pairs."""
    prepared = read_pairs(pairs)
    image, flipped, text = (
        torch.from_numpy(np.load(features / f"{n}.npy")) for n in ("image", "image_flipped", "text")
    )
    rows = torch.from_numpy(prepared.image_rows.copy())
    if int(rows.max()) >= len(image):
        raise ValueError(f"{features} has {len(image)} images, the pairs name row {int(rows.max())}; run `infer` again")
    widest = max(map(len, prepared.text_rows))
    texts = torch.tensor([row + row[:1] * (widest - len(row)) for row in prepared.text_rows])
    views = torch.tensor([len(row) for row in prepared.text_rows])
    return Features(torch.cat([image[rows], flipped[rows]]), text, rows, texts, views)


class Batch(NamedTuple):
    """One step's features and content ids."""

    image: Tensor
    text: Tensor
    image_ids: Tensor
    text_ids: Tensor


def batches(data: Features, recipe: Recipe, generator: torch.Generator) -> Iterator[Batch]:
    """Yield one epoch of shuffled batches; each pair draws one of its captions and may be mirrored.

    The last pairs that don't fill a batch wait for another epoch's order.
    """
    n, size = len(data.image_ids), recipe.batch_size
    order = torch.randperm(n, generator=generator)
    for start in range(0, n - size + 1, size):
        rows = order[start : start + size]
        mirrored = torch.rand(size, generator=generator) < (0.5 if recipe.flip else 0.0)
        draw = torch.rand(size, generator=generator)
        texts = data.text_rows[rows, (draw * data.views[rows]).long()]
        yield Batch(data.images[rows + n * mirrored], data.text[texts], data.image_ids[rows], texts)


def triplet(image: Tensor, text: Tensor, fusion: str) -> dict[str, Tensor]:
    """Return unit vectors of the three modalities from raw outputs (N, D)."""
    i, t = normalize(image, dim=1), normalize(text, dim=1)
    fused = normalize(image + text if fusion == "sum_raw" else i + t, dim=1)
    return {"image": i, "text": t, "image_text": fused}


def train_heads(
    data: Features, recipe: Recipe, fusion: str, embedding: int, seed: int, start: dict[str, Tensor] | None, name: str
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train one seed.

    Args:
        data: Features of the pairs.
        recipe: How.
        fusion: sum_raw or sum_unit.
        embedding: Width D of the joint space.
        seed: Of the weights, the order and dropout.
        start: Stored heads to continue, or None for fresh ones.
        name: For the progress line.

    Returns:
        Stored heads by open_clip's names, and the curve: step, epoch, loss, learning_rate, duplicates.

    Raises:
        ValueError: fewer pairs than one batch, or the loss is no longer finite.
    """
    steps_per_epoch = len(data.image_ids) // recipe.batch_size
    if steps_per_epoch == 0:
        raise ValueError(f"{len(data.image_ids)} pairs don't fill one batch of {recipe.batch_size}; lower batch_size")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    full = data.text[data.text_rows[:, 0]]
    heads = {
        "image": Head("image", data.images[: len(data.image_ids)], embedding, recipe.dropout),
        "text": Head("text", full, embedding, recipe.dropout),
    }
    data = data._replace(
        images=heads["image"].standardise(data.images),
        text=heads["text"].standardise(data.text),
    )
    if start is not None:
        for head in heads.values():
            head.unfold(start)
    groups = weight_groups((p for head in heads.values() for p in head.parameters()), recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    total = min(recipe.epochs * steps_per_epoch, recipe.max_steps or 10**9)
    curve: list[dict[str, float]] = []
    stream = (batch for _ in range(recipe.epochs) for batch in batches(data, recipe, generator))
    for step, batch in enumerate(
        progress((b for _, b in zip(range(total), stream, strict=False)), name, "step", total)
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, recipe)
        same = duplicates(batch.image_ids, batch.text_ids)
        unit = triplet(heads["image"](batch.image), heads["text"](batch.text), fusion)
        rule = recipe.loss
        loss = gcl_loss(
            unit, rule.directions, rule.denominator, rule.temperature, same if rule.mask_duplicates else None
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        value = loss.item()
        if not np.isfinite(value):
            raise ValueError(f"{name}: loss is {value} at step {step}; lower learning_rate or raise the temperature")
        rate = optimizer.param_groups[0]["lr"]
        curve.append(
            {
                "step": step,
                "epoch": step // steps_per_epoch,
                "loss": value,
                "learning_rate": rate,
                "duplicates": int(same.sum()) // 2,
            }
        )
    return {k: v for head in heads.values() for k, v in head.folded().items()}, curve


def parity_sample(data: Features, state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return features and torch's outputs for them, the reference of the ONNX export."""
    sample = {"image": data.images[:PARITY_ROWS], "text": data.text[:PARITY_ROWS]}
    outputs = {f"{m}_outputs": apply_folded(m, state, sample[m]).numpy() for m in HEAD_KEYS}
    return {f"{m}_features": sample[m].numpy() for m in HEAD_KEYS} | outputs
