"""The network that reads a query and a candidate together: a small BERT over the texts and image tokens of both.

    [CLS] query image  query text [SEP]  candidate image  candidate text [SEP]

An image comes as TOKENS vectors that learned queries draw from its patches, once for an image whatever it is read with
(EDJE, arXiv 2510.06820); token types tell query from candidate. What is absent is masked. A linear layer that begins at
zero reads the mean state; the score is that plus the first stage's times a weight, which begins as the first stage's
ranking.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TOKENS = 8  # of an image
LAYERS = 3  # of the text encoder, the first; at six reading takes twice the time
HEADS = 4


class Side(NamedTuple):
    """The queries or the candidates of B pairs."""

    image: Tensor  # (B, TOKENS, W) compressed, anything where there is none
    has_image: Tensor  # (B,) float, 1 or 0
    ids: Tensor  # (B, L) of the text with its [SEP], without [CLS]; all padding where there is none


class Joint(nn.Module):
    """Compresses image tokens, and scores pairs."""

    rate = 2e-4  # of its training, from a trained text encoder

    def __init__(self, text: Any, start: int, pad: int) -> None:
        """Take a transformers BERT, of which a copy is trained, and the token ids of [CLS] and of padding."""
        super().__init__()
        self.text = copy.deepcopy(text)
        self.text.encoder.layer = self.text.encoder.layer[:LAYERS]
        self.text.embeddings.requires_grad_(False)  # most words are in no list that trains
        width = self.text.config.hidden_size
        self.queries = nn.Parameter(torch.randn(TOKENS, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.weight = nn.Parameter(torch.ones(()))  # of the first stage's score
        self.register_buffer("start", torch.tensor([start]))
        self.pad = pad

    def compress(self, tokens: Tensor) -> Tensor:
        """Return (B, TOKENS, W) of image tokens (B, P, W)."""
        queries = self.queries.expand(tokens.shape[0], TOKENS, tokens.shape[2])
        compressed: Tensor = self.attention(queries, tokens, tokens, need_weights=False)[0]
        return compressed + tokens.mean(1, keepdim=True)

    def forward(self, query: Side, candidate: Side) -> Tensor:
        """Return (B,): what is read of pairs."""
        words = self.text.embeddings.word_embeddings
        start = words(self.start).expand(query.ids.shape[0], 1, -1)
        parts = [start, query.image, words(query.ids), candidate.image, words(candidate.ids)]
        masks = [torch.ones_like(start[:, :, 0])]
        for side in (query, candidate):
            masks += [side.has_image[:, None] * torch.ones_like(side.image[:, :, 0]), (side.ids != self.pad).float()]
        mask = torch.cat(masks, 1)
        of_query = 1 + TOKENS + query.ids.shape[1]
        types = (torch.cumsum(torch.ones_like(mask), 1) > of_query).long()
        places = (torch.cumsum(mask, 1) - 1).long()
        states = self.text(
            inputs_embeds=torch.cat(parts, 1), attention_mask=mask.long(), token_type_ids=types, position_ids=places
        ).last_hidden_state
        mean = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return self.linear(mean)[:, 0]
