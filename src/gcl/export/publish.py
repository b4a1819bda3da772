"""Write a trained model as one folder that others load: weights, config, tokenizer, model card.

In:  a checkpoint of the workflow (heads are put on the backbone's own towers) and its scores.
Out: a folder that open_clip loads as `local-dir:` (VISTA's as its card says), with a README.md of data,
     recipe, measures and licence. With --format sentence-transformers: a folder of ONNX graphs that it loads.
"""

import csv
import json
import logging
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, write_json
from gcl.common.markup import markdown
from gcl.common.names import lookup
from gcl.common.rows import load_yaml
from gcl.config.backbones import Backbone
from gcl.config.project import load
from gcl.export.bundle import bundle
from gcl.infer.model_folder import read_export
from gcl.models.weights.checkpoints import read_about, read_curve, read_start, write_model
from gcl.models.weights.model_card import card

log = logging.getLogger(__name__)


def measures(scores: Path, backbone: str, recipe: str, seed: int) -> str:
    """Return a table of the seed's scores, averaged over tasks; nothing where there are none."""
    if not scores.exists():
        return ""
    values: dict[tuple[str, ...], list[float]] = defaultdict(list)
    with scores.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["backbone"], row["recipe"], row["seed"]) == (backbone, recipe, str(seed)):
                key = (row["benchmark"], row["pool"], row["calibration"], row["measure"])
                values[key].append(float(row["value"]))
    if not values:
        return ""
    header = ["benchmark", "pool", "calibration", "measure", "percent", "tasks"]
    rows = [[*key, f"{100 * sum(v) / len(v):.1f}", str(len(v))] for key, v in values.items()]
    return markdown(header, rows)


def publish(
    name: str, recipe: str, seed: int, config: Path, results: Path | None, data: Path, output: Path, form: str
) -> None:
    """Write the folder.

    Raises:
        UserError: no such backbone or checkpoint, or one that doesn't fit.
    """
    from gcl.models import family

    project = load(load_yaml(Path("config/config.yaml")) | load_yaml(config))
    row: Backbone = lookup(project.backbones, name, "backbone", "config/backbones.yaml")
    results = results or Path(project.config.results)
    checkpoint = results / "checkpoints" / name / recipe / f"seed{seed}"
    about = read_about(checkpoint, name)
    pairs = about.get("data", {}).get("name", "pairs that it does not name")
    log.info("publishing %s, trained on %s", checkpoint, pairs)
    table = measures(results / "scores.csv", name, recipe, seed)
    if form == "sentence-transformers":
        write_sentence_folder(about, results, name, recipe, seed, table, output)
        return
    built = family(row.family).build(row, data)
    read_start(built.model, checkpoint, name)
    with atomic_path(output) as folder:
        write_model(folder, built, {k: v for k, v in about.items() if k != "weights"}, read_curve(checkpoint))
        (folder / "README.md").write_text(card(about, built.layout, folder.name, table), encoding="utf-8")
        shown = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8")) | {
            "trainable": "all"
        }  # these are all weights
        write_json(folder / "checkpoint.json", shown)


def write_sentence_folder(
    about: dict[str, Any], results: Path, name: str, recipe: str, seed: int, table: str, output: Path
) -> None:
    """Write the exported model with what sentence-transformers looks for."""
    from gcl.export.sentence_module import SNIPPET, write_folder

    towers, exported = results / "onnx" / name / "towers", results / "onnx" / name / recipe / f"seed{seed}"
    calibration = results / "calibrations" / name / recipe / f"seed{seed}.json"
    about_export = read_export(exported)
    if (late := about_export.get("late", 1)) > 1:
        raise UserError(f"{name} has {late} vectors an item, which sentence-transformers compares as one")
    if about_export["kind"] == "heads":
        bundle(towers, exported, calibration if calibration.exists() else None, output)
    else:
        with atomic_path(output) as folder:
            shutil.copytree(exported, folder)
    write_folder(output)
    text = card(about, "open_clip", output.name, table)
    (output / "README.md").write_text(with_snippet(text, SNIPPET), encoding="utf-8")


def with_snippet(text: str, snippet: str) -> str:
    """Return a card that loads by another library than the one of its weights."""
    before, _, rest = text.partition("```python\n")
    before = before.replace("library_name: open_clip", "library_name: sentence-transformers")
    return f"{before}```python\n{snippet}\n```{rest.partition('```')[2]}"


def main() -> None:
    """Run from the command line."""
    options = parser("publish", __doc__, "--name clip_lite --recipe gcl --seed 0 --output my_model")
    options.add_argument("--name", required=True, help="row of config/backbones.yaml")
    options.add_argument("--recipe", required=True, help="row of config/recipes.yaml")
    options.add_argument("--seed", type=int, default=0, help="(0)")
    options.add_argument("--config", type=Path, default=Path("config/config.yaml"), help="what was run (config.yaml)")
    options.add_argument("--results", type=Path, help="folder of the run to take the model from (that of the config)")
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of fetched data sets (data)")
    options.add_argument(
        "--format", dest="form", default="weights", choices=["weights", "sentence-transformers"], help="(weights)"
    )
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, publish)


if __name__ == "__main__":
    main()
