"""Build the embedded data set from Debian's Open Clip Art packages (public domain).

In:  openclipart-png_0.18 and openclipart-svg_0.18, the two .deb files.
Out: data/openclipart/pictures.parquet, one row per distinct picture, and rejects.csv beside it.

The packages file one drawing under several categories, so most titles with "several images" have one
picture several times. Here a picture is what it shows: copies become one row with all their keywords.
A *subject* gathers pictures of one thing ("Violin (Colour)", "Violin (B and W)", "violin"), and the
splits are drawn by subject: nothing of a held-out subject, and no near-copy of it, is left in training.
"""

import argparse
import hashlib
import io
import logging
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from gcl.common.csv_files import write_csv
from gcl.common.errors import UserError
from gcl.common.files import atomic_path, sha256_file

log = logging.getLogger(__name__)

PACKAGES = {  # Debian 1:0.18+dfsg-19
    "png": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "svg": "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
}
SIDE = 224  # pixels
MAX_PIXELS = 300_000_000  # a decoded RGBA image of this size takes 1.2 GB; two files claim 623 megapixels
MAX_SAME_TITLE = 4  # more is a collection's name ("Lemon SVG theme"), not a title
NEAR_COPY = 0.02  # root mean square difference of 16x16 RGB thumbnails in 0..1
SUBJECT_SIZES = range(2, 9)  # pictures of a subject that may be held out
SPLITS = {"test": 180, "validation": 55}  # subjects; the rest trains

DC = "{http://purl.org/dc/elements/1.1/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
ADDRESS = re.compile(r"\S*(?:@|https?:|www\.)\S*")
PERL_LEFTOVER = re.compile(r"hash|\(?0x[0-9a-f]+\)?|hash\(0x[0-9a-f]+\)|unsorted|\d+", re.IGNORECASE)
BY_AUTHOR = re.compile(r"^clipart by [^-]+- *", re.IGNORECASE)
COLLECTION = re.compile(r"flat icon collection", re.IGNORECASE)
TOOL = re.compile(r"^(?:created|made|drawn) (?:with|in|using) .*$|^contact:.*$", re.IGNORECASE)
VARIANT_WORDS = frozenset(
    """black white bw red green blue yellow orange purple pink brown grey gray gold silver violet
    colour color coloured colored and the of version new simple""".split()
)


class Picture(NamedTuple):
    """One distinct picture. `image` is a lossy WebP, SIDE x SIDE, on white."""

    picture_id: str
    subject: str
    title: str
    keywords: list[str]
    description: str
    creator: str
    sources: list[str]
    image: bytes
    thumbnail: np.ndarray  # (16, 16, 3) float32 in 0..1


def members(deb: Path, suffix: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield (path without suffix, file) for each file of a Debian package, in archive order."""
    with deb.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise UserError(f"{deb} is not a Debian package (no ar header)")
        while header := file.read(60):
            name, size = header[:16].decode().strip(), int(header[48:58])
            if name.startswith("data.tar"):
                break
            file.seek(size + size % 2, io.SEEK_CUR)
        else:
            raise UserError(f"{deb} holds no data.tar member")
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                path = member.name.partition(f"openclipart/{suffix}/")[2]
                if member.isfile() and path.endswith(f".{suffix}"):
                    yield path[: -len(suffix) - 1], tar.extractfile(member)  # type: ignore[misc]


def squeeze(text: str | None) -> str:
    """Collapse white space and drop addresses: no e-mail is redistributed."""
    return " ".join(ADDRESS.sub(" ", text or "").split())


def metadata(svg: BinaryIO) -> dict[str, Any]:
    """Read title, keywords, description, creator and licence from an SVG's RDF block."""
    work = next((e for e in ElementTree.parse(svg).iter() if e.tag.endswith("}Work")), None)
    if work is None:
        raise UserError("no RDF metadata")
    raw_title = " ".join((work.findtext(f"{DC}title") or "").split())
    description = TOOL.sub("", squeeze(work.findtext(f"{DC}description")))
    creator = squeeze(next((e.findtext(f".//{DC}title") for e in work if e.tag == f"{DC}creator"), ""))
    keywords = (squeeze(e.text).casefold().replace("_", " ") for e in work.iter(f"{RDF}li"))
    return {
        "title": BY_AUTHOR.sub("", raw_title).replace("_", " ").strip(" -"),
        "keywords": [k for k in keywords if k not in ("", creator.casefold()) and not PERL_LEFTOVER.fullmatch(k)],
        "description": "" if PERL_LEFTOVER.fullmatch(description) else description,
        "creator": creator,
        "is_public_domain": any(
            "publicdomain" in e.get(f"{RDF}resource", "").lower() for e in work if e.tag.endswith("}license")
        ),
    }


def reason_to_reject(row: dict[str, Any], same_title: int) -> str:
    """Say why a file can't be used, or return an empty string."""
    if not row["is_public_domain"]:
        return "licence is not public domain"
    if not row["title"]:
        return "no title"
    if ADDRESS.search(row["title"]):
        return "title is an address"
    if same_title > MAX_SAME_TITLE or COLLECTION.search(row["title"]):
        return "title names a collection"
    return ""


def subject_of(title: str) -> str:
    """Reduce a title to the thing shown: no brackets, numbers, colours or joining words."""
    words = re.sub(r"\(.*?\)|[^a-z]+", " ", title.casefold()).split()
    return " ".join(w for w in words if len(w) > 1 and w not in VARIANT_WORDS)


def render(file: BinaryIO) -> Image.Image:
    """Decode a PNG, flatten it on white, fit it into a SIDE x SIDE square."""
    image: Image.Image = Image.open(file)
    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    image = image.convert("RGBA")
    image = image.reduce(max(1, max(image.size) // (4 * SIDE)))
    scale = SIDE / max(image.size)
    image = image.resize([max(1, round(n * scale)) for n in image.size], Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square.convert("RGB")


def encode(image: Image.Image) -> bytes:
    """Compress to WebP, near-lossless for flat colours and small for gradients."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=6)
    return buffer.getvalue()


def thumbnail(image: Image.Image) -> np.ndarray:
    """Shrink to (16, 16, 3) float32 in 0..1, the space in which near-copies are measured."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32) / 255


def read_rows(svg_deb: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]]]:
    """Return usable metadata by path, and (path, reason) of what is rejected."""
    rows, rejects = {}, []
    for path, file in tqdm(members(svg_deb, "svg"), desc="metadata", unit="file"):
        try:
            rows[path] = metadata(file)
        except (ElementTree.ParseError, ValueError) as error:
            rejects.append((path, f"unreadable SVG: {error}"))
    same_title = Counter(row["title"].casefold() for row in rows.values())
    reasons = {path: reason_to_reject(row, same_title[row["title"].casefold()]) for path, row in rows.items()}
    rejects += [(path, reason) for path, reason in reasons.items() if reason]
    return {path: row for path, row in rows.items() if not reasons[path]}, rejects


def read_pictures(png_deb: Path, rows: dict[str, dict[str, Any]], rejects: list[tuple[str, str]]) -> list[Picture]:
    """Render the usable files; copies (equal pixels) become one picture with all keywords."""
    by_pixels: dict[str, list[str]] = defaultdict(list)
    images: dict[str, tuple[bytes, np.ndarray]] = {}
    # Pillow's own limit is lifted only here, for two packages pinned by hash; render() sets ours.
    Image.MAX_IMAGE_PIXELS = None
    for path, file in tqdm(members(png_deb, "png"), desc="pictures", unit="file"):
        if path not in rows:
            continue
        try:
            image = render(file)
        except (OSError, ValueError) as error:
            rejects.append((path, f"unreadable PNG: {error}"))
            continue
        key = hashlib.sha256(image.tobytes()).hexdigest()[:16]
        by_pixels[key].append(path)
        if key not in images:
            images[key] = encode(image), thumbnail(image)
    return [picture(key, sorted(paths), rows, *images[key]) for key, paths in sorted(by_pixels.items())]


def picture(key: str, paths: list[str], rows: dict[str, dict[str, Any]], image: bytes, thumb: np.ndarray) -> Picture:
    """Merge the metadata of copies: the first path's title, everyone's keywords."""
    first = rows[paths[0]]
    keywords = list(dict.fromkeys(k for path in paths for k in rows[path]["keywords"]))
    description = next((rows[path]["description"] for path in paths if rows[path]["description"]), "")
    subject = subject_of(first["title"]) or first["title"].casefold()
    return Picture(key, subject, first["title"], keywords, description, first["creator"], paths, image, thumb)


def near_copies(thumbnails: np.ndarray, limit: float = NEAR_COPY) -> np.ndarray:
    """Return (n, n) bool: which pictures differ by less than a limit, none from itself."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)  # (n, 768)
    square = (flat**2).sum(1)
    distance = (square[:, None] + square[None] - 2 * flat @ flat.T) / flat.shape[1]
    near = distance < limit**2
    np.fill_diagonal(near, False)
    return near


def merge_near_copies(pictures: list[Picture]) -> list[Picture]:
    """Within a subject, keep one of several near-copies (a re-saved or re-rendered drawing)."""
    near = near_copies(np.stack([p.thumbnail for p in pictures]))
    kept: list[int] = []
    for i, p in enumerate(pictures):
        if not any(near[i, j] and pictures[j].subject == p.subject for j in kept):
            kept.append(i)
    return [pictures[i] for i in kept]


def draw_splits(pictures: list[Picture]) -> dict[str, str]:
    """Return the split of each subject.

    Held out are subjects with 2..8 different pictures, every one with keywords or a description, none of
    them a near-copy of another subject's picture. Their order is a hash of the subject, not of the data.
    """
    near = near_copies(np.stack([p.thumbnail for p in pictures]))
    by_subject: dict[str, list[int]] = defaultdict(list)
    for i, p in enumerate(pictures):
        by_subject[p.subject].append(i)
    eligible = [
        subject
        for subject, rows in by_subject.items()
        if len(rows) in SUBJECT_SIZES
        and all(pictures[i].keywords or pictures[i].description for i in rows)
        and not near[rows].any()
    ]
    eligible.sort(key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    needed = sum(SPLITS.values())
    if len(eligible) < needed:
        raise UserError(f"{len(eligible)} subjects can be held out, {needed} are needed; are the packages complete?")
    names = [split for split, n in SPLITS.items() for _ in range(n)]
    return dict.fromkeys(by_subject, "train") | dict(zip(eligible, names, strict=False))


def to_table(pictures: list[Picture]) -> pa.Table:
    """Make the Parquet table, ordered by split, subject and picture."""
    splits = draw_splits(pictures)
    rows = [p._asdict() | {"split": splits[p.subject]} for p in pictures]
    rows.sort(key=lambda r: (r["split"], r["subject"], r["picture_id"]))
    names = ["picture_id", "split", "subject", "title", "keywords", "description", "creator", "sources", "image"]
    return pa.table({name: [row[name] for row in rows] for name in names})


def build(png_deb: Path, svg_deb: Path, output: Path) -> None:
    """Write pictures.parquet to `output` and rejects.csv beside it.

    Raises:
        UserError: a package is not the pinned one, or too few subjects can be held out.
    """
    for deb, kind in ((png_deb, "png"), (svg_deb, "svg")):
        if (actual := sha256_file(deb)) != PACKAGES[kind]:
            raise UserError(f"{deb} has sha256 {actual}, expected {PACKAGES[kind]} (openclipart-{kind} 1:0.18+dfsg-19)")
    rows, rejects = read_rows(svg_deb)
    pictures = merge_near_copies(read_pictures(png_deb, rows, rejects))
    table = to_table(pictures)
    with atomic_path(output) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=512)
    with atomic_path(output.with_name("rejects.csv")) as temporary:
        write_csv(temporary, ("path", "reason"), sorted(rejects))
    counts = Counter(table["split"].to_pylist())
    log.info("%d pictures %s, %d files rejected", len(table), dict(counts), len(rejects))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python scripts/openclipart.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: apt-get download openclipart-png openclipart-svg && "
        "python scripts/openclipart.py openclipart-png_*.deb openclipart-svg_*.deb data/openclipart/pictures.parquet",
    )
    parser.add_argument("png_deb", type=Path, help="the package openclipart-png")
    parser.add_argument("svg_deb", type=Path, help="the package openclipart-svg")
    parser.add_argument("output", type=Path, help="Parquet file to write")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    build(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
