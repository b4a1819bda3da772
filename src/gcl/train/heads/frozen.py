"""Train projection heads on features of frozen towers that were computed once per view."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gcl.common.arrays import read_array
from gcl.common.errors import UserError
from gcl.common.progress import progress
from gcl.config.recipes import Recipe
from gcl.data.records import fused_keys, read_pairs, to_codes
from gcl.losses.gcl import duplicates
from gcl.models.base import Keys
from gcl.train.heads.composed import Composed, composed_batch_loss
from gcl.train.heads.distilled import Taught, taught_loss
from gcl.train.heads.head import Head
from gcl.train.heads.recurrent import CellHead, View
from gcl.train.optimizer import Curve, Steps
from gcl.train.recipe_loss import needs_fused, recipe_loss, triplet

PARITY_ROWS = 32
MakeCell = Callable[[int, int], nn.Module]  # of the widths of both towers' features
More = TypeVar("More", Composed | None, Taught | None)


class Features(NamedTuple):
    """Tower outputs of the training pairs."""

    images: Tensor  # (2 P, F) float32, the pairs' images and then the same mirrored
    text: Tensor  # (T, G) of distinct texts
    fused: Tensor | None  # (K, F) of image and text together, never mirrored, where fusion is native
    image_ids: Tensor  # (P,) equal for equal images
    text_rows: Tensor  # (P, V) rows of `text`, the full caption first; short lists repeat their first
    fused_rows: Tensor  # (P, V) rows of `fused`
    views: Tensor  # (P,) how many of them are distinct
    sentences: Tensor | None  # (T, S) unit features of the texts by a sentence encoder, for loss.separation
    composed: Composed | None = None  # for recipe.triplets
    taught: Taught | None = None  # for recipe.distil


def read_features(pairs: Path, features: Path, sentences: Path | None) -> Features:
    """Read tower outputs of a prepared folder of pairs."""
    prepared = read_pairs(pairs)

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.array(read_array(features / f"{name}.npy")))

    image, flipped = read("image"), read("image_flipped")
    rows = torch.from_numpy(prepared.image_rows.copy())
    if int(rows.max()) >= len(image):
        raise UserError(f"{features} has {len(image)} images, the pairs name row {int(rows.max())}; run `infer` again")
    widest = max(map(len, prepared.text_rows))
    padded = [row + row[:1] * (widest - len(row)) for row in prepared.text_rows]
    codes = to_codes(*fused_keys(pairs).T)
    together = np.searchsorted(codes, to_codes(prepared.image_rows[:, None], np.array(padded)))
    fused = read("image_text") if (features / "image_text.npy").exists() else None
    return Features(
        torch.cat([image[rows], flipped[rows]]),
        read("text"),
        fused,
        rows,
        torch.tensor(padded),
        torch.from_numpy(together),
        torch.tensor([len(row) for row in prepared.text_rows]),
        None if sentences is None else normalize(torch.from_numpy(np.array(read_array(sentences / "text.npy"))), dim=1),
    )


class Batch(NamedTuple):
    """One step's features by modality, and content ids."""

    features: dict[str, Tensor]
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
        view = (draw * data.views[rows]).long()
        texts = data.text_rows[rows, view]
        features = {"image": data.images[rows + n * mirrored], "text": data.text[texts]}
        if data.fused is not None:
            features["image_text"] = data.fused[data.fused_rows[rows, view]]
        yield Batch(features, data.image_ids[rows], texts)


class Made(NamedTuple):
    """Fresh heads by modality, the modules whose weights train, and the features as the heads take them."""

    by_modality: Mapping[str, Head | View]
    modules: list[Head] | list[CellHead]
    data: Features


def standardised(data: Features, kind: Mapping[str, Keys] | MakeCell, embedding: int, dropout: float) -> Made:
    """Make the heads, by their keys, or the cell that takes their place."""
    full = data.text[data.text_rows[:, 0]]
    plain = data.images[: len(data.image_ids)]
    by_modality: Mapping[str, Head | View]
    modules: list[Head] | list[CellHead]
    if not isinstance(kind, Mapping):
        whole = CellHead(kind(plain.shape[1], full.shape[1]), plain, full)
        by_modality, modules = whole.views(), [whole]
    elif data.fused is None:
        heads = {
            kind["image"]: Head(kind["image"], plain, embedding, dropout),
            kind["text"]: Head(kind["text"], full, embedding, dropout),
        }
        by_modality, modules = {modality: heads[key] for modality, key in kind.items()}, [*heads.values()]
    else:  # one head after an encoder that reads all three
        one = Head(kind["image"], torch.cat([plain, full]), embedding, dropout)
        by_modality, modules = dict.fromkeys(kind, one), [one]

    def scaled(more: More) -> More:
        """Return further outputs of the same towers as the heads take them."""
        if more is None:
            return more
        image, text = by_modality["image"], by_modality["text"]
        return more._replace(images=image.standardise(more.images), text=text.standardise(more.text))

    fused = None if data.fused is None else by_modality["image_text"].standardise(data.fused)
    images, text = by_modality["image"].standardise(data.images), by_modality["text"].standardise(data.text)
    standard = data._replace(images=images, text=text, fused=fused)
    return Made(by_modality, modules, standard._replace(composed=scaled(data.composed), taught=scaled(data.taught)))


def other_losses(
    data: Features,
    recipe: Recipe,
    heads: Mapping[str, Head | View],
    fusion: str,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Return the losses of what a recipe trains on beside the pairs, a batch of each."""
    loss = torch.zeros(())
    if (triplets := recipe.triplets) is not None and data.composed is not None:
        batch = data.composed.batch(recipe.batch_size, generator)
        loss = loss + triplets.weight * composed_batch_loss(batch, heads, fusion, triplets.slerp, temperature)
    if (distil := recipe.distil) is not None and data.taught is not None:
        loss = loss + distil.weight * taught_loss(data.taught.batch(generator), heads, fusion, temperature)
    return loss


def train_heads(
    data: Features,
    recipe: Recipe,
    kind: Mapping[str, Keys] | MakeCell,
    fusion: str,
    embedding: int,
    seed: int,
    start: dict[str, Tensor] | None,
    name: str,
    late: int = 1,
) -> tuple[dict[str, Tensor], Curve]:
    """Train the heads of one seed; return their tensors and the curve.

    Raises:
        UserError: fewer pairs than one batch, a width that a head has not, or a loss that is no longer finite.
    """
    per_epoch = len(data.image_ids) // recipe.batch_size
    if per_epoch == 0:
        raise UserError(f"{len(data.image_ids)} pairs don't fill one batch of {recipe.batch_size}; lower batch_size")
    if odd := [w for w in (*recipe.loss.widths, recipe.width or 1) if w >= embedding]:
        raise UserError(f"{name}: width {odd[0]}: expected less than the {embedding} outputs that a head has")
    for option, wanted, there in (
        ("triplets", recipe.triplets, data.composed),
        ("taught", recipe.distil, data.taught),
    ):
        if wanted is not None and (there is None or fusion == "native"):
            raise UserError(f"{name}: the recipe needs --{option}, and a fusion that is a sum; fusion is {fusion}")
    torch.manual_seed(seed)
    generator, more = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    by_modality, heads, data = standardised(data, kind, embedding, recipe.dropout)
    if start is not None:
        for head in heads:
            head.unfold(start)
    steps = Steps((p for head in heads for p in head.parameters()), recipe, per_epoch, name)
    temperature = recipe.loss.temperature
    if temperature == "learned":
        raise UserError(f"{name}: heads have no logit scale to learn; give a temperature")
    # A head draws its dropout for all three; a cell has none, and reads both sides only where the loss asks for them.
    spared = () if isinstance(kind, Mapping) or needs_fused(recipe.loss) else ("image_text",)
    stream = (batch for _ in range(recipe.epochs) for batch in batches(data, recipe, generator))
    for _, batch in zip(progress(range(steps.total), name, "step"), stream, strict=False):
        steps.begin()
        same = duplicates(batch.image_ids, batch.text_ids)
        outputs = {m: by_modality[m](x) for m, x in batch.features.items() if m not in spared}
        sentences = data.sentences[batch.text_ids] if data.sentences is not None and recipe.loss.separation else None
        loss = torch.zeros(())
        for width in (embedding, *recipe.loss.widths):  # Matryoshka representation learning, arXiv 2205.13147
            unit = triplet({m: x[:, :width] for m, x in outputs.items()}, fusion)
            loss = loss + recipe_loss(unit, recipe.loss, temperature, same, sentences, late=late)
        loss = loss / (1 + len(recipe.loss.widths))
        loss = loss + other_losses(data, recipe, by_modality, fusion, temperature, more)
        loss.backward()
        steps.end(loss.item(), same.shape[1])
    return {k: v for head in heads for k, v in head.folded(recipe.width).items()}, steps.curve


def parity_sample(
    data: Features, modalities: Iterable[str], outputs_of: Callable[[str, Tensor], Tensor]
) -> dict[str, np.ndarray]:
    """Return features and torch's outputs for them (of a modality and features), the reference of the ONNX export."""
    features = {"image": data.images, "text": data.text, "image_text": data.fused}
    sample = {m: x[:PARITY_ROWS] for m in modalities if (x := features[m]) is not None}
    outputs = {f"{m}_outputs": outputs_of(m, x).numpy() for m, x in sample.items()}
    return {f"{m}_features": x.numpy() for m, x in sample.items()} | outputs
