"""One image tower for everything: text is drawn on the canvas that the image is on (VC2L, arXiv 2510.18703).

A canvas has four quadrants of 2 x 2, each as large as an image is read (`preprocess.size`, a multiple of 16). An image
takes the first; text flows through the others in reading order, or through all four where there is no image: lines of
16 pixels, black on grey, glyphs as wide as they are with a column of space before, broken wherever a line is full.

The tokenizer gives a number for each character, lower case; the graph draws them, so that inference needs no font.
The font is a Unifont .hex file, as VC2L's is, or a TrueType file, drawn at SIZE without grey levels.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gcl.common.errors import UserError
from gcl.config.backbones import Backbone
from gcl.models.base import Built, Family, Graph, Keys

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

HEIGHT = 16  # pixels of a line, and of the widest glyph
SPACE, NARROWEST = 1, 4  # columns before a glyph, and what it has at least
SIZE = 13  # points at which a TrueType font's lines are HEIGHT high
LAST = 0x2FFF  # code point; those beyond are not drawn: ideographs would make the table a hundred times as large
PAD, UNKNOWN = "[PAD]", "[UNK]"  # nothing, and an empty glyph
SHARED = Keys("proj.0.weight", "proj.0.bias", "proj.2.weight", lambda features, embedding: (features + embedding) // 2)
HEADS = {"image": SHARED, "text": SHARED, "image_text": SHARED}


def read_font(path: Path) -> dict[str, np.ndarray]:
    """Return (16, 16) bits of every character of a font.

    Raises:
        UserError: it is neither a Unifont .hex file nor a TrueType file.
    """
    try:
        return read_hex(path) if path.suffix == ".hex" else draw_font(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the font {path}: {error}; expected a Unifont .hex or a TrueType file") from error


def read_hex(path: Path) -> dict[str, np.ndarray]:
    """Read lines of code point:bits, 8 or 16 columns in 16 rows."""
    glyphs = {}
    for line in path.read_text(encoding="ascii").split():
        point, _, bits = line.partition(":")
        if int(point, 16) <= LAST:
            rows = np.frombuffer(bytes.fromhex(bits), np.uint8).reshape(HEIGHT, -1)
            glyph = np.unpackbits(rows, axis=1)
            glyphs[chr(int(point, 16))] = np.pad(glyph, ((0, 0), (0, HEIGHT - glyph.shape[1])))
    return glyphs


def draw_font(path: Path) -> dict[str, np.ndarray]:
    """Draw every character of a TrueType font."""
    from fontTools.ttLib import TTFont, TTLibError
    from PIL import Image, ImageDraw, ImageFont

    try:
        points = sorted(TTFont(path).getBestCmap())
    except TTLibError as error:
        raise UserError(str(error)) from error
    font, glyphs = ImageFont.truetype(str(path), SIZE, layout_engine=ImageFont.Layout.BASIC), {}
    for point in points:
        if 32 <= point <= LAST:
            canvas = Image.new("1", (HEIGHT, HEIGHT))
            ImageDraw.Draw(canvas).text((1, 0), chr(point), fill=1, font=font)
            glyphs[chr(point)] = np.asarray(canvas, np.uint8)
    return glyphs


def trimmed(glyph: np.ndarray) -> np.ndarray:
    """Return the columns (16, w) that a glyph takes in a line."""
    inked = np.flatnonzero(glyph.any(0))
    first, last = (int(inked[0]), int(inked[-1])) if len(inked) else (0, 0)
    first = max(first - SPACE, 0)
    return glyph[:, first : max(last + SPACE, first + NARROWEST)]


def glyph_table(glyphs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return (V, 16 columns, 16 rows) bits and (V,) widths: of padding, of what is unknown, and of the glyphs."""
    columns, widths = (
        np.zeros((2 + len(glyphs), HEIGHT, HEIGHT), np.uint8),
        np.array([0, NARROWEST] + [0] * len(glyphs)),
    )
    for row, glyph in enumerate(map(trimmed, glyphs), 2):
        columns[row, : glyph.shape[1]], widths[row] = glyph.T, glyph.shape[1]
    return columns, widths


def characters(known: list[str], context: int) -> "Tokenizer":
    """Return a tokenizer that gives each character its number."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {PAD: 0, UNKNOWN: 1} | {character: row for row, character in enumerate(known, 2)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(pad_id=0, pad_token=PAD)
    return tokenizer


def build(backbone: Backbone, data: Path) -> Built:
    """Build the model with a pretrained image trunk and fresh heads, in eval mode.

    Raises:
        UserError: a weight file that doesn't fit, no font, or a size that lines don't fill.
    """
    from gcl.models.modules.pixel import Pixel
    from gcl.models.timm_hf import load_trunk

    how, context = backbone.preprocess, backbone.context
    if how is None or context is None or how.size % HEIGHT or how.size < 2 * HEIGHT:
        raise UserError(
            "a row of family pixel needs context, and preprocess with a size that is a multiple of 16, 32 or more"
        )
    if lacking := [name for name in ("image", "font") if name not in backbone.weights]:
        raise UserError(f"a row of family pixel needs weights: {' and '.join(lacking)}; it has {[*backbone.weights]}")
    font = read_font(data / backbone.weights["font"])
    known = sorted(font)
    columns, widths = glyph_table([font[character] for character in known])
    config = copy.deepcopy(backbone.model_cfg)
    model = Pixel(config, how, columns, widths)
    load_trunk(model.trunk, config, data / backbone.weights["image"])

    def graphs() -> dict[str, Graph]:
        return graphs_of(model, how.size, context)

    tokenizer = characters(known, context)
    about = {"fused_context": context}
    return Built(model.eval(), model.encode_triplet, graphs, how, tokenizer, "none", {}, "row", about)


def graphs_of(model: Any, size: int, context: int, head: bool = True) -> dict[str, Graph]:
    """Return image (pixels -> vector and the pixels as tokens), text, and image_text (those and ids -> vector)."""
    from gcl.models.modules.native import native_graphs

    def image(pixels: "Tensor") -> "tuple[Tensor, Tensor]":
        return model.encode_image(pixels, head), pixels * 1

    def text(ids: "Tensor") -> "Tensor":
        vectors: Tensor = model.encode_text(ids, head)
        return vectors

    def fused(image_tokens: "Tensor", ids: "Tensor") -> "Tensor":
        vectors: Tensor = model.encode_fused(image_tokens, ids, head)
        return vectors

    return native_graphs(model, image, text, fused, size, (2, len(model.widths)), 0, (context, context))


def towers(built: Built) -> dict[str, Graph]:
    """Return the graphs without the projection head."""
    from gcl.models.tokenizers import context_of

    return graphs_of(built.model, built.preprocess.size, context_of(built.tokenizer), head=False)


FAMILY = Family(build, towers, HEADS)
