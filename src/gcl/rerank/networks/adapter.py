"""An adapter that looks at a candidate with the query in sight: the dense part of Cross-modal RAG (arXiv 2505.21956).

    A' = A + attention(A, candidate's tokens),  A'' = A' + attention(A', query's tokens)
    v = norm(mlp(mean A'')),  t = mean of the query's tokens,  score = cos(v, t) / 0.07

A are learned tokens. What is compared with a query was made with it: no vector of a candidate that an index could hold,
but a second stage. The paper has image patches as candidates and a text as query; here a side's tokens are those of its
image, if it has one, and the states of a frozen text encoder's first layers. A text that is not there is read as [CLS].
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from gcl.rerank.networks.joint import LAYERS, Side

TOKENS = 8  # that are learned
HEADS = 4
TEMPERATURE = 0.07


class Adapter(nn.Module):
    """Scores pairs; keeps all tokens of an image."""

    rate = 1e-3  # of its training, from random weights

    def __init__(self, text: Any, start: int, pad: int) -> None:
        """Take a transformers BERT, which stays as it is, and the token ids of [CLS] and of padding."""
        super().__init__()
        self.text = copy.deepcopy(text)
        self.text.encoder.layer = self.text.encoder.layer[:LAYERS]
        self.text.requires_grad_(False)
        width = self.text.config.hidden_size
        self.tokens = nn.Parameter(torch.randn(TOKENS, width) * 0.02)
        self.look = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ask = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.ones(()))  # of the first stage's score
        self.register_buffer("start", torch.tensor([start]))
        self.pad = pad

    def compress(self, tokens: Tensor) -> Tensor:
        """Return image tokens as they are."""
        return tokens * 1

    def contents(self, side: Side) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, T, W) of a side, and which are there, (B, T) of 1 and 0."""
        ids = torch.cat([self.start.expand(side.ids.shape[0], 1), side.ids], 1)
        read = (ids != self.pad).long()
        states = self.text(input_ids=ids, attention_mask=read).last_hidden_state
        shown = side.has_image[:, None] * torch.ones_like(side.image[:, :, 0])
        return torch.cat([side.image, states], 1), torch.cat([shown, read.to(shown)], 1)

    def forward(self, query: Side, candidate: Side) -> Tensor:
        """Return (B,): how well candidates, looked at with the query in sight, fit it."""
        state = self.tokens.expand(query.ids.shape[0], TOKENS, self.tokens.shape[1])
        (query_states, of_query), (seen, of_candidate) = self.contents(query), self.contents(candidate)
        state = state + self.look(state, seen, seen, key_padding_mask=of_candidate == 0, need_weights=False)[0]
        state = (
            state + self.ask(state, query_states, query_states, key_padding_mask=of_query == 0, need_weights=False)[0]
        )
        vector = self.norm(self.mlp(state.mean(1)))
        wanted = (query_states * of_query[:, :, None]).sum(1) / of_query.sum(1, keepdim=True)
        return cosine_similarity(vector, wanted, dim=1) / TEMPERATURE
