"""Train a re-ranker that has query and candidate in sight together, on a benchmark the model was not trained on.

In:  a run on that benchmark with its ranking by center_zscore, the benchmark as prepared, and a backbone of family
     vista: its exported image tower gives image tokens, its text encoder is what reads.
Out: a folder per seed with compress.onnx, joint.onnx and reranker.json. `gcl rerank` reads it.

How it is trained: networks/fit.py.
"""

from collections.abc import Sequence
from pathlib import Path

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, write_json
from gcl.common.rows import from_json
from gcl.config.backbones import Backbone
from gcl.data.prepared import read_benchmark
from gcl.models import family
from gcl.rerank.joint import read_contents
from gcl.rerank.lists import FIRST_STAGE, JOINT, READING, seeds_of


def fit_joint(
    run_file: Path,
    prepared: Path,
    embeddings: Sequence[Path],
    backbone: Backbone,
    data: Path,
    tokens: Path,
    k: int,
    output: Path,
    network: str = JOINT,
) -> None:
    """Train a re-ranker for each seed.

    Raises:
        UserError: a backbone of another family, a run of other queries, or nothing to learn from.
    """
    import torch

    from gcl.rerank.networks.fit import NETWORKS, chosen_share, export_joint, train_joint, useful_lists

    if backbone.family != "vista":
        raise UserError(f"a backbone of family {backbone.family} reads no image tokens; give one of family vista")
    built, bench, contents = (
        family("vista").build(backbone, data),
        read_benchmark(prepared),
        read_contents(prepared, tokens),
    )
    with atomic_path(output) as folder:
        folder.mkdir()
        for name in seeds_of(embeddings):
            seed = int(name.removeprefix("seed"))
            useful = useful_lists(bench, run_file, seed, k)
            for trained in useful:
                contents.prepare(trained.lists)
            torch.manual_seed(seed)
            model = NETWORKS[network](built.model.text, int(built.model.empty[0]), built.model.pad)
            train_joint(model, useful, contents, seed)
            weights = {"weight": model.weight.item(), "share": chosen_share(model, useful, contents)}
            (folder / name).mkdir()
            parity = export_joint(model, contents, folder / name)
            about = {"kind": network, "k": k, "first_stage": FIRST_STAGE, "parity": parity} | weights
            write_json(folder / name / "reranker.json", about | {"useful": sum(len(x.useful) for x in useful)})


def main() -> None:
    """Run from the command line."""
    options = parser(
        "fit_joint",
        __doc__,
        "--run runs/clipart9_validation.parquet --prepared prepared/clipart9_validation --embeddings vectors"
        " --backbone '{...}' --tokens onnx/vista_lite_25/towers --output reranker",
    )
    options.add_argument("--run", dest="run_file", required=True, type=Path, help="what `retrieve` wrote")
    options.add_argument("--prepared", required=True, type=Path, help="the benchmark, prepared")
    options.add_argument("--embeddings", required=True, nargs="+", type=Path, help="the model's outputs, by seed")
    options.add_argument(
        "--backbone", required=True, type=from_json(Backbone), metavar="JSON", help="what reads: a row"
    )
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of fetched data sets")
    options.add_argument("--tokens", required=True, type=Path, help="its exported towers")
    options.add_argument("--network", default=JOINT, choices=READING, help="which; gcl/rerank/networks (joint)")
    options.add_argument("--k", type=int, default=20, help="candidates of a query that are ranked again (20)")
    options.add_argument("--output", required=True, type=Path, help="folder to write")
    run(options, fit_joint)


if __name__ == "__main__":
    main()
