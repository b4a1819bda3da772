"""Heads of several seeds as one vector, with what the towers and the training pairs add: nothing is trained.

    shared       the unit outputs of every seed's head, one after the other, minus the training mean of the modality,
                 made unit
    private      the tower's own features minus their training mean, made unit: each modality has a place of its own
                 where others have zeros, unless one encoder reads all
    as a text    an image has the mean of what the captions of its nearest training images have as `shared`, made
                 unit; others their own `shared`
    as an image  the same the other way round

Training pulls image and text together and loses what tells images from images and texts from texts, which the private
part brings back; the other two let an image be found by captions like those of images like it. Nearest is by private
features; the mean weighs its neighbours by softmax(sharpness * cosine), and an item that is in the bank itself is no
neighbour of its own. With `textual` an image's own `shared` is mixed with what it has as a text, or replaced by it
(Vision-Free Retrieval, arXiv 2509.19203, with retrieved captions). All parts times their weights, divided by the
length, are a unit vector; an item of two towers' image and text is their sum. With `width` it is projected on principal
directions and made unit again.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from gcl.config.recipes import Combine
from gcl.models.base import Keys
from gcl.train.heads.frozen import Features
from gcl.train.heads.head import apply_folded

State = dict[str, Tensor]
T = TypeVar("T")
OTHER = {"image": "text", "text": "image"}
SAME = 0.999  # cosine of private features from which an item of the bank is taken for the item itself


def shared_outputs(keys: Keys, states: Sequence[Mapping[str, Tensor]], features: Tensor) -> Tensor:
    """Return (B, S D): the unit outputs of S heads for features (B, F), one after the other."""
    return torch.cat([normalize(apply_folded(keys, dict(state), features), dim=1) for state in states], 1)


def training_features(data: Features) -> dict[str, Tensor]:
    """Return by modality the features of the training pairs, each with its full caption."""
    features = {"image": data.images[: len(data.image_ids)], "text": data.text[data.text_rows[:, 0]]}
    return features if data.fused is None else features | {"image_text": data.fused[data.fused_rows[:, 0]]}


def combine(data: Features, keys: Mapping[str, Keys], states: Sequence[State], how: Combine) -> State:
    """Return the tensors of a combined model: the heads by seed, training means, the bank and the projection.

    Args:
        data: features of the training pairs.
        keys: of the heads, by modality.
        states: the heads of each seed.
        how: weights and sizes.
    """
    features = training_features(data)
    state = {f"{n}.{name}": tensor for n, heads in enumerate(states) for name, tensor in heads.items()}
    for modality, x in features.items():
        state[f"{modality}.shared"] = shared_outputs(keys[modality], states, x).mean(0)
        state[f"{modality}.private"] = x.mean(0)
    if how.expand or how.textual:
        count = len(features["image"])
        rows = torch.linspace(0, count - 1, min(how.bank, count)).round().long()
        for modality, other in OTHER.items():
            values = shared_part(keys[other], state, other, features[other][rows])
            state |= stored(f"{modality}.bank", private_part(state, modality, features[modality][rows]), how.bank_bits)
            state |= stored(f"{modality}.values", values, how.bank_bits)
    if how.width:
        whole = torch.cat([joined_parts(keys[m], state, m, x, how) for m, x in features.items()])
        state["project"] = principal_directions(whole, how.width)
    return state


def seeds_of(state: Mapping[str, T]) -> list[dict[str, T]]:
    """Return the heads of each seed in a combined state."""
    count = 1 + max(int(name.partition(".")[0]) for name in state if name[0].isdigit())
    return [
        {name.partition(".")[2]: tensor for name, tensor in state.items() if name.startswith(f"{n}.")}
        for n in range(count)
    ]


def stored(name: str, rows: Tensor, bits: int) -> State:
    """Return (N, D) as it is kept: whole, as float16, or as int8 with a scale for each row."""
    if bits == 32:
        return {name: rows}
    if bits == 16:
        return {name: rows.half()}
    scale = rows.abs().amax(1) / 127
    return {name: (rows / scale[:, None]).round().to(torch.int8), f"{name}_scale": scale}


def read_back(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return what `stored` kept, as float32."""
    rows = state[name].float()
    return rows * state[f"{name}_scale"][:, None] if f"{name}_scale" in state else rows


def private_place(state: Mapping[str, Tensor], modality: str) -> tuple[int, int]:
    """Return how many zeros stand before and behind the private part: the place of the other tower's."""
    if "image_text.private" in state:  # one encoder, whose features are the same space for all
        return 0, 0
    return (0, len(state["text.private"])) if modality == "image" else (len(state["image.private"]), 0)


def shared_part(keys: Keys, state: Mapping[str, Tensor], modality: str, features: Tensor) -> Tensor:
    """Return (B, S D), unit."""
    return normalize(shared_outputs(keys, seeds_of(state), features) - state[f"{modality}.shared"], dim=1)


def private_part(state: Mapping[str, Tensor], modality: str, features: Tensor) -> Tensor:
    """Return (B, F), unit."""
    return normalize(features - state[f"{modality}.private"], dim=1)


def expansion(state: Mapping[str, Tensor], modality: str, private: Tensor, how: Combine) -> Tensor:
    """Return (B, S D), unit: the mean of what the nearest pairs of the bank have in the other modality."""
    cosines = private @ read_back(state, f"{modality}.bank").T
    near, rows = cosines.masked_fill(cosines > SAME, -1).topk(min(how.neighbours, cosines.shape[1]), 1)
    weights = torch.softmax(how.sharpness * near, 1)
    return normalize((weights[:, None] @ read_back(state, f"{modality}.values")[rows])[:, 0], dim=1)


def joined_parts(keys: Keys, state: Mapping[str, Tensor], modality: str, features: Tensor, how: Combine) -> Tensor:
    """Return the (B, D) unit vectors before any projection."""
    shared, private = shared_part(keys, state, modality, features), private_part(state, modality, features)
    other = shared
    if modality in OTHER and (how.expand or how.textual):
        other = expansion(state, modality, private, how)
    if modality == "image" and how.textual:
        shared = normalize((1 - how.textual) * shared + how.textual * other, dim=1)
    parts = [shared]
    if how.expand:
        parts += [how.expand * (other if modality == to else shared) for to in OTHER]
    if how.private:
        parts.append(how.private * pad(private, private_place(state, modality)))
    return torch.cat(parts, 1) / (1 + 2 * how.expand**2 + how.private**2) ** 0.5


def principal_directions(vectors: Tensor, width: int) -> Tensor:
    """Return (D, width): the directions on which the squared length of (N, D) vectors is largest, in float32."""
    exact = vectors.double()
    directions = torch.linalg.eigh(exact.T @ exact).eigenvectors.flip(1)[:, :width]
    largest = directions.abs().argmax(0)  # a direction and its opposite are the same; take one of them always
    return (directions * directions[largest, torch.arange(directions.shape[1])].sign()).float().contiguous()


def apply_combined(keys: Keys, state: Mapping[str, Tensor], modality: str, features: Tensor, how: Combine) -> Tensor:
    """Return the (B, D) unit vectors of a modality: what ONNX is compared with."""
    whole = joined_parts(keys, state, modality, features, how)
    return normalize(whole @ state["project"], dim=1) if how.width else whole
