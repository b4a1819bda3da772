"""The loss in a training loop in open_clip's style: any model with encode_image and encode_text.

python examples/train_loop.py --model ViT-B-32 --pairs FOLDER     # images, each with a .txt of the same stem
"""

import argparse
from pathlib import Path

import open_clip
import torch
from PIL import Image

import gcl


def main() -> None:
    """Train one epoch and print the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name that open_clip knows, or local-dir:FOLDER")
    parser.add_argument("--pairs", required=True, type=Path)
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    model, preprocess, _ = open_clip.create_model_and_transforms(arguments.model)
    tokenizer = open_clip.get_tokenizer(arguments.model)
    captioned = {path.stem for path in arguments.pairs.glob("*.txt")}
    paths = sorted(p for p in arguments.pairs.iterdir() if p.suffix != ".txt" and p.stem in captioned)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    loss = gcl.GCLLoss(denominator="no_self", temperature=0.05)
    for start in range(0, len(paths) - arguments.batch_size + 1, arguments.batch_size):
        batch = paths[start : start + arguments.batch_size]
        images = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in batch])
        texts = tokenizer([path.with_suffix(".txt").read_text(encoding="utf-8") for path in batch])
        value = loss(model.encode_image(images), model.encode_text(texts))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        print(f"{value.item():.4f}")


if __name__ == "__main__":
    main()
