"""Small collections of pictures, texts, and pairs of both."""

import io

import numpy as np
from PIL import Image


def photo(number, form="PNG"):
    """A picture of its own for every number."""
    pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((60, 50), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def collect(folder, n=12):
    """Lay out n items, a third of each modality."""
    (folder / "deep").mkdir(parents=True)
    for number in range(n):
        place = folder / ("deep" if number % 2 else ".")
        kind = ("image", "text", "image_text")[number % 3]
        if kind != "text":
            (place / f"{number}.png").write_bytes(photo(number))
        if kind != "image":
            (place / f"{number}.txt").write_text(f"number {number}, {'word ' * (number % 5)}")
    return folder
