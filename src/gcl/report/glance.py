"""Print the means of what is scored so far, while the rest of a run goes on.

In:  scores.csv of every backbone, recipe and benchmark that is there below a folder of results.
Out: on the terminal a table for each benchmark: mean over tasks and seeds of its headline measure, in percent.
"""

import csv
from collections import defaultdict
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.markup import markdown
from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.score.score import COLUMNS

Means = dict[tuple[str, str], dict[str, list[float]]]  # (backbone, recipe) -> column -> values of tasks and seeds


def read_means(folder: Path, backbone: str, benchmark: str, measure: str) -> Means:
    """Gather the values of one benchmark, of all backbones if it is "*".

    Raises:
        UserError: a file with other columns.
    """
    means: Means = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob(f"{backbone}/*/{benchmark}/scores.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise UserError(f"{path} has columns {table.fieldnames}, expected {list(COLUMNS)}; run `score` again")
            for row in table:
                if row["measure"] == measure:
                    column = row["pool"] if row["calibration"] == "none" else f"{row['pool']}, {row['calibration']}"
                    means[row["backbone"], row["recipe"]][column].append(100 * float(row["value"]))
    return means


def glance_table(means: Means) -> str:
    """Return the means as a table, what some recipes lack as a dash."""
    columns = list(dict.fromkeys(column for values in means.values() for column in values))
    rows = [
        [" ".join(name), *(f"{sum(v) / len(v):.1f}" if (v := values.get(c)) else "–" for c in columns)]
        for name, values in means.items()
    ]
    return markdown(["recipe", *columns], rows)


def glance(results: Path, backbone: str) -> None:
    """Print a table for each benchmark with scores, of one backbone or of all.

    Raises:
        UserError: nothing is scored yet.
    """
    rows, shown = load(load_yaml(Path("config/config.yaml"))).benchmarks, False
    for name in sorted({path.name for path in (results / "scores").glob(f"{backbone}/*/*")} & rows.keys()):
        if means := read_means(results / "scores", backbone, name, rows[name].headline):
            print(f"{rows[name].title}: {rows[name].headline}, mean over tasks and seeds, in percent, so far\n")
            print(glance_table(means))
            shown = True
    if not shown:
        whose = "" if backbone == "*" else f" of backbone '{backbone}'"
        raise UserError(f"{results}/scores holds no scores yet{whose}; run `snakemake --cores all`")


def main() -> None:
    """Run from the command line."""
    options = parser("glance", __doc__, "--results results")
    options.add_argument("--results", type=Path, default=Path("results"), help="folder of results (results)")
    options.add_argument("--backbone", default="*", help="row of config/backbones.yaml (all that have scores)")
    run(options, glance)


if __name__ == "__main__":
    main()
