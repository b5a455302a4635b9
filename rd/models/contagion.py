r"""Emotion-contagion encoder (eq. 1-3).

$$ E^C = E^W + E^P + E^R, \qquad H = \mathrm{TRS_{Enc}}([CTX; E^C]), \qquad
   Q = \mathrm{mean}_l\, \mathrm{Attention}(H_l, W\tilde h) $$
"""

import torch
from torch import Tensor, nn

from rd.blocks.attention import Attention
from rd.blocks.dropout import Dropout
from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.labels import TAGS


class ContagionEncoder(nn.Module):
    """Takes ERA's marks r and vectors h~ into the context; without ERA (ablation) neither E^R nor h~ is read."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.era = config.era
        self.encoder = Encoder(config.width, config.heads, config.ffn, config.layers, config.dropout)
        self.dropout = Dropout(config.dropout)
        if self.era:
            self.reasons = nn.Embedding(len(TAGS), config.width)
            nn.init.normal_(self.reasons.weight, std=0.1)  # small beside E^W: a mark shades a word
            self.norm = nn.LayerNorm(config.bert_width)
            self.reflect = Attention(config.width, config.heads, config.dropout, source=config.bert_width)

    def forward(self, words: Tensor, ctx: Tensor, reason: Tensor, mask: Tensor, features: Tensor | None) -> tuple:
        """E^W + E^P (B, L, D), ctx (B, 1, D), r (B, L), mask (B, L), h~ (B, L, Db) -> H (B, L+1, D), Q (B, D).

        Raises ValueError where ERA is on and there is no h~.
        """
        if self.era:
            words = words + self.reasons(reason)
        whole = nn.functional.pad(mask, (1, 0), value=True)  # (B, L+1)
        h = self.encoder(self.dropout(torch.cat([ctx, words], 1)), whole)  # (B, L+1, D)
        read = h[:, 1:]
        if self.era:
            if features is None:
                raise ValueError("the encoder reads ERA's vectors h~, and the batch has none")
            keys = self.reflect.keys(self.dropout(self.norm(features)))
            read, _ = self.reflect(read, keys, mask[:, None])  # (B, L, D)
        return h, mean_words(read, mask)


def mean_words(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places: x (B, L, D), mask (B, L) -> (B, D), float32."""
    weight = mask[..., None].float()
    return (x.float() * weight).sum(1) / weight.sum(1).clamp_min(1.0)
