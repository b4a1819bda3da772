"""Write the table of performance from what the scripts in benchmarks/ measured.

In:  <results>/benchmarks/*.json, each with a title, the machine, and tables as lists of cells.
Out: <results>/tables/performance.md; `report` writes the same.
"""

import json
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path
from gcl.common.markup import markdown
from gcl.common.rows import made_by

CPU = (
    "machine",
    "loss",
    "topk",
    "retrieval_memory",
    "embedding",
    "variants",
    "training",
    "startup",
    "growth",
    "collection",
    "cutoff",
)
ORDER = (*CPU, *(f"{name}_cuda" for name in CPU))
HEAD = """# Performance

Made by `make bench`; random weights and vectors unless it says otherwise. Peers run in the same process in turns. Times
are medians of repeats [fastest, slowest]; ratios are medians of the turns' ratios [least, most]. Other machines, other
times: compare ratios.
"""


def performance(folder: Path) -> str:
    """Return the page for a folder of measurements, '' if there are none.

    Raises:
        UserError: a file that is not as a script writes it.
    """
    files = {path.stem: path for path in folder.glob("*.json")}
    names = [*(name for name in ORDER if name in files), *sorted(set(files) - set(ORDER))]
    lines = [HEAD] if names else []
    for name in names:
        with made_by(f"benchmarks/{name}.py", files[name]):
            measured = json.loads(files[name].read_text(encoding="utf-8"))
            machine = ", ".join(f"{key} {value}" for key, value in measured["machine"].items())
            command = f"python benchmarks/{name.removesuffix('_cuda')}.py{' --device cuda' if '_cuda' in name else ''}"
            lines.append(f"## {measured['title']}\n\n`{command}`; {machine}\n")
            for table in measured["tables"]:
                lines.append(f"{table['caption']}\n\n{markdown(table['columns'], table['rows'])}")
    return "\n".join(lines)


def write_performance(benchmarks: Path, output: Path) -> None:
    """Write the page, or nothing without measurements."""
    if text := performance(benchmarks):
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(output) as path:
            path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run from the command line."""

    def stage(benchmarks: Path, output: Path) -> None:
        if not [*benchmarks.glob("*.json")]:
            raise UserError(f"{benchmarks} holds no measurements (*.json); `make bench` makes them")
        write_performance(benchmarks, output)

    options = parser("performance", __doc__, "--benchmarks results/benchmarks --output results/tables/performance.md")
    options.add_argument("--benchmarks", required=True, type=Path, help="folder of measurements")
    options.add_argument("--output", required=True, type=Path, help="Markdown file to write")
    run(options, stage)


if __name__ == "__main__":
    main()
