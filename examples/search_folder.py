"""Embed the images of a folder and search them by a text, an image, or both.

python examples/search_folder.py MODEL FOLDER --text "a red bicycle"
"""

import argparse
from pathlib import Path

import gcl

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif"}


def main() -> None:
    """Print the best images with their cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="what `gcl bundle` wrote")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text")
    parser.add_argument("--image", type=Path)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    model = gcl.load(arguments.model)
    candidates = model.encode(images=paths)
    query = model.encode(images=[arguments.image], texts=[arguments.text])
    hits = gcl.search(query, candidates, k=10)
    for score, row in zip(hits.scores[0], hits.rows[0], strict=True):
        print(f"{score:.3f}  {paths[row]}")


if __name__ == "__main__":
    main()
