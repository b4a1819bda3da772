"""A benchmark whose images are written as captions that somebody brings: from a captioner, or typed.

    {"image": "val2017/000000000139.jpg", "caption": "a living room with a television"}

A JSON object a line; `image` is where the image lies below the benchmark's folder of images, `pictures.parquet::12` for
a row of a Parquet file. Several captions of an image are joined. Without images the benchmark is a search of texts by
texts (Vision-Free Retrieval, arXiv 2509.19203); with them an item has both, which a model whose fusion is a sum weighs
alike.
"""

from collections.abc import Mapping
from pathlib import Path

from gcl.common.errors import UserError
from gcl.data.annotations import read_jsonl, text_of
from gcl.data.images import UPRIGHT
from gcl.data.items import Contents, Item, Task

SHOWN = 5  # images without a caption that a message names


def read_captions(path: Path) -> dict[str, str]:
    """Read image -> caption.

    Raises:
        UserError: no such file, a line in another form, or none at all.
    """
    if not path.is_file():
        raise UserError(f"captions: there is no file {path}; write one, a line for each image, or leave `captions` out")
    captions: dict[str, str] = {}
    for place, record in read_jsonl(path):
        image, caption = text_of(record, "image", place), text_of(record, "caption", place).strip()
        if not caption:
            raise UserError(f"{place}: 'caption' is blank, expected what '{image}' shows")
        captions[image] = f"{captions[image]} {caption}" if image in captions else caption
    if not captions:
        raise UserError(f"{path} holds no caption; expected lines like " + '{"image": "a.jpg", "caption": "a cat"}')
    return captions


def textualised(contents: Contents, captions: Mapping[str, str], images: Path, keep_images: bool) -> Contents:
    """Return a benchmark whose images are captions, or are joined by them.

    Args:
        contents: as a reader gives it.
        captions: image -> caption, the images below `images`.
        images: folder of them.
        keep_images: an item keeps its images, and their captions come to its text.

    Raises:
        UserError: an image without a caption.
    """

    def name_of(location: str) -> str:
        """Return how the captions call an image."""
        return location.removeprefix(f"{images}/").removesuffix(UPRIGHT)

    wanted = {name_of(image): None for items in contents.tables.values() for item in items for image in item.images}
    if lacking := [name for name in wanted if name not in captions]:
        raise UserError(
            f"{len(lacking)} of {len(wanted)} images have no caption: {', '.join(lacking[:SHOWN])}; add a line "
            f"for each, with 'image' as it is written here"
        )

    def written(item: Item) -> Item:
        """Write an item's images as text, after its own."""
        if not item.images:
            return item
        text = " ".join([*([item.text] if item.text else []), *(captions[name_of(image)] for image in item.images)])
        return item._replace(text=text) if keep_images else Item(item.item_id, text, ())

    tables = {name: [written(item) for item in items] for name, items in contents.tables.items()}
    return contents._replace(tables=tables, tasks=[of_texts(task, keep_images) for task in contents.tasks])


def of_texts(task: Task, keep_images: bool) -> Task:
    """Return a task with the modalities that its items then have."""
    shown = {"image": "image_text"} if keep_images else {"image": "text", "image_text": "text"}
    query, candidate = (shown.get(m, m) for m in (task.query_modality, task.candidate_modality))
    return task._replace(query_modality=query, candidate_modality=candidate)
