"""What heads make of rows of tower outputs, and whose outputs they are."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor
from torch.nn.functional import normalize

from gcl.common.errors import UserError

Heads = Mapping[str, Callable[[Tensor], Tensor]]  # by modality, features (B, F) -> raw outputs (B, D)


def check_towers(folder: Path, features_of_pairs: Path) -> None:
    """Refuse outputs of other towers than those of the training pairs.

    Raises:
        UserError: they are.
    """
    if len({(path / "towers.json").read_text(encoding="utf-8") for path in (folder, features_of_pairs)}) > 1:
        raise UserError(f"{folder} and {features_of_pairs} come from different towers; run `infer` again")


def outputs_of(head: Callable[[Tensor], Tensor], features: Tensor, rows: Tensor, fusion: str) -> Tensor:
    """Return (N, D) of rows of features, as `fusion` adds them: sum_unit has them unit; zeros for rows below 0."""
    there = rows >= 0
    raw = head(features[rows[there]])
    if fusion == "sum_unit":
        raw = normalize(raw, dim=1)
    return raw.new_zeros(len(rows), raw.shape[1]).index_put((there.nonzero()[:, 0],), raw)
