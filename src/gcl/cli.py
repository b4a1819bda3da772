"""The console script: `gcl <stage> ...` is `python -m gcl.<stage> ...`."""

import runpy
import sys

from gcl import __version__
from gcl.registry import suggestion

STAGES = {
    "fetch": "download or adopt a data set's files, and check them",
    "prepare": "turn a data set's files into canonical tables",
    "train": "train a recipe on a backbone",
    "export": "export to ONNX, checked against torch",
    "infer": "embed every distinct image and text",
    "retrieve": "rank the pools of a benchmark, exactly",
    "score": "score a run with ir_measures",
    "report": "write tables, figures and the page",
}
OTHERS = {
    "check": "look over pairs of your own before training on them",
    "bundle": "join towers and heads to one folder that embeds pixels and texts",
    "share": "find what a benchmark has in common with earlier ones, to embed it once",
    "submit": "write the files that CIRR's and CIRCO's evaluation servers take",
    "publish": "write a trained model as a folder that others load, with its card",
    "variants": "make fp16 and int8 variants of a model, and measure what they cost",
    "performance": "write the table of what the scripts in benchmarks/ measured",
    "openclipart": "build the embedded data set from Debian's packages",
    "vista_lite": "take the image projection of vista_lite out of its first-stage checkpoint",
    "config": "print the JSON Schema of config.yaml",
}


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:12}{about}" for name, about in STAGES.items()]
    others = [f"  {name:12}{about}" for name, about in OTHERS.items()]
    return "\n".join(
        [
            f"gcl {__version__}: generalized contrastive learning for universal multimodal retrieval",
            "",
            "stages, in order:",
            *lines,
            "",
            "others:",
            *others,
            "",
            "`gcl <command> --help` says more. The whole pipeline: `snakemake --cores all`.",
        ]
    )


def main() -> None:
    """Forward to a command's module, which is imported only now."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(__version__)
    elif name in STAGES or name in OTHERS:
        sys.argv = [f"gcl {name}", *sys.argv[2:]]
        runpy.run_module(f"gcl.{name}", run_name="__main__")
    else:
        sys.exit(f"gcl: unknown command '{name}'{suggestion(name, [*STAGES, *OTHERS])}; see `gcl --help`")


if __name__ == "__main__":
    main()
