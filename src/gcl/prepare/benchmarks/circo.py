"""CIRCO (arXiv 2303.15247): an image, a change, and all images of COCO's unlabelled part that have it.

circo      every right image counts (mAP@k, which is our APmin@k)
circo_one  the one image that the change was written for (Recall@k)

The reference image is left out of the ranking. The labels of the test split are hidden.
"""

from pathlib import Path

from pydantic.dataclasses import dataclass

from gcl.common.errors import UserError
from gcl.common.rows import STRICT
from gcl.config.benchmarks import Benchmark
from gcl.data.annotations import clean_edit, locate, read_json, read_records, text_of, value_of
from gcl.data.items import Contents, Excluded, Item, Qrel, Task
from gcl.prepare.benchmarks import Reader, Upload

GALLERY = "COCO2017_unlabeled/unlabeled2017"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """CIRCO has one protocol."""


def read_circo(folder: Path, images: Path, row: Benchmark) -> Contents:
    """Read one split: val, or test without labels.

    Raises:
        UserError: a record in another form, named by its number.
    """
    path = folder / "COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"
    known = {}
    for info in value_of(read_json(path), "images", list, str(path)):
        image = str(value_of(info, "id", int, str(path)))
        name = value_of(info, "file_name", str, f"{path} image {image}")
        known[image] = locate(images, f"{GALLERY}/{name}", f"{path} image {image}")
    path = folder / f"annotations/{row.split}.json"
    names = ("circo", "circo_one")
    queries, qrels, excluded = [], [], []
    for place, record in read_records(path):
        query = str(value_of(record, "id", int, place))
        reference = str(value_of(record, "reference_img_id", int, place))
        if reference not in known:
            raise UserError(f"{place}: reference image {reference} is not in the gallery")
        queries.append(Item(query, clean_edit(text_of(record, "relative_caption", place)), (known[reference],)))
        excluded += [Excluded(name, query, [reference]) for name in names]
        if "gt_img_ids" in record:
            qrels += [Qrel("circo", query, str(image)) for image in value_of(record, "gt_img_ids", list, place)]
        if "target_img_id" in record:
            qrels.append(Qrel("circo_one", query, str(record["target_img_id"])))
    pool = [Item(name, None, (location,)) for name, location in known.items()]
    tasks = [Task(name, "image_text", "image", "query", {"all": ["pool"]}) for name in names]
    return Contents({"query": queries, "pool": pool}, tasks, qrels, [], excluded)


def upload(task: str, pool: str, ranked: dict[str, list[str]]) -> Upload | None:
    """Return name and content of CIRCO's file; source: the data set's README."""
    return ("circo", {query: [*map(int, names[:50])] for query, names in ranked.items()}) if task == "circo" else None


READER = Reader(read_circo, Options, upload, 50)
