r"""Small decoder layers side by side, and a decoder that reads their mixture (MoEL, Lin et al., EMNLP 2019).

$$ V_i = \mathrm{TRS}_{Dec}^i(y, H), \quad V_M = V_0 + \sum_{i \geq 1} p_i V_i, \quad O = \mathrm{TRS}_{Dec}(V_M, H) $$

All listeners are one computation: what reads a shared input is one wide product, what reads a listener's own state is a
`StackedLinear`, and to attention the listeners are further heads. In the shapes, K is the listeners, the shared one
included, and d the width of a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.attention import weigh
from rd.blocks.dropout import Dropout
from rd.blocks.latent import StackedLinear
from rd.blocks.transformer import Decoder, Keys, Places


class Listeners(nn.Module):
    """K pre-norm decoder layers, each with its own weights: attention `depth` wide, feed-forward `hidden` wide.

    The norms have no weights: the linear maps that read them have. Dropout falls on the hidden units alone.
    """

    def __init__(self, count: int, width: int, heads: int, depth: int, hidden: int, dropout: float) -> None:
        super().__init__()
        if depth % heads:
            raise ValueError(f"{heads} heads do not divide depth {depth}")
        self.count, self.size = count, depth // heads
        self.attend = nn.Linear(width, 3 * count * depth)  # query, key and value of the words so far
        self.attended = StackedLinear(count, depth, width)
        self.query = StackedLinear(count, width, depth)
        self.key_value = nn.Linear(width, 2 * count * depth)  # of the memory
        self.read = StackedLinear(count, depth, width)
        self.think = StackedLinear(count, width, hidden)
        self.say = StackedLinear(count, hidden, width)
        self.dropout = Dropout(dropout)

    def keys(self, memory: Tensor) -> Keys:
        """memory (B, S, D) -> keys and values of all listeners, each (B, K * heads, S, d)."""
        key, value = self.key_value(memory).chunk(2, -1)
        return self._split(key), self._split(value)

    def forward(
        self, x: Tensor, memory: Keys, mask: Tensor, shares: Tensor, past: Keys | None, spoken: Places | None = None
    ) -> tuple[Tensor, Keys]:
        """x (B, T, D) new places after `past`, mask (B, S), shares w (B, K) -> sum_i w_i V_i (B, T, D), keys so far.

        spoken: rows and places (M,) where to compute, and how many of the first M count; all by default. Else zeros.
        """
        batch, new, width = x.shape
        if spoken is None:
            places, count = torch.arange(batch * new, device=x.device), batch * new
        else:
            places, count = spoken[0] * new + spoken[1], spoken[2]
        x = x.flatten(0, 1)[places]  # (M, D)
        attend = _spread(self.attend(F.layer_norm(x, (width,)))[None], places[:count], batch * new)[0]
        query, key, value = (self._split(part) for part in attend.view(batch, new, -1).chunk(3, -1))
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        causal = torch.ones(new, key.size(2), dtype=torch.bool, device=x.device).tril(key.size(2) - new)
        states = x + self.attended(self._own(query, (key, value), causal[None], places))  # (K, M, D)
        query = self.query(F.layer_norm(states, (width,)))  # (K, M, depth)
        query = _spread(query, places[:count], batch * new).unflatten(1, (batch, new))  # (K, B, T, depth)
        query = self._split(query.permute(1, 2, 0, 3).flatten(2))
        states = states + self.read(self._own(query, memory, mask[:, None], places))
        hidden = self.think(F.layer_norm(states, (width,))).relu()  # (K, M, hidden)
        states = states + self.say(self.dropout(hidden))
        with torch.autocast(x.device.type, enabled=False):
            mixed = torch.einsum("mk,kmd->md", shares.float()[places // new], states.float())
        return _spread(mixed[None], places[:count], batch * new)[0].view(batch, new, width), (key, value)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, K * depth) -> (B, K * heads, T, d)."""
        return x.unflatten(-1, (-1, self.size)).transpose(1, 2)

    def _own(self, query: Tensor, keys: Keys, mask: Tensor, places: Tensor) -> Tensor:
        """What each listener attends to: query (B, K * heads, T, d), mask (B, 1 or T, S), places (M,) of B T.

        -> (K, M, depth)
        """
        found = weigh(query, keys[0], mask).to(keys[1].dtype) @ keys[1]  # (B, K * heads, T, d)
        return found.unflatten(1, (self.count, -1)).permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)[:, places]


def _spread(x: Tensor, places: Tensor, size: int) -> Tensor:
    """x (K, M, d), the first of M at `places` of `size`, zeros elsewhere: (K, size, d)."""
    return x.new_zeros(len(x), size, x.size(2)).index_copy(1, places, x[:, : len(places)])


class MetaDecoder(Decoder):
    """The meta listener: a decoder that reads the listeners' mixture in the place of the words."""

    def __init__(self, width: int, heads: int, ffn: int, layers: int, dropout: float, listeners: Listeners) -> None:
        super().__init__(width, heads, ffn, layers, dropout)
        self.listeners = listeners

    def memory_keys(self, memory: Tensor) -> list[Keys]:
        """memory (B, S, D) -> keys and values of the listeners, then of every layer."""
        return [self.listeners.keys(memory), *super().memory_keys(memory)]

    def forward(
        self,
        x: Tensor,
        memory: list[Keys],
        memory_mask: Tensor,
        past: list[Keys] | None,
        experts: Tensor,
        spoken: Places | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Keys]]:
        """As `Decoder.forward`; experts p (B, K-1): the shares of all but the first listener, the shared one (1).

        spoken: as `Listeners.forward`; what is elsewhere means nothing, and must come after all that counts in its row.
        """
        shares = F.pad(experts, (1, 0), value=1.0)
        mixed, heard = self.listeners(x, memory[0], memory_mask, shares, past and past[0], spoken)
        states, read, weights, cache = super().forward(mixed, memory[1:], memory_mask, past and past[1:])
        return states, read, weights, [heard, *cache]
