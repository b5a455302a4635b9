r"""Multi-head attention (Vaswani et al. 2017, eq. 1) that can return its weights and keep its keys.

$$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}(QK^\top / \sqrt{d}) V $$
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.dropout import Dropout

EIGHT = 8  # bf16 kernels of GPUs with a mask want heads of a multiple of this; the paper's have 50 columns


def weigh(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QK/sqrt d), float32: query (B, heads, T, d), key (B, heads, S, d) -> (B, heads, T, S).

    mask (B, 1 or T, S) True where it may look. A row that may look nowhere looks everywhere: see `Attention`.
    """
    # scores are the largest tensors of a long context: scaled before they are made, masked in place
    scores = (query / math.sqrt(key.size(-1)) @ key.transpose(-1, -2)).float()  # (B, heads, T, S)
    if mask is not None:
        scores = scores.masked_fill_(~mask[:, None], torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


class Attention(nn.Module):
    """Multi-head attention; `heads` divides `width`. `source` is the width of keys and values, if another."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, source: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide width {width}")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source or width, 2 * width)
        self.output = nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def keys(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """source (B, S, Ds) -> keys and values, each (B, heads, S, D/heads)."""
        key, value = self.key_value(source).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(self, query: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """query (B, T, D), mask (B, 1 or T, S) True where it may look -> output (B, T, D), weights (B, T, S).

        The weights are the mean over heads, before dropout. A row that may look nowhere attends to nothing: zeros.
        """
        weights = weigh(self._split(self.query(query)), keys[0], mask)  # (B, heads, T, S)
        mean = weights.mean(1)
        if mask is not None:
            mean = mean * mask.any(-1, keepdim=True)
        return self._mixed(weights, keys[1], mask), mean

    def read(self, query: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """The output of `forward` alone, by torch's fused kernel: no (B, heads, T, S) is stored.

        In training the weights are dropped out at random, for which a CPU has no such kernel.
        """
        query = self._split(self.query(query))
        if self.training and query.is_cpu:
            return self._mixed(weigh(query, keys[0], mask), keys[1], mask)
        return self._joined(self._fused(query, keys, mask), mask)

    def _fused(self, query: Tensor, keys: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """query (B, heads, T, d) -> (B, heads, T, d)."""
        if mask is not None and self.training:  # a row that may look nowhere looks everywhere: else gradients are NaN
            mask = mask | ~mask.any(-1, keepdim=True)
        mask = None if mask is None else mask[:, None]  # (B, 1, 1 or T, S)
        dropout, width = self.dropout.p if self.training else 0.0, query.size(-1)
        if self.training and width % EIGHT:  # else a GPU has no kernel for it: zeros add nothing
            query, *keys = (F.pad(x, (0, -width % EIGHT)) for x in (query, *keys))
        read = F.scaled_dot_product_attention(query, *keys, mask, dropout, scale=width**-0.5)
        return read[..., :width]

    def _mixed(self, weights: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """weights (B, heads, T, S), value (B, heads, S, d) -> output (B, T, D)."""
        return self._joined(self.dropout(weights.to(value.dtype)) @ value, mask)

    def _joined(self, mixed: Tensor, mask: Tensor | None) -> Tensor:
        """mixed (B, heads, T, d) -> output (B, T, D); what had nothing to look at is zeros, whatever a kernel made."""
        if mask is not None:
            mixed = mixed.masked_fill(~mask.any(-1)[:, None, :, None], 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
