r"""MTRS, the multitask transformer (Rashkin et al., ACL 2019, "Towards Empathetic Open-domain Conversation Models").

$$ p(e) = \mathrm{softmax}(W\, h_{CTX}), \qquad L = L_{res} + L_{emo} $$
"""

import torch
from torch import Tensor, nn

from rd.baselines.emotional import EmotionalResponder
from rd.config import ModelConfig
from rd.data.batch import Batch
from rd.labels import EMOTIONS
from rd.responder import Context


class MTRS(EmotionalResponder):
    """The plain transformer with an emotion head on CTX."""

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        self.emotion = nn.Linear(config.width, len(EMOTIONS))

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory H (B, L+1, D), CTX first."""
        words, mask = self.context_words(batch)
        h = self.encoder(words, mask)
        return Context(h, mask, {"emotion": self.emotion(h[:, 0]).float().log_softmax(-1)})
