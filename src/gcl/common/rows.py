"""Checked rows: YAML and JSON into frozen dataclasses, with errors that name the key and the place."""

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gcl.common.errors import UserError
from gcl.common.names import suggestion

STRICT = ConfigDict(extra="forbid", defer_build=True)  # a stage builds the checks of the few rows that it reads
Modality = Literal["image", "text", "image_text"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(gt=0)]

T = TypeVar("T")

UNREADABLE = (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError)
UNEXPECTED = (KeyError, TypeError, IndexError, AttributeError, StopIteration, ArithmeticError, ValueError)


@contextmanager
def made_by(stage: str, path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file of ours is read into a message that says which stage makes it anew.

    What can't be read at all is a broken file. What is read but is not as the stage writes it may also be a fault of
    this program: the message says both, and where in the code it was found.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        lacking = f"{path} lacks a file ({error.filename or error})" if path.exists() else f"{path} does not exist"
        raise UserError(f"{lacking}; run `{stage}`") from error
    except UNREADABLE as error:
        raise UserError(f"{path} is broken ({error!r}); delete it and run `{stage}` again") from error
    except UNEXPECTED as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{path} is not as `{stage}` writes it ({error!r}, found at {Path(line.filename).name}:{line.lineno}); if"
            f" it was cut or edited, delete it and run `{stage}` again, else this is a fault of gcl: please report it"
        ) from error


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return a value that must be a mapping with names as keys."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{where}: expected names with values, found {str(value)[:80]!r}")
    return value


def load_yaml(path: Path) -> Any:
    """Read a YAML file with the safe loader; a missing or broken file is a ValueError that names it."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"can't read {path}: {error}") from error


def parse(kind: type[T], value: Any, where: str) -> T:
    """Check `value` against a dataclass; errors name the key, its value and the place to look."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise UserError("\n".join(explain(e, kind, where) for e in error.errors())) from error


def explain(error: Any, kind: type, where: str) -> str:
    """Turn one pydantic error into a line: where, key, problem, value."""
    key = ".".join(str(part) for part in error["loc"]) or "(top)"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = list(getattr(kind, "__dataclass_fields__", {}))
        return f"{where}: unknown key '{key}'{suggestion(key.split('.')[-1], known)}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: key '{key}' is missing"
    return f"{where}: {key}: {error['msg']} (found {error['input']!r})"


def from_json(kind: type[T]) -> Callable[[str], T]:
    """Make an argparse type that reads a JSON slice of the config into a dataclass."""

    def read(text: str) -> T:
        try:
            return parse(kind, json.loads(text), kind.__name__)
        except ValueError as error:  # argparse hides the text of a ValueError
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def to_json(row: Any) -> str:
    """Write a dataclass as one line of JSON, the inverse of from_json; the order of rows within it counts."""
    return json.dumps(TypeAdapter(type(row)).dump_python(row, mode="json"))
