r"""MoEL (Lin et al., EMNLP 2019, "MoEL: Mixture of Empathetic Listeners"): a listener for each emotion, softly mixed.

$$ p = \mathrm{softmax}(K H_{CTX}), \qquad V_M = V_0 + \sum_i p_i V_i, \qquad L = L_{res} + L_{emo} $$

Listeners learn little while the tracker's p is noise, so in training p gives way to the true emotion with a probability
that falls: gamma + (1 - gamma) exp(-t / T) at step t. That happens in `learned_from` alone, and only in training mode.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.emotional import EmotionalResponder
from rd.blocks.listeners import Listeners, MetaDecoder
from rd.blocks.parts import everyone
from rd.config import ModelConfig
from rd.data.batch import UNLABELLED, Batch
from rd.labels import EMOTIONS
from rd.responder import Context

HEADS, DEPTH, HIDDEN = 2, 40, 50  # of a listener; source: the authors' code (--heads 2, --depth 40, --filter 50)
GAMMA = 1e-4  # source: the authors' code
FALL = 1000  # T, steps; ours: the oracle is gone (.02) after 4,000 of 32 samples. The authors' code: 10,000 of 16


class MoEL(EmotionalResponder):
    """Emotion tracker on CTX, a listener for each emotion and a shared one, a meta listener that speaks."""

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width, emotions = config.width, len(EMOTIONS)
        listeners = Listeners(1 + emotions, width, HEADS, DEPTH, HIDDEN, config.dropout)
        self.decoder = MetaDecoder(width, config.heads, config.ffn, config.layers, config.dropout, listeners)
        self.tracker = nn.Linear(width, emotions, bias=False)  # the keys k_i
        self.speakers = nn.Embedding(2, width)
        nn.init.normal_(self.speakers.weight, std=0.1)  # small beside E^W: a mark shades a word
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # of training, so far

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory H (B, L+1, D), CTX first; experts p (B, E)."""
        words, mask = self.context_words(batch)
        words = words + F.pad(self.speakers(batch.speaker.long()), (0, 0, 1, 0))  # dialogue state; CTX has none
        h = self.encoder(words, mask)
        emotion = self.tracker(h[:, 0]).float().log_softmax(-1)
        return Context(h, mask, {"emotion": emotion}, experts=emotion.exp())

    def learned_from(self, batch: Batch, context: Context, generator: torch.Generator | None = None) -> Context:
        """In training mode the listeners' shares may be the oracle's."""
        if not self.training:
            return context
        return replace(context, experts=self.oracle(context.experts, batch.emotion, generator))

    def oracle(self, p: Tensor, emotion: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """p (B, E), or, by one draw for all, the true emotions (B,) where they are known: (B, E). Counts a step."""
        device = p.device if generator is None else generator.device
        chance = GAMMA + (1 - GAMMA) * torch.exp(-self.steps / FALL)
        draw = torch.rand((), device=device, generator=generator).to(p.device)
        told = everyone(draw.expand(len(p)))[0] < chance
        self.steps += 1
        known = emotion != UNLABELLED
        gold = F.one_hot(emotion.where(known, 0), p.size(-1)).to(p.dtype)
        return torch.where((told & known)[:, None], gold, p)
