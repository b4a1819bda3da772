"""What a row of recipes.yaml may say."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.names import lookup
from gcl.common.rows import STRICT, Count, Positive, Share

Direction = Annotated[str, Field(pattern=r"^(image|text|image_text)>(image|text|image_text)$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Loss:
    """A member of the family of losses, see gcl.losses.gcl."""

    directions: dict[Direction, Positive]  # query modality > positive's modality -> weight
    denominator: str  # a rule of losses/denominators.py
    temperature: Positive | Literal["learned"]  # learned: the model's logit scale, clamped to at most 100
    mask_duplicates: bool = True  # equal images or texts in a batch are no negatives of each other
    balanced: bool = False  # Sinkhorn's biases on the logits, see gcl.losses.ncl; for plain CL
    widths: list[Count] = field(default_factory=list)  # beside the whole vector its first so many numbers, alike
    separation: Annotated[float, Field(ge=0)] = 0.0  # weight of AlignCLIP's intra-modality separation


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Full:
    """How weights of the towers are trained, all or some; means nothing where only heads are."""

    precision: Literal["fp32", "amp_bf16"] = "fp32"  # of the towers; the loss is always float32
    chunk: Count | None = None  # pairs encoded at a time, the loss still sees the whole batch (GradCache)
    grad_checkpointing: bool = False  # trade compute for memory within a chunk
    compile: bool = False  # torch.compile the towers
    clip_norm: Positive = 1.0  # largest norm of the gradient
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # smallest share of the area that a random crop keeps
    image_tokens: list[Count] = field(default_factory=list)  # VISTA: squares, one drawn a step; none: the backbone's
    save_every: Count = 200  # steps between states from which a killed job goes on


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Combine:
    """The heads of all seeds of the recipe that is continued as one vector, and what stands beside it.

    Nothing is trained; gcl.train.heads.combined has the formulas.
    """

    private: Annotated[float, Field(ge=0)] = 0.0  # weight of the towers' own features
    expand: Annotated[float, Field(ge=0)] = 0.0  # weight of what near training pairs have in the other modality
    textual: Annotated[float, Field(ge=0, le=1)] = (
        0.0  # of near captions in an image's own vector; 1: it is represented by them alone
    )
    neighbours: Count = 10  # training pairs that an item is expanded by
    sharpness: Positive = 20.0  # of their softmax, by cosine
    bank: Count = 10_000  # training pairs to look among, at most
    bank_bits: Literal[32, 16, 8] = 32  # of their numbers in the exported model
    width: Count | None = None  # principal directions of the training vectors that are kept; none: the vector as it is


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Triplets:
    """Queries of an image and a text that says what to change, and the images that are meant, beside the pairs."""

    weight: Positive = 1.0  # of their loss, gcl.losses.composed; that of the pairs has 1
    data: str | None = None  # a data set of triplets; none: made of the pairs and pairs like them (CoLLM)
    neighbours: Count = 4  # triplets that are made of a pair
    slerp: Annotated[float, Field(ge=0, le=1)] = (
        0.5  # where the query's image lies between the pair's and the neighbour's
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Distil:
    """The order of a re-ranker's lists, beside the pairs: those that rank `init` again on the config's `reranker`."""

    of: Literal["rerank", "joint", "adapter"] = "rerank"  # which second stage
    weight: Positive = 1.0  # of its loss, gcl.train.heads.distilled; that of the pairs has 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Recipe:
    """How one model is trained."""

    loss: Loss
    trainable: Literal["heads", "all"] | list[str] = "heads"  # heads: on frozen towers; or prefixes of weights' names
    init: str | None = None  # the recipe that is continued; none starts from the backbone's weights
    epochs: Annotated[int, Field(ge=0)]  # 0: the weights as they are
    max_steps: Count | None = None  # stop earlier, for a trial of full training
    batch_size: Annotated[int, Field(gt=1)]  # pairs per step, all devices together
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.0  # of all steps
    width: Count | None = None  # of a head's outputs, the first so many are kept in the end
    dropout: Share = 0.0  # between the two layers of a head
    flip: bool = True  # mirror half of the images
    triplets: Triplets | None = None  # for heads whose fusion is a sum
    distil: Distil | None = None  # for heads whose fusion is a sum
    full: Full = field(default_factory=Full)
    combine: Combine | None = None


def ancestry(recipes: dict[str, Recipe], name: str) -> list[str]:
    """Return the chain of recipes that `name` continues, itself first."""
    chain = [name]
    row = lookup(recipes, name, "recipe", "config/recipes.yaml")
    while row.init is not None:
        if row.init in chain:
            raise UserError(f"config/recipes.yaml: {' -> '.join([*chain, row.init])} continues itself")
        chain.append(row.init)
        row = lookup(recipes, row.init, "recipe", "config/recipes.yaml")
    return chain
