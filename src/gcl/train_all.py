"""Train all weights of a backbone on images and texts, the paper's setting."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gcl.backbones import FAMILIES
from gcl.config import Backbone, Recipe
from gcl.images import load
from gcl.losses import duplicates, gcl_loss
from gcl.progress import progress
from gcl.records import read_pairs, read_parquet
from gcl.registry import lookup
from gcl.schedule import learning_rate, weight_groups
from gcl.texts import load_tokenizer, to_ids
from gcl.train_heads import triplet


def freeze_statistics(model: nn.Module) -> None:
    """Keep batch norm at the statistics of pretraining: those of a small batch are noise."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def draws(
    n: int, views: list[list[int]], recipe: Recipe, seed: int
) -> Iterator[tuple[list[int], list[int], list[bool]]]:
    """Yield rows, text rows and mirroring of each batch, epoch after epoch."""
    generator = np.random.default_rng(seed)
    for _ in range(recipe.epochs):
        order = generator.permutation(n)
        for start in range(0, n - recipe.batch_size + 1, recipe.batch_size):
            rows = order[start : start + recipe.batch_size].tolist()
            texts = [views[r][generator.integers(len(views[r]))] for r in rows]
            yield rows, texts, (generator.random(len(rows)) < (0.5 if recipe.flip else 0.0)).tolist()


def choose_device(name: str) -> torch.device:
    """Turn auto, cuda or cpu into a device; cuda without a GPU is an error."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda was asked for, but there is no CUDA device; set `device: auto` or `device: cpu`")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def train_all(
    backbone: Backbone,
    data: Path,
    pairs: Path,
    recipe: Recipe,
    seed: int,
    start: dict[str, Tensor] | None,
    name: str,
    device_name: str,
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Train one seed; return the model's state dict and the curve.

    Raises:
        ValueError: fewer pairs than one batch, no such device, an unreadable image, or a loss that is no longer finite.
    """
    prepared = read_pairs(pairs)
    locations = read_parquet(pairs / "images.parquet")["location"].to_pylist()
    texts = read_parquet(pairs / "texts.parquet")["text"].to_pylist()
    per_epoch = len(prepared.image_rows) // recipe.batch_size
    if per_epoch == 0:
        raise ValueError(
            f"{len(prepared.image_rows)} pairs don't fill one batch of {recipe.batch_size}; lower batch_size"
        )
    torch.manual_seed(seed)
    device = choose_device(device_name)
    family = lookup(FAMILIES, backbone.family, "backbone family", "src/gcl/backbones/__init__.py")
    model = family.build(backbone, data)
    if start is not None:
        model.load_state_dict(start, strict=len(start) > 8)  # a checkpoint of heads holds only theirs
    model.to(device).train()
    freeze_statistics(model)
    encode = family.encoders(model)
    tokenizer = load_tokenizer(data / backbone.tokenizer, backbone.context)
    optimizer = torch.optim.AdamW(weight_groups(model.parameters(), recipe.weight_decay), lr=recipe.learning_rate)
    total = min(recipe.epochs * per_epoch, recipe.max_steps or 10**9)
    stream = draws(len(prepared.image_rows), prepared.text_rows, recipe, seed)
    curve: list[dict[str, float]] = []
    for step, (rows, text_rows, mirrored) in enumerate(
        progress((d for _, d in zip(range(total), stream, strict=False)), name, "step", total)
    ):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, recipe)
        images = [load(locations[prepared.image_rows[r]], backbone.preprocess) for r in rows]
        pixels = torch.from_numpy(np.stack([i[:, :, ::-1] if m else i for i, m in zip(images, mirrored, strict=True)]))
        ids = torch.from_numpy(to_ids(tokenizer, [texts[t] for t in text_rows]))
        unit = triplet(
            encode["image"](pixels.to(device)).float(), encode["text"](ids.to(device)).float(), backbone.fusion
        )
        same = duplicates(torch.from_numpy(prepared.image_rows[rows]), torch.tensor(text_rows))
        rule = recipe.loss
        # The loss is small next to the towers; on the CPU its masks need no device of their own.
        unit = {m: v.cpu() for m, v in unit.items()}
        loss = gcl_loss(
            unit, rule.directions, rule.denominator, rule.temperature, same if rule.mask_duplicates else None
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not np.isfinite(value := loss.item()):
            raise ValueError(f"{name}: loss is {value} at step {step}; lower learning_rate or raise the temperature")
        rate = optimizer.param_groups[0]["lr"]
        curve.append(
            {
                "step": step,
                "epoch": step // per_epoch,
                "loss": value,
                "learning_rate": rate,
                "duplicates": int(same.sum()) // 2,
            }
        )
    return {k: v.detach().cpu().clone() for k, v in copy.copy(model.state_dict()).items()}, curve
