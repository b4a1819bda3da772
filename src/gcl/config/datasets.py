"""What a row of datasets.yaml may say: files, where they come from, and how they are unpacked."""

from collections.abc import Collection
from dataclasses import field, replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gcl.common.rows import STRICT, Count

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class File:
    """One file of a data set, and where it comes from. At most one source is set, none for a shipped file.

    A hub file at a pinned revision may lack its hash until somebody has downloaded it: fetched.json
    says what was found.
    """

    sha256: Sha256 | None = None
    bytes: Count | None = None
    path: str  # below data/<name>/
    tasks: list[str] = field(default_factory=list)  # tasks of a benchmark that need it; none: always fetched
    package: str | None = None  # "module/inner/path": a file of an installed Python package
    urls: list[str] = field(default_factory=list)  # tried in order
    hub: str | None = None  # "org/name@revision/inner/path" on the Hugging Face hub


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Archive:
    """A tar file among the files, perhaps in parts, that is unpacked after they are checked."""

    parts: list[str]  # paths of files, in order
    to: str = "."  # folder below data/<name>/
    strip: Annotated[int, Field(ge=0)] = 0  # leading folders that are dropped from members' names
    members: dict[str, list[str]] = field(default_factory=dict)  # prefix of names -> tasks that need it; none: all
    bytes: Count | None = None  # unpacked, for the check of free space
    discard: bool = False  # remove the parts once they are unpacked


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Videos:
    """Videos that are fetched from wherever they still are; what can't be had is listed, not fatal."""

    urls: str  # path of a JSON file among the files: name of the video -> URL
    to: str  # folder below data/<name>/


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dataset:
    """Files that are fetched together, and how their pairs are read."""

    source: str
    licence: str
    files: list[File]
    archives: list[Archive] = field(default_factory=list)
    videos: Videos | None = None
    pairs: str | None = None  # a module of prepare/pairs/, for data sets that train
    triplets: str | None = None  # a form of prepare/triplets.py, for those of triplets


def selected(dataset: Dataset, tasks: Collection[str] | None) -> Dataset:
    """Return what is left of a data set if only some tasks of a benchmark are wanted; None: all."""
    if tasks is None:
        return dataset

    def is_wanted(needed_by: Collection[str]) -> bool:
        return not needed_by or bool(set(needed_by) & set(tasks))

    archives = [
        replace(archive, members={prefix: names for prefix, names in archive.members.items() if is_wanted(names)})
        for archive in dataset.archives
        if not archive.members or any(map(is_wanted, archive.members.values()))
    ]
    files = [file for file in dataset.files if is_wanted(file.tasks)]
    return replace(dataset, files=files, archives=archives)
