"""What export.json says of an exported model."""

import json
from pathlib import Path
from typing import Any

from gcl.common.errors import UserError
from gcl.common.rows import mapping


class About(dict[str, Any]):
    """What export.json says; a key that it lacks is a ValueError."""

    def __missing__(self, key: str) -> Any:
        """Say what is missing."""
        raise UserError(f"export.json says nothing of '{key}'; run `export` again")


def read_export(onnx: Path) -> About:
    """Read export.json."""
    try:
        about = json.loads((onnx / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{onnx} is no exported model: {error}; run `export`") from error
    return About(mapping(about, str(onnx / "export.json")))
