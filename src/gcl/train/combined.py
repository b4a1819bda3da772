"""Heads of several seeds as one vector, with the frozen features beside it: nothing is trained.

    shared    the unit outputs of every seed's head, one after the other, minus the training mean of the modality, made
              unit
    private   the tower's own features minus their training mean, made unit, times a weight: images have theirs, texts
              theirs, each in a place where the other has zeros

Training pulls image and text together and loses what tells images from images and texts from texts; the private part
brings it back. Both parts have the same length in every item, so the vector is unit, and an item of both is the sum.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.models.base import Keys
from gcl.train.frozen import Features
from gcl.train.head import apply_folded

State = dict[str, Tensor]
T = TypeVar("T")


def shared_outputs(keys: Keys, states: Sequence[Mapping[str, Tensor]], features: Tensor) -> Tensor:
    """Return (B, S D): the unit outputs of S heads for features (B, F), one after the other."""
    return torch.cat([normalize(apply_folded(keys, dict(state), features), dim=1) for state in states], 1)


def training_features(data: Features) -> dict[str, Tensor]:
    """Return by modality the features of the training pairs, each with its full caption."""
    found = {"image": data.images[: len(data.image_ids)], "text": data.text[data.text_rows[:, 0]]}
    return found if data.fused is None else found | {"image_text": data.fused[data.fused_rows[:, 0]]}


def combine(data: Features, keys: Mapping[str, Keys], states: Sequence[State], private: float) -> State:
    """Return the tensors of a combined model: the heads by seed, and the training means.

    Args:
        data: features of the training pairs.
        keys: of the heads, by modality.
        states: the heads of each seed.
        private: weight of the frozen features.

    Raises:
        UserError: private features of a backbone with one encoder, where the modalities share them.
    """
    if private and data.fused is not None:
        raise UserError(
            "combine: private is for two towers; one encoder's features are the same space for all: set it to 0"
        )
    means = {}
    for modality, features in training_features(data).items():
        means[f"{modality}.shared"] = shared_outputs(keys[modality], states, features).mean(0)
        means[f"{modality}.private"] = features.mean(0)
    return {f"{n}.{name}": tensor for n, state in enumerate(states) for name, tensor in state.items()} | means


def seeds_of(state: Mapping[str, T]) -> list[dict[str, T]]:
    """Return the heads of each seed in a combined state."""
    count = 1 + max(int(name.partition(".")[0]) for name in state if name[0].isdigit())
    return [
        {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith(f"{n}.")}
        for n in range(count)
    ]


def apply_combined(keys: Keys, state: Mapping[str, Tensor], modality: str, features: Tensor, private: float) -> Tensor:
    """Return the (B, D) unit vectors of a modality: what ONNX is compared with."""
    shared = shared_outputs(keys, seeds_of(state), features) - state[f"{modality}.shared"]
    parts = [normalize(shared, dim=1)]
    if private:
        own = private * normalize(features - state[f"{modality}.private"], dim=1)
        for name in ("image", "text"):
            width = len(state[f"{name}.private"])
            parts.append(own if name == modality else torch.zeros(len(features), width))
    return torch.cat(parts, 1) / (1 + private**2) ** 0.5
