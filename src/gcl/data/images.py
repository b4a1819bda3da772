"""Where images lie, and how they become arrays.

A location is a path, relative to the working folder, to an image file, or path::key for an image within a
file that holds many: a member's name in x.zip and x.tar, a row in x.parquet and x.arrow. Behind it may stand
::upright, for an image that is turned by its EXIF orientation, and ::part/left/top/width/height, for a part of it.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from gcl.common.devices import in_threads
from gcl.common.errors import UserError
from gcl.common.files import begin, key_of
from gcl.config.backbones import Preprocess
from gcl.data.containers import read_member

EXAMINED = 4096  # images whose examination is kept at a time
MAX_PIXELS = 100_000_000  # checked before decoding
# Raster formats alone: Pillow would start Ghostscript on what calls itself PostScript, whatever the file's name.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PCX")
UPRIGHT = "::upright"  # at the end of a location: the image is turned by its EXIF orientation
PART = "::part/"  # before left/top/width/height in percent
MARGIN = 2  # times the size that is needed, at which a JPEG is decoded


def read_bytes(location: str) -> bytes:
    """Return the encoded image at a location; of a part of one, its pixels as PPM, whose bytes depend on no encoder."""
    place, is_part, box = location.rpartition(PART)
    if is_part:
        return part_of(open_image(place), box)
    path, separator, key = location.removesuffix(UPRIGHT).partition("::")
    if separator:
        return read_member(path, key)
    try:
        return Path(path).read_bytes()
    except IsADirectoryError as error:
        raise UserError(f"no image file is named ({path} is a folder)") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error


def part_of(image: Image.Image, box: str) -> bytes:
    """Encode a part of an image, left/top/width/height in percent, as PPM."""
    left, top, width, height = (int(number) / 100 for number in box.split("/"))
    corner = round(left * image.width), round(top * image.height)
    size = max(1, round(width * image.width)), max(1, round(height * image.height))
    buffer = io.BytesIO()
    image.crop((*corner, corner[0] + size[0], corner[1] + size[1])).save(buffer, "PPM")
    return buffer.getvalue()


def open_image(location: str, least: int = 0, sha256: str | None = None, upright: bool = False) -> Image.Image:
    """Read and decode the image at a location.

    Args:
        location: where it lies.
        least: as of `decode`.
        sha256: of its bytes, as `prepare` read them; none: any.
        upright: turn it as its EXIF orientation says, also where the location does not say so.

    Raises:
        UserError: it can't be read or decoded, or its bytes are others.
    """
    data = read_bytes(location)
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            f"{location} is another image than `prepare` read (relative to {Path.cwd()}); run `prepare` again, or give "
            "the folder that it was run in"
        )
    return decode(data, location, least, upright or location.endswith(UPRIGHT))


def decode(data: bytes, name: str, least: int = 0, upright: bool = False) -> Image.Image:
    """Decode to RGB on white.

    Args:
        data: the encoded image.
        name: for messages.
        least: pixels that both sides must keep: a JPEG may come out at a half, quarter or eighth of its size, which
            its decoder gets for less time. 0: the whole size.
        upright: turn it as its EXIF orientation says.

    Raises:
        UserError: not an image, truncated, or more than MAX_PIXELS; names the image.
    """
    image = loaded(data, name, least)
    return to_rgb(turned_upright(image, name) if upright else image, name)


def loaded(data: bytes, name: str, least: int = 0, most: int | None = None) -> Image.Image:
    """Decode to whatever mode the file has; as `decode`, with at most so many pixels (MAX_PIXELS)."""
    most = MAX_PIXELS if most is None else most
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > most:
            raise UserError(f"image {name} has {image.width}x{image.height} pixels, more than {most:,}")
        if least:
            image.draft(None, (least, least))  # type: ignore[arg-type]  # of JPEG; nothing for others
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"can't decode image {name} ({len(data)} bytes): {reason_of(error)}") from error
    return image


def turned_upright(image: Image.Image, name: str) -> Image.Image:
    """Turn a decoded image by its EXIF orientation, if it has one; a block that can't be read is a UserError."""
    try:
        return ImageOps.exif_transpose(image) if is_turned(image) else image
    except Exception as error:  # many kinds
        raise UserError(f"image {name} has an EXIF block that can't be read: {error!r}") from error


def is_turned(image: Image.Image) -> bool:
    """Tell whether a decoded image lies on its side, upside down or mirrored by its EXIF orientation."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # a broken EXIF block raises many kinds; the pixels are there all the same
        return False


def reason_of(error: Exception) -> str:
    """Say what a decoder says, without the address of the buffer that it was given, which differs each time."""
    return re.sub(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>", "", str(error))


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Convert a decoded image of any mode to RGB, what is transparent on white.

    Raises:
        UserError: pixels of floating point; names the image.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    if image.mode.startswith("I"):  # 16 bits: a plain conversion makes white of all but the darkest
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"image {name} has pixels of floating point, whose scale is unknown")
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
    pixels, values = np.asarray(image), normalised(how.mean, how.std)
    array = np.empty((3, *size), np.float32)
    for channel in range(3):
        np.take(values[channel], pixels[:, :, channel], out=array[channel], mode="clip")
    return array


@cache
def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return what becomes of each of the 256 values of a pixel, (3, 256): a look-up is quicker than arithmetic."""
    values = np.arange(256, dtype=np.float32)[None] / 255
    return (values - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]


def load(location: str, how: Preprocess, sha256: str | None = None) -> np.ndarray:
    """Read, decode and preprocess the image at a location: (3, size, size) float32; with a hash, only those bytes.

    A JPEG is decoded at a reduced size of at least MARGIN times what is needed: pixels differ by a fraction of 1/255 on
    average (results/benchmarks/embedding.json).
    """
    return to_array(open_image(location, MARGIN * how.size, sha256), how)


class Examined(NamedTuple):
    """What is found of an image."""

    sha256: str  # of its bytes
    fault: str  # what is wrong with it; then there is no hash
    is_turned: bool = False  # by its EXIF orientation, of which its location does not say yet


def examine(location: str) -> Examined:
    """Decode an image, and turn it if its EXIF orientation says so."""
    try:
        data = read_bytes(location)
        image = loaded(data, location)
        turns = is_turned(image)
        to_rgb(turned_upright(image, location), location)
    except (OSError, ValueError) as error:
        return Examined("", str(error))
    return Examined(hashlib.sha256(data).hexdigest(), "", turns and not location.endswith(UPRIGHT))


def examined(locations: list[str], workers: int, work: Path) -> Iterator[Examined]:
    """Examine images in threads; of many, what was found is kept, and a process that was killed goes on.

    Args:
        locations: of the images.
        workers: threads.
        work: a folder for what was found; whoever has used it all removes it.
    """
    if len(locations) <= EXAMINED:
        yield from in_threads(examine, locations, workers, EXAMINED)
        return
    begin(work, key_of(*locations))
    with (work / "examined.jsonl").open("ab+") as file:
        file.seek(0)
        lines = [line for line in file if line.endswith(b"\n")]
        file.truncate(sum(map(len, lines)))  # the last may have been cut
        yield from (Examined(*json.loads(line)) for line in lines)
        for start in range(len(lines), len(locations), EXAMINED):
            images = [*in_threads(examine, locations[start : start + EXAMINED], workers, EXAMINED)]
            file.write("".join(json.dumps(image) + "\n" for image in images).encode())
            file.flush()
            yield from images
