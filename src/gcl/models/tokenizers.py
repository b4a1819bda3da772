"""Texts to token ids, by a tokenizer.json alone: it holds how to truncate and pad.

CLIP's own tokenizer cleans texts before it splits them, which no tokenizer.json can say; `clean` does.
"""

import html
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from gcl.common.errors import UserError

PADDINGS = ("[PAD]", "<pad>")  # BERT's and XLM-R's


def clean(text: str, how: str) -> str:
    """Return the text as the tokenizer wants it; how is "none" or "clip" (mend, unescape twice, one line, lower)."""
    if how == "none":
        return text
    import ftfy

    mended = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(mended.split()).lower()


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json; an unreadable one is a ValueError that names it."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"can't read tokenizer {path}: {error}") from error


def load_tokenizer(path: Path, context: int) -> Tokenizer:
    """Read a tokenizer that truncates to `context` tokens and pads to the longest of a batch."""
    tokenizer = read_tokenizer(path)
    tokenizer.enable_truncation(context)
    pad = next((t for t in PADDINGS if tokenizer.token_to_id(t) is not None), None)
    if pad is None:
        raise UserError(f"tokenizer {path} has no padding token ({' or '.join(PADDINGS)})")
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer


def clip_tokenizer(context: int) -> Tokenizer:
    """Build CLIP's byte-pair tokenizer from the merges that open_clip ships; equal to open_clip's SimpleTokenizer.

    Ids are padded with zeros to `context`; truncation keeps the end token last.
    """
    from open_clip.tokenizer import SimpleTokenizer

    simple = SimpleTokenizer()
    start, end = "<start_of_text>", "<end_of_text>"
    tokenizer = Tokenizer(
        models.BPE(
            vocab=dict(simple.encoder),
            merges=list(simple.bpe_ranks),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    words = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (start, end)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(t, tokenizer.token_to_id(t)) for t in (start, end)]
    )
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(length=context, pad_id=0, pad_token="!")  # noqa: S106
    return tokenizer


def context_of(tokenizer: Tokenizer) -> int:
    """Return the number of tokens that texts are cut to."""
    return int((tokenizer.truncation or {})["max_length"])


def pad_of(tokenizer: Tokenizer) -> int:
    """Return the id of padding."""
    return int((tokenizer.padding or {})["pad_id"])


def to_ids(tokenizer: Tokenizer, texts: list[str], how: str = "none") -> np.ndarray:
    """Return (B, L) int64 token ids, padded as the tokenizer says."""
    return np.array([encoding.ids for encoding in tokenizer.encode_batch([clean(t, how) for t in texts])], np.int64)
