"""A recurrent cell in the place of heads: it reads the layers of one tower or of both, standardised.

The standardisation is folded into the adapters of the layers when the cell is stored, as a head's is into its first
layer.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gcl.common.arrays import MODALITIES
from gcl.common.errors import UserError

SIDES = {"image": ("image",), "text": ("text",), "image_text": ("image", "text")}


def split(features: Tensor, modality: str, image_width: int) -> dict[str, Tensor]:
    """Return the features of the sides that a modality has, the image's before the text's."""
    if modality != "image_text":
        return {modality: features}
    return {"image": features[:, :image_width], "text": features[:, image_width:]}


class View:
    """What a modality's features go through: like a head of its own."""

    def __init__(self, owner: "CellHead", modality: str) -> None:
        """Take the cell of all modalities."""
        self.owner, self.modality = owner, modality

    def standardise(self, features: Tensor) -> Tensor:
        """Return what a call takes; done once for all training features."""
        sides = SIDES[self.modality]
        mean = torch.cat([self.owner.get_buffer(f"{side}_mean") for side in sides])
        deviation = torch.cat([self.owner.get_buffer(f"{side}_deviation") for side in sides])
        return (features - mean) / deviation

    def __call__(self, standard: Tensor) -> Tensor:
        """Return raw outputs (B, D) of standardised features."""
        outputs: Tensor = self.owner.cell(split(standard, self.modality, len(self.owner.get_buffer("image_mean"))))
        return outputs


class CellHead(nn.Module):
    """A cell with the standardisation of both towers' layers."""

    def __init__(self, cell: Any, images: Tensor, text: Tensor) -> None:
        """Take mean and deviation from training features, (P, F) and (P, G)."""
        super().__init__()
        self.cell = cell
        for side, features in (("image", images), ("text", text)):
            deviation = features.std(0)
            self.register_buffer(f"{side}_deviation", deviation + 1e-3 * deviation.mean())
            self.register_buffer(f"{side}_mean", features.mean(0))

    def views(self) -> dict[str, View]:
        """Return a view by modality."""
        return {modality: View(self, modality) for modality in MODALITIES}

    def scales(self, side: str) -> list[tuple[Tensor, Tensor]]:
        """Return mean and deviation of every layer of a side, in doubles."""
        widths = self.cell.widths[side]
        parts = (self.get_buffer(f"{side}_{name}").double().split(widths) for name in ("mean", "deviation"))
        return [*zip(*parts, strict=True)]

    def folded(self, width: int | None = None) -> dict[str, Tensor]:
        """Return the weights that act on plain features; of the outputs the first so many."""
        state = {name: tensor.detach().clone() for name, tensor in self.cell.state_dict().items()}
        for side in ("image", "text"):
            for number, (mean, deviation) in enumerate(self.scales(side)):
                weight = state[f"{side}.{number}.weight"].double() / deviation
                state[f"{side}.{number}.weight"] = weight.float()
                state[f"{side}.{number}.bias"] = (state[f"{side}.{number}.bias"].double() - weight @ mean).float()
        state["project.weight"] = state["project.weight"][:width]
        return {f"head.{name}": tensor.contiguous() for name, tensor in state.items()}

    def unfold(self, stored: Mapping[str, Tensor]) -> None:
        """Set the weights from what `folded` returned.

        Raises:
            UserError: they are of another cell.
        """
        state = {name.removeprefix("head."): tensor.clone() for name, tensor in stored.items()}
        try:
            for side in ("image", "text"):
                for number, (mean, deviation) in enumerate(self.scales(side)):
                    weight = state[f"{side}.{number}.weight"].double()
                    state[f"{side}.{number}.weight"] = (weight * deviation).float()
                    state[f"{side}.{number}.bias"] = (state[f"{side}.{number}.bias"].double() + weight @ mean).float()
            self.cell.load_state_dict(state)
        except (RuntimeError, KeyError) as error:
            raise UserError(f"checkpoint of another backbone? {error}") from error


def stored_cell(cell: Any, stored: Mapping[str, Tensor]) -> Any:
    """Return a fresh cell with stored weights, cut as they are: what ONNX is compared with."""
    state = {name.removeprefix("head."): tensor for name, tensor in stored.items()}
    cell.project = nn.Linear(cell.project.in_features, len(state["project.weight"]), bias=False)
    cell.load_state_dict(state)
    return cell.eval()


class OfModality(nn.Module):
    """A cell on features of one modality, as it is exported."""

    def __init__(self, cell: Any, modality: str) -> None:
        """Take a stored cell."""
        super().__init__()
        self.cell, self.modality = cell, modality

    def forward(self, x: Tensor) -> Tensor:
        """Return raw outputs (B, D) of features (B, F)."""
        outputs: Tensor = self.cell(split(x, self.modality, sum(self.cell.widths["image"])))
        return outputs
