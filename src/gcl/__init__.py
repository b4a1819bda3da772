"""Generalized contrastive learning for universal multimodal retrieval.

    gcl.gcl_loss, gcl.GCLLoss    the loss, as a function and as a module for any training loop (torch)
    gcl.load(folder)             a model that `export`, `bundle` or `publish` wrote; .encode(images=, texts=)
    gcl.search                   the best candidates of every query, exactly
    gcl.rounded                  a copy of a pool in 8 bits, with which it is searched in a quarter of the bytes
    gcl.evaluate                 measures of a run, as the stage `score` computes them

Each is imported on first use, so `import gcl` costs nothing, and what isn't used need not be installed. Type checkers
read __init__.pyi.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
__all__ = ["GCLLoss", "Hits", "Model", "evaluate", "gcl_loss", "load", "rounded", "search"]

DOORS = {
    "gcl_loss": "gcl.losses.gcl",
    "GCLLoss": "gcl.losses.module",
    "Model": "gcl.infer.model",
    "load": "gcl.infer.model",
    "Hits": "gcl.retrieve.search",
    "search": "gcl.retrieve.search",
    "rounded": "gcl.retrieve.scan.rounded",
    "evaluate": "gcl.score.evaluate",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in DOORS:
        raise AttributeError(f"module 'gcl' has no attribute '{name}'")
    return getattr(importlib.import_module(DOORS[name]), name)


def __dir__() -> list[str]:
    """List what there is."""
    return sorted([*globals(), *DOORS])
