"""Model cards: what a checkpoint is, what it was trained on, how to load it, how good it is."""

import json
from typing import Any

LOADING = {
    "open_clip": """import open_clip
model, _, preprocess = open_clip.create_model_and_transforms(
    "local-dir:PATH/TO/THIS/FOLDER", require_pretrained=True
)""",
    "pruned": """from pathlib import Path
from safetensors.torch import load_file
from gcl.models.modules.pruned_clip import PrunedClip
state = load_file(Path("PATH/TO/THIS/FOLDER/pruned_clip.safetensors"))
model = PrunedClip(state)
model.load_state_dict(state)""",
    "vista": """import json
from pathlib import Path
from safetensors.torch import load_file
from gcl.models.modules.vista import Vista
folder = Path("PATH/TO/THIS/FOLDER")
model = Vista(json.loads((folder / "vista_config.json").read_text(encoding="utf-8"))["vista"])
model.load_state_dict(load_file(folder / "vista.safetensors"))""",
    "row": """from pathlib import Path
from safetensors.torch import load_file
from gcl.common.rows import load_yaml
from gcl.config.project import load
from gcl.models import family
row = load(load_yaml(Path("config/config.yaml"))).backbones["BACKBONE"]
model = family(row.family).build(row, Path("data")).model  # its first weights, which these replace
model.load_state_dict(load_file(Path("PATH/TO/THIS/FOLDER/model.safetensors")))""",
}
FUSION = {
    "sum_raw": "the sum of the outputs of both towers, scaled to length 1",
    "sum_unit": "the sum of the unit outputs of both towers, scaled to length 1",
    "native": "the model's own output for both",
}


def card(about: dict[str, Any], layout: str, title: str, measures: str = "") -> str:
    """Return a card in Markdown, with the front matter that model hubs read.

    Args:
        about: What checkpoint.json holds: backbone, recipe, seed, and data and fusion where known.
        layout: open_clip, pruned, vista or row.
        title: Of the card.
        measures: A table in Markdown, or nothing where none was made.
    """
    recipe, data = about["recipe"], about.get("data", {})
    loss = recipe["loss"]
    trained = "nothing: the public weights as they are" if recipe["epochs"] == 0 else json.dumps(about["trainable"])
    library = "open_clip" if layout == "open_clip" else "gcl-retrieval"
    fusion = about.get("fusion", "")
    source = f"{data['name']}: {data['source']} (licence: {data['licence']})" if data else "not recorded"
    return f"""---
library_name: {library}
pipeline_tag: feature-extraction
license: other
tags: [multimodal-retrieval, contrastive-learning, gcl]
---

# {about["backbone"]}, {title}

Embeds images, texts, and images with a text, for retrieval of any of them by any of them.
An image with a text is {FUSION.get(fusion, "see the backbone's fusion")}.

```python
{LOADING[layout].replace("BACKBONE", about["backbone"])}
```

## Training

- data: {source}
- trained: {trained}; seed {about["seed"]}
- loss: {" ".join(sorted(loss["directions"]))}, denominator {loss["denominator"]}, temperature {loss["temperature"]}
- {recipe["epochs"]} epochs, batch {recipe["batch_size"]}, learning rate {recipe["learning_rate"]:g}, weight decay
  {recipe["weight_decay"]:g}

The licence of the initial weights holds for these, see the backbone's row in `config/datasets.yaml`.

## Measures

{measures or "None were made when this was written; `results/scores` has them after `snakemake`."}
"""
