"""Pre-norm transformer encoder and decoder (Vaswani et al. 2017; Xiong et al. 2020 for the place of the norm)."""

import math

import torch
from torch import Tensor, nn

from rd.blocks.attention import Attention
from rd.blocks.dropout import Dropout

Keys = tuple[Tensor, Tensor]
Places = tuple[Tensor, Tensor, int]  # rows and places (M,) of words, and how many of the first M count


def positions(length: int, width: int, start: int = 0, device: torch.device | None = None) -> Tensor:
    """Sinusoidal E^P (Vaswani et al. 2017, Sec. 3.5) for places start .. start+length-1: (length, D)."""
    place = torch.arange(start, start + length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=-1).flatten(1)[:, :width]


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU: (..., D) -> (..., D)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm and a residual."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attend = Attention(width, heads, dropout)
        self.feed = FeedForward(width, ffn, dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) True at words, or (B, L, L) True where row looks at column -> (B, L, D)."""
        y = self.norms[0](x)
        x = x + self.dropout(self.attend.read(y, self.attend.keys(y), mask if mask.dim() == 3 else mask[:, None]))
        return x + self.dropout(self.feed(self.norms[1](x)))


class Encoder(nn.Module):
    """TRS_Enc of eq. 2: a stack of layers and a last norm. With a graph in the place of the mask: attention on it."""

    def __init__(self, width: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) or (B, L, L) as in its layers -> (B, L, D)."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the memory, feed-forward."""

    def __init__(self, width: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attend = Attention(width, heads, dropout)
        self.cross = Attention(width, heads, dropout)
        self.feed = FeedForward(width, ffn, dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Keys, memory_mask: Tensor, past: Keys | None
    ) -> tuple[Tensor, Tensor, Tensor, Keys]:
        """x (B, T, D) new places after `past` -> x (B, T, D), memory read (B, T, D), weights (B, T, S), keys so far."""
        y = self.norms[0](x)
        keys = self.attend.keys(y)
        if past is not None:
            keys = (torch.cat([past[0], keys[0]], 2), torch.cat([past[1], keys[1]], 2))
        new, seen = x.size(1), keys[0].size(2)
        causal = None  # a word alone may look at all that was said
        if new > 1:
            causal = torch.ones(1, new, seen, dtype=torch.bool, device=x.device).tril(seen - new)
        x = x + self.dropout(self.attend.read(y, keys, causal))
        read, weights = self.cross(self.norms[1](x), memory, memory_mask[:, None])
        x = x + self.dropout(read)
        return x + self.dropout(self.feed(self.norms[2](x))), read, weights, keys


class Decoder(nn.Module):
    """TRS_dec of eq. 11 with a key-value cache."""

    def __init__(self, width: int, heads: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def memory_keys(self, memory: Tensor) -> list[Keys]:
        """memory (B, S, D) -> keys and values of every layer, computed once per dialogue."""
        return [layer.cross.keys(memory) for layer in self.layers]

    def forward(
        self, x: Tensor, memory: list[Keys], memory_mask: Tensor, past: list[Keys] | None = None
    ) -> tuple[Tensor, Tensor, Tensor, list[Keys]]:
        """x (B, T, D), memory_mask (B, S) -> states, last layer's read (B, T, D) and weights (B, T, S), cache."""
        cache = []
        for i, layer in enumerate(self.layers):
            x, read, weights, keys = layer(x, memory[i], memory_mask, past[i] if past else None)
            cache.append(keys)
        return self.norm(x), read, weights, cache
