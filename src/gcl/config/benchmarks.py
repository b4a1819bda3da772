"""What a row of benchmarks.yaml may say: the data, the protocol, and the facts that are checked against it."""

from dataclasses import field
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from gcl.common.rows import STRICT, Count, Modality

Measure = Annotated[str, Field(pattern=r"^(Success|R|nDCG|AP|APmin)@[1-9]\d*$")]


def cutoff_of(measure: str) -> int:
    """Return k of Name@k."""
    return int(measure.split("@")[1])


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImagesFrom:
    """The data set that holds a benchmark's images, where that is not the benchmark's own."""

    dataset: str  # a row of datasets.yaml
    folder: str = "."  # below data/<dataset>/
    tasks: list[str] = field(default_factory=list)  # what to fetch of it, if not what the benchmark's own tasks need


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Captions:
    """What is written of a benchmark's images, which its items have in their place or beside them."""

    file: str  # JSON lines of image and caption, gcl.data.textualise
    keep_images: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskFacts:
    """What is known of a task beforehand; numbers are checked when it is read."""

    dataset: str | None = None  # tasks of one data set are averaged before data sets are
    groups: list[str] = field(default_factory=list)  # each has a mean of its own
    headline: Measure | None = None  # instead of the benchmark's
    query: Modality | None = None
    candidate: Modality | None = None
    queries: Count | None = None
    candidates: Count | None = None  # in the local pool, or in each query's own list


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Benchmark:
    """A set of retrieval tasks."""

    dataset: str = ""  # a row of datasets.yaml; none: the pairs of the config
    images: ImagesFrom | None = None  # none: beside the annotations
    captions: Captions | None = None  # none: images are images
    reader: str  # a module of gcl.prepare.benchmarks
    split: str
    title: str
    table: str | None = None  # results/tables/<table>.*, which benchmarks may share; none: the benchmark's name
    options: dict[str, Any] = field(default_factory=dict)  # the reader's own
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    measures: list[Measure]
    headline: Measure  # in the summary
    aliases: dict[str, str] = field(default_factory=dict)  # measure -> what the benchmark's authors call it
    reject_limit: Annotated[float, Field(ge=0, le=1)] = 0.0  # largest share of unusable images that is tolerated
