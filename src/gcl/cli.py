"""The console script: `gcl <command> ...` calls the `main` of the command's module, which is imported only then.

A command is a module in one of the rooms with a function `main`; its name is the module's, its description the first
line of the module's docstring. So a new command is one new file.
"""

import importlib
import sys
from pathlib import Path

from gcl import __version__
from gcl.common.names import suggestion

STAGES = ("fetch", "prepare", "train", "export", "infer", "retrieve", "score", "report")  # in order
HERE = Path(__file__).parent


def commands() -> dict[str, tuple[str, str]]:
    """Return module and description of every command, the stages first and in order."""
    modules = {}
    for path in sorted(HERE.glob("*/*.py")):
        if "\ndef main() -> None:" in (text := path.read_text(encoding="utf-8")):
            name = path.parent.name if path.stem == "__main__" else path.stem
            modules[name] = (".".join(("gcl", path.parent.name, path.stem)), text.split('"""')[1].splitlines()[0])
    return {name: modules[name] for name in (*STAGES, *sorted(set(modules) - set(STAGES)))}


def usage() -> str:
    """Return the help text."""
    lines = [f"  {name:14}{about}" for name, (_, about) in commands().items()]
    return "\n".join(
        [
            f"gcl {__version__}: generalized contrastive learning for universal multimodal retrieval",
            "",
            "stages, in order:",
            *lines[: len(STAGES)],
            "",
            "others:",
            *lines[len(STAGES) :],
            "",
            "`gcl <command> --help` says more. The whole pipeline: `snakemake --cores all`.",
        ]
    )


def main() -> None:
    """Forward to a command."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(__version__)
    elif name in (known := commands()):
        sys.argv = [f"gcl {name}", *sys.argv[2:]]
        importlib.import_module(known[name][0]).main()
    else:
        sys.exit(f"gcl: unknown command '{name}'{suggestion(name, known)}; see `gcl --help`")


if __name__ == "__main__":
    main()
