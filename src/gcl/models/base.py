"""What the stages that need torch know of a model, whatever its family."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from gcl.config.backbones import Preprocess

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn


class Graph(NamedTuple):
    """One ONNX graph: a module, example inputs of batch 3 by name, and which dimensions stay free."""

    module: "nn.Module"
    inputs: dict[str, "Tensor"]
    free: dict[str, tuple[str, ...]]  # input -> names of its free leading dimensions: batch, and of lengths
    longest: int = 512  # of a length


class Built(NamedTuple):
    """A model with its public weights, in eval mode."""

    model: "nn.Module"  # a checkpoint holds its state dict
    encode: Callable[..., dict[str, "Tensor"]]  # pixels, ids -> raw outputs (N, D) by modality
    graphs: Callable[[], dict[str, Graph]]  # by name: image, text, and image_text where fusion is native
    preprocess: Preprocess
    tokenizer: "Tokenizer"
    clean: str  # how texts are cleaned before, see texts.clean
    config: dict[str, Any]  # what stands beside the weights of a checkpoint
    layout: str  # of a checkpoint, see models/weights/checkpoints.py
    about: dict[str, Any]  # GELU kind and the like, for export.json


class Keys(NamedTuple):
    """Names of a projection head's tensors in the model's state dict, and how wide it is inside."""

    first: str
    bias: str | None
    second: str
    width: Callable[[int, int], int]  # of features and embedding


class Family(NamedTuple):
    """How a row of backbones.yaml becomes a model."""

    build: Callable[..., Built]  # of the row and the folder of data sets
    towers: Callable[[Built], dict[str, Graph]] | None = None  # the frozen parts, where `trainable: heads` works
    heads: dict[str, Keys] | None = None  # modality -> its head; modalities may share one
    cell: "Callable[..., nn.Module] | None" = None  # in place of heads: of the row and the widths of both features
    as_it_is: Callable[..., dict[str, Any]] | None = None  # of the row: what `infer` opens, where nothing is exported
