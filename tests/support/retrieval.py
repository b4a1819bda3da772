"""What `retrieve` reads of a model, without one."""

import json

import numpy as np


def write_model(embeddings, onnx, image, text, fusion="sum_raw", seed=0):
    """Write a model's outputs for the images and texts of a benchmark, and what its export says of it."""
    for folder in (embeddings, onnx):
        folder.mkdir(parents=True)
    np.save(embeddings / "image.npy", image)
    np.save(embeddings / "text.npy", text)
    (onnx / "export.json").write_text(json.dumps({"fusion": fusion, "seed": seed}))
