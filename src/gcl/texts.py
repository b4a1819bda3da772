"""Texts to token ids, by a tokenizer.json alone."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer


def load_tokenizer(path: Path, context: int) -> Tokenizer:
    """Read a tokenizer that truncates to `context` tokens and pads to the longest of a batch."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"can't read tokenizer {path}: {error}") from error
    tokenizer.enable_truncation(context)
    pad = next((t for t in ("[PAD]", "<pad>") if tokenizer.token_to_id(t) is not None), None)
    if pad is None:
        raise ValueError(f"tokenizer {path} has no padding token ([PAD] or <pad>)")
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer


def to_ids(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """Return (B, L) int64 token ids, padded to the longest text."""
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(texts)], np.int64)
