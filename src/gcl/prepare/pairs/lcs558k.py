"""LLaVA's pretraining pairs: blip_laion_cc_sbu_558k.json beside its images.zip, which is read in place."""

import json
from collections.abc import Iterator
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.records import Pair
from gcl.prepare.captions import captions_of
from gcl.prepare.pairs import PairReader, checked

NAME = "blip_laion_cc_sbu_558k.json"


def lcs558k(folder: Path) -> Iterator[Pair]:
    """Read the conversations: the caption is the first answer of each."""
    path = folder / NAME
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"can't read {path} as JSON: {error}") from error
    for number, row in enumerate(rows):
        try:
            answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
            name, image = str(row["id"]), f"{folder / 'images.zip'}::{row['image']}"
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path}, record {number}: expected id, image and conversations of LLaVA's form, lacks {error}"
            ) from error
        yield checked(name, image, lambda answers=answers: captions_of(answers[:1]))  # type: ignore[misc]


READER = PairReader(lcs558k, lambda listing: NAME in listing.tops)
