r"""Contrastive experts: two emotion heads, chosen by the sentiment of the speaker (eq. 4).

$$ p = \begin{cases} \mathrm{softmax}(W_{pos} E_{emo} Q) & \text{positive} \\
                     \mathrm{softmax}(W_{neg} E_{emo} Q) & \text{negative} \\
                     \tfrac12 (p_{pos} + p_{neg})        & \text{neutral (soft vote)} \end{cases} $$

The paper chooses the head by the majority of the BATCH, which makes an answer depend on its neighbours;
the default here is the example's own sentiment. `routing="batch"` keeps the letter.
"""

from math import log

import torch
from torch import Tensor, nn

from rd.blocks.parts import total

THRESHOLD = 0.05  # VADER compound; source: Hutto and Gilbert 2014


def route(sentiment: Tensor, routing: str = "example") -> Tensor:
    """Which head answers: 1 positive, -1 negative, 0 both. sentiment (B,) VADER compound -> (B,) long.

    "example": each by its own compound, > .05 or < -.05. "batch": everyone follows the most frequent polarity of the
    batch; if two polarities tie for the first place, both heads vote (0). Raises ValueError for another routing.
    """
    own = (sentiment > THRESHOLD).long() - (sentiment < -THRESHOLD).long()  # (B,)
    if routing == "example":
        return own
    if routing != "batch":
        raise ValueError(f'routing must be "example" or "batch", got {routing!r}')
    counts = total(torch.stack([(own == polarity).sum() for polarity in (-1, 0, 1)]))  # (3,)
    tie = (counts == counts.max()).sum() > 1
    return torch.where(tie, 0, counts.argmax() - 1).expand_as(own)


class EmotionExperts(nn.Module):
    """The emotion embeddings E_emo and the two heads over them; both heads are computed, one (or the vote) is kept."""

    def __init__(self, width: int, emotions: int = 32, temperature: float = 1.0):
        super().__init__()
        self.emotions = nn.Parameter(torch.randn(emotions, width) * width**-0.5)  # (E, D)
        self.positive = nn.Linear(emotions, emotions)
        self.negative = nn.Linear(emotions, emotions)
        self.temperature = temperature  # 1: the letter of eq. 4
        for head in (self.positive, self.negative):  # near the identity: at first the score of e is E_emo[e] . Q
            nn.init.normal_(head.weight, std=0.01)
            head.weight.data.diagonal().add_(1.0)
            nn.init.zeros_(head.bias)

    def forward(self, q: Tensor, sentiment: Tensor, routing: str = "example") -> Tensor:
        """q (B, D), sentiment (B,) VADER compound -> log-probabilities (B, E), float32."""
        scores = q @ self.emotions.T / self.temperature  # (B, E)
        positive = self.positive(scores).float().log_softmax(-1)  # (B, E)
        negative = self.negative(scores).float().log_softmax(-1)  # (B, E)
        vote = torch.logaddexp(positive, negative) - log(2.0)
        way = route(sentiment, routing)[:, None]  # (B, 1)
        return torch.where(way > 0, positive, torch.where(way < 0, negative, vote))
