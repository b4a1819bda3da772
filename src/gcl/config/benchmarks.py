"""What a row of benchmarks.yaml may say: the data, the protocol, and the facts that are checked against it."""

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gcl.common.rows import STRICT, Count, Modality

Prompts = Literal["none", "first", "seeded"]
Measure = Annotated[str, Field(pattern=r"^(Success|R|nDCG|AP|APmin)@[1-9]\d*$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ImagesFrom:
    """The data set that holds a benchmark's images, where that is not the benchmark's own."""

    dataset: str  # a row of datasets.yaml
    folder: str = "."  # below data/<dataset>/
    tasks: list[str] = field(default_factory=list)  # what to fetch of it, if not what the benchmark's own tasks need


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
class Clipart9Options:
    """clipart9 has one protocol."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MbeirOptions:
    """The protocol of M-BEIR; the global pool is there if all tasks are."""

    tasks: list[str] = field(default_factory=list)  # none: all that the row lists
    prompts: Prompts = "none"  # what is said before a query: nothing, the first prompt, or one chosen by the query's id


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MmebOptions:
    """The protocol of MMEB."""

    tasks: list[str] = field(default_factory=list)  # none: all that the row lists
    instructions: Literal["strip", "keep"] = "strip"
    mixed: list[str] = field(default_factory=list)  # tasks whose candidates make one pool besides; none: no such pool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CovrOptions:
    """The protocol of WebVid-CoVR."""

    annotations: str  # the CSV file
    pooling: Literal["mean", "middle", "scores"] = "mean"
    frames: Count = 15  # of a target, at most
    bgr_targets: bool = False  # swap red and blue in targets, as the published embeddings have it


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CirrOptions:
    """The protocol of CIRR."""

    gallery: Literal["split", "folder"] = "split"  # the split file's images, or every image of the split's folder


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FashioniqOptions:
    """The protocol of FashionIQ."""

    gallery: Literal["split", "val"] = "split"  # the split file's images, or only references and targets
    mask_reference: bool = True


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CircoOptions:
    """CIRCO has one protocol."""


OPTIONS: dict[str, type] = {
    "clipart9": Clipart9Options,
    "mbeir": MbeirOptions,
    "mmeb": MmebOptions,
    "covr": CovrOptions,
    "cirr": CirrOptions,
    "fashioniq": FashioniqOptions,
    "circo": CircoOptions,
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Benchmark:
    """A set of retrieval tasks."""

    dataset: str  # a row of datasets.yaml
    images: ImagesFrom | None = None  # none: beside the annotations
    reader: str  # a key of benchmarks.READERS
    split: str
    title: str
    table: str | None = None  # results/tables/<table>.*, which benchmarks may share; none: the benchmark's name
    options: dict[str, Any] = field(default_factory=dict)  # the reader's, see OPTIONS
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    measures: list[Measure]
    headline: Measure  # in the summary
    aliases: dict[str, str] = field(default_factory=dict)  # measure -> what the benchmark's authors call it
    reject_limit: Annotated[float, Field(ge=0, le=1)] = 0.0  # largest share of unusable images that is tolerated
