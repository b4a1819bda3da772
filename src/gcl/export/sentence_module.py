"""A model folder that sentence-transformers opens: texts, images, and both, also mixed in one list.

    model = SentenceTransformer("folder", trust_remote_code=True)
    model.encode(["a red bicycle", Image.open("a.jpg"), {"image": Image.open("b.jpg"), "text": "in blue"}])

It runs on onnxruntime, so it embeds and is not trained further. The class is found by its name: gcl must be installed.
"""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers.base.modules.input_module import InputModule

from gcl.common.errors import UserError
from gcl.common.files import write_json
from gcl.infer.model import Model
from gcl.prepare.pairs import SUFFIXES

SNIPPET = """from sentence_transformers import SentenceTransformer
model = SentenceTransformer("PATH/TO/THIS/FOLDER", trust_remote_code=True)  # needs gcl-retrieval
model.encode(["a red bicycle", Image.open("a.jpg"), {"image": Image.open("b.jpg"), "text": "in blue"}])"""


class GCLEncoder(InputModule):
    """The one module of such a folder."""

    def __init__(self, folder: str | Path) -> None:
        """Open a model folder."""
        super().__init__()
        self.folder = Path(folder)
        self.model = Model(self.folder)
        self.tokenizer = self.model.encoder.tokenizer

    @property
    def modalities(self) -> list[Any]:
        """What it reads; "message" stands for lists in which items differ."""
        return ["text", "image", ("image", "text"), "message"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **more: Any) -> dict[str, Any]:
        """Return pictures and texts of the items, None where an item has none; a prompt stands before every text."""
        images, texts = zip(*map(parts_of, inputs), strict=True) if inputs else ((), ())
        told = [text if text is None else f"{prompt or ''}{text}" for text in texts]
        return {"images": list(images), "texts": told}

    def forward(self, features: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Embed."""
        vectors = self.model.encode(images=features["images"], texts=features["texts"])
        features["sentence_embedding"] = torch.from_numpy(np.ascontiguousarray(vectors))
        return features

    def get_embedding_dimension(self) -> int:
        """Return D."""
        return self.model.width

    def save(self, output_path: str, *arguments: Any, **more: Any) -> None:
        """Copy the model's files."""
        for path in self.folder.iterdir():
            if path.is_file() and path.suffix in (".onnx", ".json", ".data") and path.name not in WRITTEN:
                shutil.copyfile(path, Path(output_path) / path.name)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **more: Any) -> "GCLEncoder":
        """Open the folder, or what a hub has by that name."""
        known = {name: more[name] for name in ("token", "cache_folder", "revision", "local_files_only") if name in more}
        return cls(cls.load_dir_path(model_name_or_path, subfolder=subfolder, **known) or model_name_or_path)


WRITTEN = ("modules.json", "config_sentence_transformers.json")  # by sentence-transformers itself


def parts_of(item: Any) -> tuple[Any, str | None]:
    """Return the picture and the text of an item.

    Raises:
        UserError: it is of no kind that is known.
    """
    if isinstance(item, str):
        is_picture = item.lower().endswith(SUFFIXES) and Path(item).is_file()
        return (item, None) if is_picture else (None, item)
    if isinstance(item, Image.Image | np.ndarray | bytes | Path):
        return item, None
    if isinstance(item, dict) and {"image", "text"} & set(item):
        return item.get("image"), item.get("text")
    if isinstance(item, dict) and "content" in item:
        item = [item]
    if isinstance(item, list) and all(isinstance(message, dict) and "content" in message for message in item):
        pieces = [piece for message in item for piece in contents(message["content"])]
        images = [image for image, _ in pieces if image is not None]
        if len(images) <= 1:
            return (images or [None])[0], " ".join(text for _, text in pieces if text is not None) or None
    raise UserError(
        f"an item is {str(item)[:80]}, expected a text, an image, {{image, text}}, or a message of one image"
    )


def contents(content: Any) -> list[tuple[Any, str | None]]:
    """Return the parts of a message's content, a text or a list of typed parts."""
    if isinstance(content, str):
        return [(None, content)]
    return [(part.get("image"), part.get("text")) for part in content]


def write_folder(folder: Path) -> None:
    """Add to a model folder what sentence-transformers looks for."""
    name = f"{GCLEncoder.__module__}.{GCLEncoder.__name__}"
    modules = [{"idx": 0, "name": "0", "path": "", "type": name}]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    versions = {"sentence_transformers": version("sentence-transformers")}
    about = {"__version__": versions, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", about)
