# The config with its registries, path patterns, and the functions that choose inputs. No rules here.

import json
import os
import re
from functools import cache
from modulefinder import ModuleFinder
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

from gcl.common.devices import resolve
from gcl.common.files import locked, sweep
from gcl.common.rows import to_json
from gcl.config.backbones import backbone_files
from gcl.config.paths import earlier, part_names, place, split_part, to_embed
from gcl.config.project import experiment_of, load, runs_of, wanted
from gcl.config.recipes import ancestry
from gcl.data.own import fingerprint, is_unpinned
from gcl.prepare.hold_out import HELD_OUT
from gcl.prepare.pairs import forms
from gcl.registries import check
from gcl.rerank.lists import READING, SECOND_STAGES
from gcl.retrieve.biases import BIASES

PROJECT = load(config)
check(PROJECT)
CONFIG = PROJECT.config
R = CONFIG.results
ENVIRONMENT = f"{workflow.basedir}/workflow/envs/gcl.yaml"  # of every rule, with --use-conda
LOCK = locked(Path(f"{R}/.snakemake.lock"), wait=False)
GPU = int(resolve(CONFIG.device) == "cuda")  # GPUs of a job that embeds or trains
if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    os.environ["GCL_CONDA"] = "1"  # every job checks that it runs in its environment
BANK = 1024  # training pairs that biases of candidates compare with
RECIPES = [recipe for experiment in CONFIG.experiments for recipe in experiment.recipes]


wildcard_constraints:
    dataset="|".join(PROJECT.datasets),
    backbone="|".join({*CONFIG.backbones, CONFIG.sentences, CONFIG.reader}),
    recipe="|".join(RECIPES),
    benchmark="|".join(CONFIG.embedded),
    stage="|".join(SECOND_STAGES),
    network="|".join(READING),
    triplets="|".join([*PROJECT.datasets, r"composed\.[0-9]+"]),
    part="|".join(re.escape(part) for name in (CONFIG.pairs, *CONFIG.embedded) for part in part_names(PROJECT, name)),


@cache
def sources(stage):
    """Source files of a module and of all it imports from gcl."""
    finder = ModuleFinder(path=["src"])
    path = "src/gcl/" + stage.replace(".", "/")
    finder.run_script(f"{path}.py" if os.path.exists(f"{path}.py") else f"{path}/__main__.py")
    return {os.path.relpath(found.__file__) for found in finder.modules.values() if found.__file__}


def code(*stages):
    """Sources of a stage and of modules that it imports by name (a family, a reader): an edit re-runs the rule."""
    return sorted(set().union(*map(sources, stages)))


def family_code(stage):
    """An input function: the sources of a stage with those of the backbone's family."""
    return lambda wildcards: code(stage, f"models.{PROJECT.backbones[wildcards.backbone].family}")


def reader_code(stage):
    """An input function: the sources of a stage with those of the benchmark's reader."""
    return lambda wildcards: code(stage, f"prepare.benchmarks.{PROJECT.benchmarks[wildcards.benchmark].reader}")


def is_heads(recipe):
    return PROJECT.recipes[recipe].trainable == "heads"


def seeds(recipe):
    return experiment_of(CONFIG, recipe).seeds


def benchmark_datasets(benchmark):
    """The data sets of a benchmark: that of its annotations, and that of its images if it is another."""
    row = PROJECT.benchmarks[benchmark]
    return sorted({row.dataset, *([row.images.dataset] if row.images else [])})


def is_own(benchmark):
    """Whether a benchmark is made of the training pairs that are held out."""
    return PROJECT.benchmarks[benchmark].reader == "own"


def benchmark_source(wildcards):
    """What a benchmark is prepared from: fetched data sets, or the prepared pairs with those held out."""
    if is_own(wildcards.benchmark):
        return [f"{R}/prepared/{CONFIG.pairs}"]
    return [f"data/{name}/fetched.json" for name in benchmark_datasets(wildcards.benchmark)]


def captions_file(wildcards):
    """The captions that a benchmark's images are written as, where its row names some."""
    captions = PROJECT.benchmarks[wildcards.benchmark].captions
    return [captions.file] if captions else []


def data_folder(benchmark):
    """Where a benchmark's records lie."""
    return (
        f"{R}/prepared/{CONFIG.pairs}/{HELD_OUT}"
        if is_own(benchmark)
        else f"data/{PROJECT.benchmarks[benchmark].dataset}"
    )


def hold_out():
    """What is held out of the training pairs, by the options of the first benchmark that measures on them."""
    rows = [PROJECT.benchmarks[name] for name in CONFIG.embedded if is_own(name)]
    return ["--hold-out", json.dumps(rows[0].options)] if rows else []


def images_folder(benchmark):
    """Where a benchmark's images lie."""
    row = PROJECT.benchmarks[benchmark]
    if is_own(benchmark):
        return data_folder(benchmark)
    return f"data/{row.images.dataset}/{row.images.folder}" if row.images else f"data/{row.dataset}"


def own_content(wildcards):
    """The content of a data set of the user's own: an edit of one of its files makes `fetch` run again."""
    row = PROJECT.datasets[wildcards.dataset]
    if not is_unpinned(row):
        return []
    folder, names = Path("data") / wildcards.dataset, [file.path for file in row.files]
    return ["--own", fingerprint(folder, Path(f"{R}/own/{wildcards.dataset}.json"), names)]


def towers_files(wildcards):
    """The fetched lists of a backbone's weights and tokenizer."""
    return fetched_lists([wildcards.backbone])


def fetched_lists(backbones):
    """The fetched lists of the weights and tokenizers of backbones."""
    files = [file for name in backbones for file in backbone_files(PROJECT.backbones[name])]
    return [f"data/{name}/fetched.json" for name in sorted({file.split("/")[0] for file in files})]


def train_inputs(wildcards):
    """Heads train on the towers' features, whole models on the weights; some continue another recipe."""
    inputs = {"pairs": f"{R}/prepared/{CONFIG.pairs}"}
    if is_heads(wildcards.recipe):
        inputs["features"] = f"{R}/embeddings/{wildcards.backbone}/towers/{CONFIG.pairs}"
    else:
        inputs["weights"] = towers_files(wildcards)
    if PROJECT.recipes[wildcards.recipe].loss.separation:
        inputs["sentences"] = sentences()
    if triplets := triplets_of(wildcards.recipe):
        features = f"{R}/embeddings/{wildcards.backbone}/triplets/{triplets}"
        inputs["triplets"] = [triplets_folder(wildcards.backbone, triplets), features]
    if distil := PROJECT.recipes[wildcards.recipe].distil:
        inputs["taught"] = f"{R}/taught/{wildcards.backbone}/{PROJECT.recipes[wildcards.recipe].init}/{distil.of}"
    if init := PROJECT.recipes[wildcards.recipe].init:
        inputs["init"] = f"{R}/checkpoints/{wildcards.backbone}/{init}"
    return inputs


def triplets_of(recipe):
    """What a recipe's triplets are called: their data set, or composed of the pairs with so many of each."""
    row = PROJECT.recipes[recipe].triplets
    return row and (row.data or f"composed.{row.neighbours}")


def triplets_folder(backbone, triplets):
    """Where triplets lie; those that are composed differ by backbone."""
    return f"{R}/triplets/{triplets}" if triplets in PROJECT.datasets else f"{R}/composed/{backbone}/{triplets}"


def sentences():
    """The captions' features by the sentence encoder: those that its recipes need anyway, if it has any."""
    has_towers = CONFIG.sentences in CONFIG.backbones and any(is_heads(recipe) for recipe in RECIPES)
    return (
        f"{R}/embeddings/{CONFIG.sentences}/towers/{CONFIG.pairs}"
        if has_towers
        else f"{R}/embeddings/sentences/{CONFIG.pairs}"
    )


def is_large(benchmark):
    """Whether a benchmark is embedded in shards."""
    return CONFIG.shards.get(benchmark, 1) > 1


def prepare_threads(wildcards):
    """A large benchmark is read by all cores; such a job waits until none is in use."""
    return workflow.cores if is_large(wildcards.benchmark) else 1


def share_of_cores():
    """Half of the cores: other jobs run beside a long one. With several GPUs a share for each, and one for the rest."""
    gpus = workflow.global_resources.get("gpu")
    return max(1, workflow.cores // (1 + (gpus.value if GPU and gpus else 1)))


def infer_threads(wildcards):
    """Heads embed on one core, as they train; whole models take what many images need."""
    return 1 if is_heads(wildcards.recipe) else share_of_cores()


def retrieve_threads(wildcards):
    """A small benchmark is searched by one core."""
    return share_of_cores() if GPU or is_large(wildcards.benchmark) else 1


def pair_threads():
    """Pairs that ship with the project are few; others are examined by all cores."""
    files = PROJECT.datasets[CONFIG.pairs].files
    return 1 if files and all(file.sha256 and not (file.hub or file.urls) for file in files) else workflow.cores


def train_threads(wildcards):
    """Heads train on one core, so that recipes train side by side; whole models take all."""
    return 1 if is_heads(wildcards.recipe) else workflow.cores


def launch(wildcards):
    """Full training on several devices is started by torchrun."""
    if is_heads(wildcards.recipe) or CONFIG.processes == 1:
        return "python -m"
    return f"torchrun --standalone --nproc-per-node {CONFIG.processes} -m"


def export_inputs(wildcards):
    """Heads refer to the exported towers, whole models to the weights."""
    inputs = {"checkpoints": f"{R}/checkpoints/{wildcards.backbone}/{wildcards.recipe}"}
    if is_heads(wildcards.recipe):
        inputs["towers"] = f"{R}/onnx/{wildcards.backbone}/towers"
    else:
        inputs["weights"] = towers_files(wildcards)
    return inputs


def infer_inputs(wildcards):
    """Heads embed the towers' outputs, whole models the items themselves."""
    inputs = {"onnx": f"{R}/onnx/{wildcards.backbone}/{wildcards.recipe}"}
    if is_heads(wildcards.recipe):
        inputs["features"] = f"{R}/embeddings/{wildcards.backbone}/towers/{wildcards.part}"
    else:
        inputs["prepared"] = part_folder(wildcards)
    return inputs


def infer_pairs_inputs(wildcards):
    """The same of the training pairs, on which calibration is fitted."""
    inputs = {"onnx": f"{R}/onnx/{wildcards.backbone}/{wildcards.recipe}"}
    if is_heads(wildcards.recipe):
        inputs["features"] = f"{R}/embeddings/{wildcards.backbone}/towers/{CONFIG.pairs}"
    else:
        inputs["prepared"] = f"{R}/prepared/{CONFIG.pairs}"
    return inputs


def part_folder(wildcards):
    """What a part is a part of."""
    return to_embed(PROJECT, split_part(wildcards.part)[0])


def shard(wildcards):
    """Which part of how many, for a benchmark that is embedded in shards."""
    _, number, count = split_part(wildcards.part)
    return ["--shard", number, count] if count > 1 else []


def retrieve_inputs(wildcards):
    """A prepared benchmark, its embeddings in parts, which rows of them are its own, and the calibration if one is used."""
    found = place(PROJECT, wildcards.backbone, wildcards.recipe, wildcards.benchmark)
    inputs = {"prepared": str(found.prepared), "embeddings": [*map(str, found.embeddings)]}
    if found.shared:
        inputs["shared"] = str(found.shared)
    if set(experiment_of(CONFIG, wildcards.recipe).calibrations) != {"none"}:
        inputs["calibration"] = f"{R}/calibrations/{wildcards.backbone}/{wildcards.recipe}"
    return inputs


def second_stages(recipe):
    """The calibrations that are second stages."""
    return [mode for mode in experiment_of(CONFIG, recipe).calibrations if mode in SECOND_STAGES]


def last_run(wildcards):
    """What is scored: the run with the second stage's rankings, or without."""
    folder = "reranked" if second_stages(wildcards.recipe) else "runs"
    return f"{R}/{folder}/{wildcards.backbone}/{wildcards.recipe}/{wildcards.benchmark}.parquet"


def rerank_inputs(backbone, recipe, benchmark):
    """A run, and what features of its pairs are made of."""
    found = place(PROJECT, backbone, recipe, benchmark)
    inputs = {
        "run": f"{R}/runs/{backbone}/{recipe}/{benchmark}.parquet",
        "prepared": str(found.prepared),
        "embeddings": [*map(str, found.embeddings)],
        "calibration": f"{R}/calibrations/{backbone}/{recipe}",
    }
    if is_heads(recipe):
        inputs["towers"] = [*map(str, place(PROJECT, backbone, "towers", benchmark).embeddings)]
    if found.shared:
        inputs["shared"] = str(found.shared)
    return inputs


def teach_inputs(backbone, recipe):
    """The lists that a second stage ranked again of the benchmark that trained it, and the towers' outputs for them."""
    inputs = rerank_inputs(backbone, recipe, CONFIG.reranker)
    inputs["run"] = f"{R}/reranked/{backbone}/{recipe}/{CONFIG.reranker}.parquet"
    return {name: inputs[name] for name in ("run", "prepared", "towers", "shared") if name in inputs}


def rerankers(wildcards):
    """What ranks a recipe's runs again, and what a joint one reads with."""
    stages = second_stages(wildcards.recipe)
    inputs = {"reranker": [f"{R}/rerankers/{wildcards.backbone}/{wildcards.recipe}/{stage}" for stage in stages]}
    if {*READING} & {*stages}:
        inputs["tokens"] = f"{R}/onnx/{CONFIG.reader}/towers"
    return inputs


def flags(*names):
    """A params function: `--name path` for each named input that the job has, or all paths of a list of inputs."""

    def words(path):
        return [path] if isinstance(path, str) else list(path)

    return lambda wildcards, input: [
        word for name in names if name in input.keys() for word in (f"--{name}", *words(input[name]))
    ]


def everything(pattern, benchmarks=CONFIG.benchmarks, backbones=CONFIG.backbones):
    """A path pattern filled with every backbone, recipe and benchmark that the experiments ask for."""
    return [
        path
        for backbone, recipe in runs_of(CONFIG)
        if backbone in backbones
        for path in expand(pattern, backbone=backbone, recipe=recipe, benchmark=benchmarks)
    ]


def first_scores():
    """The scores of the first experiment on the first backbone."""
    pattern = f"{R}/scores/{CONFIG.backbones[0]}/{{recipe}}/{{benchmark}}"
    return expand(pattern, recipe=CONFIG.experiments[0].recipes, benchmark=CONFIG.benchmarks)


def everything_prepared():
    """The training pairs and all benchmarks as prepared, and the fetched weights of all backbones."""
    prepared = [f"{R}/prepared/{name}" for name in (CONFIG.pairs, *CONFIG.embedded)]
    return [*fetched_lists(CONFIG.backbones), *prepared]


def all_embeddings():
    """The embeddings of everything that the experiments ask for."""
    return [
        f"{R}/embeddings/{backbone}/{recipe}/{part}"
        for backbone, recipe in runs_of(CONFIG)
        for benchmark in CONFIG.benchmarks
        for part in part_names(PROJECT, benchmark)
    ]
