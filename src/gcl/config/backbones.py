"""What a row of backbones.yaml may say."""

from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from gcl.common.rows import STRICT, Count


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Preprocess:
    """How an image becomes (3, size, size) float32."""

    size: Count  # pixels
    resize: Literal["squash", "shortest_crop"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Backbone:
    """A model that embeds images, texts and both."""

    family: str  # a key of backbones.FAMILIES
    model: str | None = None  # open_clip's name of it: a built-in config, local-dir:FOLDER or hf-hub:ORG/NAME
    pretrained: str | None = None  # with a built-in config: open_clip's tag, which it downloads itself, unpinned
    model_cfg: dict[str, Any] = field(default_factory=dict)  # open_clip's model config, or VISTA's
    weights: dict[str, str] = field(default_factory=dict)  # part of the model -> "dataset/path" of its file
    fusion: Literal["sum_raw", "sum_unit", "native"]
    late: Count = 1  # vectors of an item, each compared with each of a candidate's (maxsim); 1: one vector
    preprocess: Preprocess | None = None  # none: what open_clip records of the model
    tokenizer: str | None = None  # "dataset/path" of a tokenizer.json; none: CLIP's own
    context: Count | None = None  # tokens; none: the model's


def backbone_files(row: Backbone) -> list[str]:
    """List the files of a backbone, each "dataset/path"."""
    return [*row.weights.values(), *([row.tokenizer] if row.tokenizer else [])]
