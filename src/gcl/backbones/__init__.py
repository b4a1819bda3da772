"""Backbone families: how a row of backbones.yaml becomes torch modules."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gcl.backbones import timm_hf
from gcl.config import Backbone

if TYPE_CHECKING:
    from torch import nn


class Family(NamedTuple):
    """What export and full training need to know of a model."""

    build: Callable[[Backbone, Path], "nn.Module"]  # with the public weights of its towers
    towers: Callable[["nn.Module"], dict[str, "nn.Module"]]  # modality -> module without its head
    encoders: Callable[["nn.Module"], dict[str, "nn.Module"]]  # modality -> module with its head


FAMILIES = {"timm_hf": Family(timm_hf.build, timm_hf.towers, timm_hf.encoders)}
