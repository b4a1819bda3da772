"""What Hugging Face datasets saved (save_to_disk): state.json names the Arrow files; else its Parquet files."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from gcl.common.errors import UserError
from gcl.data.containers import arrow_table
from gcl.data.records import Pair
from gcl.prepare.folders import files_below, of_training
from gcl.prepare.pairs import PairReader
from gcl.prepare.pairs.parquet import packed_pairs, parquet


def datasets(folder: Path) -> Iterator[Pair]:
    """Read the Arrow files of the training split."""
    states = [path for path in files_below(folder) if path.name == "state.json"]
    if not states:
        yield from parquet(folder)
        return
    for state in of_training(states, folder, lambda path: path):
        try:
            names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{state} is no state of a saved data set: {error!r}") from error
        for name in names:
            path = state.parent / name
            rows: pa.Table = arrow_table(str(path))
            yield from packed_pairs(path, rows.schema, lambda name, rows=rows: iter([(0, rows[name])]))  # type: ignore[misc]


READER = PairReader(datasets, lambda listing: "state.json" in listing.names)
