"""Where images lie, and how they become arrays.

A location is a path, relative to the working folder, to an image file, or path::key for an image within a
file that holds many: a member's name in x.zip and x.tar, a row in x.parquet and x.arrow.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gcl.config import Preprocess
from gcl.packed import read_member

MAX_PIXELS = 100_000_000  # checked before decoding


def read_bytes(location: str) -> bytes:
    """Return the encoded image at a location."""
    path, separator, key = location.partition("::")
    if separator:
        return read_member(path, key)
    try:
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise ValueError(f"no image file is named ({path} is a folder)") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error


def decode(data: bytes, name: str) -> Image.Image:
    """Decode to RGB on white.

    Raises:
        ValueError: not an image, truncated, or more than MAX_PIXELS; names the image.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"image {name} has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"can't decode image {name} ({len(data)} bytes): {error}") from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    if image.mode.startswith("I"):  # 16 bits: a plain conversion makes white of all but the darkest
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError(f"image {name} has pixels of floating point, whose scale is unknown")
    return image.convert("RGB")


def to_array(image: Image.Image, how: Preprocess) -> np.ndarray:
    """Resize and normalise an RGB image to (3, size, size) float32."""
    size = (how.size, how.size)
    if how.resize == "shortest_crop":
        scale = how.size / min(image.size)
        image = image.resize([max(how.size, round(n * scale)) for n in image.size], Image.Resampling.BICUBIC)
        left, top = ((n - how.size) // 2 for n in image.size)
        image = image.crop((left, top, left + how.size, top + how.size))
    elif image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255  # (size, size, 3)
    pixels = (pixels - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def load(location: str, how: Preprocess) -> np.ndarray:
    """Read, decode and preprocess the image at a location: (3, size, size) float32."""
    return to_array(decode(read_bytes(location), location), how)
