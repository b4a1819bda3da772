"""Heads on made-up features of frozen towers."""

import torch

from gcl.config.recipes import Loss
from gcl.models import family
from gcl.train.heads.frozen import Features, train_heads

KEYS, WIDTH, PAIRS = dict(family("timm_hf").heads), 16, 64
CL = Loss(directions={"image>text": 1, "text>image": 1}, denominator="target_only", temperature=0.1)


def made_up():
    """Features of pairs that share a latent vector each."""
    torch.manual_seed(0)
    latent, rows = torch.randn(PAIRS, 12), torch.arange(PAIRS)
    images, text = latent @ torch.randn(12, 20), latent @ torch.randn(12, 14)
    return Features(
        torch.cat([images, images]), text, None, rows, rows[:, None], rows[:, None], torch.ones(PAIRS), None
    )


def heads(data, recipe, start=None):
    return train_heads(data, recipe, KEYS, "sum_raw", WIDTH, 0, start, "test")
