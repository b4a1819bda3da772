"""Tar shards as img2dataset writes them: 000000000.jpg, 000000000.txt, 000000000.json; read in place."""

from collections.abc import Iterator
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.containers import TarIndex, tar_index
from gcl.data.records import Pair
from gcl.prepare.captions import side_car_captions
from gcl.prepare.folders import is_of_the_system, of_training
from gcl.prepare.pairs import SIDE_CARS, SUFFIXES, PairReader, at_fault, checked


def webdataset(folder: Path) -> Iterator[Pair]:
    """Read the shards in the order of their names; members of one stem are one record."""
    shards = of_training(sorted(folder.glob("*.tar")), folder, lambda path: path)
    if not shards:
        raise UserError(f"{folder} holds no .tar shard")
    for shard in shards:
        index = tar_index(str(shard))
        records: dict[str, dict[str, str]] = {}
        for member in index.members:
            if not is_of_the_system(member):
                stem, _, suffix = member.rpartition(".") if "." in member.rpartition("/")[2] else (member, "", "")
                records.setdefault(stem, {})["." + suffix.lower()] = member
        for stem, files in records.items():
            if len(files) > 1 or ".txt" in files or set(files) & set(SUFFIXES):  # else an index or a statistic
                yield shard_pair(shard, stem, files, index)


def shard_pair(shard: Path, stem: str, files: dict[str, str], index: TarIndex) -> Pair:
    """Make a pair of the members of one stem."""
    name, image = f"{shard.name}/{stem}", next((files[s] for s in SUFFIXES if s in files), None)
    if image is None:
        return at_fault(name, f"{shard}::{stem}", f"no image among {', '.join(sorted(files.values()))}")

    def captions() -> tuple[str, ...]:
        suffix = next((s for s in SIDE_CARS if s in files), None)
        return side_car_captions(suffix, index.read(files[suffix])) if suffix else ()

    return checked(name, f"{shard}::{image}", captions)


READER = PairReader(webdataset, lambda listing: any(name.endswith(".tar") for name in listing.tops))
