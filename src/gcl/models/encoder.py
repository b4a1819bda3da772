"""Any model as it is: not trained, not exported, embedded by its own code; so it stands in the same tables.

`model:` says where it is, one of

    package.module:name            called with `arguments`; gives an object with encode(images=, texts=) as gcl.Model's
    sentence-transformers:FOLDER   a folder, or a name on the hub
    transformers:FOLDER            a CLIP-like model with get_image_features and get_text_features
    open_clip:NAME                 local-dir:FOLDER, hf-hub:ORG/NAME, or a built-in name with {pretrained: TAG}

With `fusion: native` it is given image and text together, otherwise their vectors are added.
"""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, Count, Modality, parse
from gcl.config.backbones import Backbone
from gcl.models.base import Built, Family


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """What `model_cfg` of such a row may say."""

    arguments: dict[str, Any] = field(default_factory=dict)  # of the call that opens it
    prompts: dict[Modality, str] = field(default_factory=dict)  # put before the text of items of that modality
    batch: Count = 16  # items at a time


def describe(row: Backbone) -> dict[str, Any]:
    """Return what export.json says of it.

    Raises:
        UserError: no `model`, or one in no form that is known.
    """
    options = parse(Options, row.model_cfg, "config/backbones.yaml: model_cfg")
    kind, colon, name = (row.model or "").partition(":")
    if not (kind and colon and name):
        raise UserError(
            f"config/backbones.yaml: model is {row.model!r}, expected package.module:name, "
            "sentence-transformers:FOLDER, transformers:FOLDER or open_clip:NAME"
        )
    return {
        "model": row.model,
        "arguments": options.arguments,
        "prompts": dict(options.prompts),
        "batch": options.batch,
    }


def build(row: Backbone, data: object) -> Built:
    """Refuse: nothing of it is ours to train.

    Raises:
        UserError: always.
    """
    raise UserError("a backbone of family encoder is used as it is: choose the recipe `released`, which trains nothing")


FAMILY = Family(build, as_it_is=describe)
