"""Numbers that others published, for the tables where ours stand."""

from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT, load_yaml, parse


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """One row of published.yaml: percent, by what a table calls its columns."""

    benchmark: str  # a row of benchmarks.yaml
    pool: str
    measure: str | None = None  # where the numbers are of another measure than the tasks' headlines
    model: str
    protocol: str
    source: str
    second_hand: bool = False  # read in a summary, not in the publication
    values: dict[str, float]  # mean, another average, or task -> percent

    def label(self) -> str:
        """Return the model's name, marked if the numbers are second-hand."""
        return f"{self.model} †" if self.second_hand else self.model


def read_published(path: Path) -> list[Published]:
    """Read published.yaml.

    Raises:
        UserError: an unknown key or a wrong type.
    """
    rows = load_yaml(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found {str(rows)[:80]!r}")
    return [parse(Published, row, f"{path}: row {number}") for number, row in enumerate(rows, 1)]


def chosen(rows: list[Published], benchmark: str, pool: str) -> list[Published]:
    """Return what was published for a pool of a benchmark, by any measure; a fixture has nothing published."""
    return [row for row in rows if (row.benchmark, row.pool) == (benchmark, pool)]
