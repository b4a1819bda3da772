"""The loss as a module, for a training loop of one's own."""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import normalize

from gcl.common.errors import UserError
from gcl.losses.gcl import duplicates, gcl_loss

SIX = {f"{a}>{b}": 1.0 for a in ("image", "text", "image_text") for b in ("image", "text", "image_text") if a != b}
LARGEST_SCALE = math.log(100)  # of a learned temperature's logits, as CLIP's


class GCLLoss(nn.Module):
    """Generalized contrastive loss over a batch of image-caption pairs.

    Under torch.distributed each process gives its own pairs. The negatives are those of all processes, and what is
    returned is such that the mean over processes is the loss of the whole batch: DistributedDataParallel, which
    averages gradients, then makes the gradient of one process with the whole batch.

    Args:
        directions: "query modality>modality of its positive" -> weight; None: all six between image, text, image_text.
        denominator: a rule of gcl.losses.denominators: full (the paper's formula as printed), no_self,
            no_self_no_copositive, cross_only, target_only (with {"image>text": 1, "text>image": 1}: CLIP's loss).
        temperature: t, above 0.
        learn_temperature: make log(1 / t) a parameter, `logit_scale`, that is clamped to at most log(100).

    Raises:
        UserError: an unknown denominator or modality (when it is called).

    Source: arXiv 2509.25638, eq. of the generalized contrastive loss; gather as open_clip's.

    Example:
        >>> import torch
        >>> from gcl import GCLLoss
        >>> loss = GCLLoss(denominator="no_self", temperature=0.05)
        >>> image, text = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        >>> loss(image, text).backward()
        >>> image.grad.shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        directions: Mapping[str, float] | None = None,
        denominator: str = "no_self",
        temperature: float = 0.05,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__()
        self.directions, self.denominator = dict(directions or SIX), denominator
        scale = torch.tensor(math.log(1 / temperature), dtype=torch.float64)
        self.logit_scale = nn.Parameter(scale, requires_grad=learn_temperature)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        image_text: Tensor | None = None,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of N pairs of this process.

        Args:
            image: (N, D) outputs of the image encoder, of any length.
            text: (N, D) outputs of the text encoder.
            image_text: (N, D) outputs for image and text together, where the model has such; None: the unit vectors
                of both are added (score fusion).
            image_ids: (N,) whole numbers; equal ones are the same image, and no negatives of each other.
            text_ids: (N,) the same of texts. Give both or none.

        Returns:
            A scalar.

        Raises:
            UserError: shapes that differ, or ids of only one kind.
        """
        if image.shape != text.shape or image.ndim != 2 or (image_text is not None and image_text.shape != image.shape):
            shapes = [tuple(x.shape) for x in (image, text, image_text) if x is not None]
            raise UserError(f"vectors of shapes {shapes}, expected (N, D) alike for all")
        if (image_ids is None) != (text_ids is None):
            raise UserError("give image_ids and text_ids, or neither")
        i, x = normalize(image, dim=1), normalize(text, dim=1)
        both = normalize(i + x if image_text is None else image_text, dim=1)
        vectors = gathered(torch.stack([i, x, both]))
        masked = None
        if image_ids is not None and text_ids is not None:
            masked = duplicates(*gathered(torch.stack([image_ids, text_ids])[:, :, None])[:, :, 0])
        temperature = (-self.logit_scale.clamp(max=LARGEST_SCALE)).exp()
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        rows = slice(rank * len(image), (rank + 1) * len(image))
        return world * gcl_loss(vectors, self.directions, self.denominator, temperature, masked, rows)


def gathered(part: Tensor) -> Tensor:
    """Return (V, N, D) of every process's (V, n, D), with autograd; all must have the same n."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return part
    return torch.cat(list(all_gather(part.contiguous())), dim=1)
