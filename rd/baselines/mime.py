r"""MIME (Majumder et al., EMNLP 2020, "MIME: MIMicking Emotions for Empathetic Response Generation").

The reply mimics the user's emotion, but not wholly: one state is mixed of the positive emotions, one of the negative.

$$ z_s \sim N(\mu_s(c), \sigma_s^2(c)), \quad e_s = \sum_{i \in s} \mathrm{softmax}_s(W z_s)_i\, E_i, \quad
   s \in \{pos, neg\}, \qquad m = \mathrm{Enc}([H; e_{mimic}]), \quad \tilde m = \mathrm{Enc}'([H; e_{other}]) $$
$$ v = W_2 (\sigma(W_1 [m; \tilde m]) \odot [m; \tilde m]), \qquad
   L = L_{res} + L_{emo} + \sum_s \mathrm{KL}(q(z_s|c, m_s) \,\|\, p(z_s|c)) $$

c is CTX's state, m_s the mean of the context that e_s refined; e_mimic has the polarity of the predicted user emotion.
The decoder reads the prior's draw in training too, and q reads no reply: so it stands in the authors' code.
In the shapes, P is the polarities (2): positive, negative. Z = D is the latent width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.emotional import EmotionalResponder
from rd.blocks.diffusion import normal_like
from rd.blocks.latent import StackedLinear, gaussian, gaussian_kl
from rd.blocks.parts import mean as over_all
from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import Batch
from rd.labels import EMOTIONS, POSITIVE
from rd.responder import Context


def by_mimicry(states: Tensor, positive: Tensor) -> Tensor:
    """(positive, negative) -> (mimicking, other) for users who feel positive (B,) or not; twice: back again.

    states (P, B, D) -> (P, B, D).
    """
    return torch.where(positive[:, None], states, states.flip(0))


class Refined(nn.Module):
    """The context once more, with an emotion beside every word: Enc(W [H; e])."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Linear(config.width, config.width)  # W in two parts: e is multiplied once, not at every word
        self.emotion = nn.Linear(config.width, config.width, bias=False)
        self.encoder = Encoder(config.width, config.heads, config.ffn, config.layers, config.dropout)

    def forward(self, h: Tensor, emotion: Tensor, mask: Tensor) -> Tensor:
        """h (B, L+1, D), emotion (B, D), mask (B, L+1) -> (B, L+1, D)."""
        return self.encoder(self.words(h) + self.emotion(emotion)[:, None], mask)


class MIME(EmotionalResponder):
    """Two emotional states, two refined contexts, and a gate that mixes them into the memory."""

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width = config.width
        self.emotions = nn.Parameter(torch.randn(len(EMOTIONS), width) * width**-0.5)  # (E, D)
        self.ask = nn.Linear(width, width, bias=False)
        self.prior_hidden = nn.Linear(width, width)
        self.prior = StackedLinear(2, width, 2 * width)
        self.posterior_hidden = StackedLinear(2, 2 * width, width)
        self.posterior = StackedLinear(2, width, 2 * width)
        self.choose = nn.Linear(width, len(EMOTIONS))  # each row serves the polarity of its emotion
        self.mimicking, self.other = Refined(config), Refined(config)
        self.gate = nn.Linear(2 * width, 2 * width)
        self.fuse = nn.Linear(2 * width, width)
        positive = torch.tensor([name in POSITIVE for name in EMOTIONS])
        self.register_buffer("sides", torch.stack([positive, ~positive]), persistent=False)  # (P, E)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory v (B, L+1, D), CTX first. z is drawn from the prior in training or by a generator, else its mean."""
        words, mask = self.context_words(batch)
        h = self.encoder(words, mask)
        c = h[:, 0]
        emotion = F.linear(self.ask(c), self.emotions).float().log_softmax(-1)  # (B, E)
        positive = self.sides[0][emotion.argmax(-1)]  # (B,)
        mean, logvar = gaussian(self.prior(F.relu(self.prior_hidden(c))))  # (P, B, Z)
        sampled = self.training or generator is not None
        z = mean + (0.5 * logvar).exp() * normal_like(mean, generator) if sampled else mean
        shares = self.shares(z)  # (P, B, E)
        mimic, other = by_mimicry(shares @ self.emotions, positive)
        refined = torch.cat([self.mimicking(h, mimic, mask), self.other(h, other, mask)], -1)  # (B, L+1, 2D)
        gate = torch.sigmoid(self.gate(refined))  # (B, L+1, 2D)
        notes = {"emotion": emotion, "positive": positive, "shares": shares, "gate": gate}
        notes |= {"c": c, "mean": mean, "logvar": logvar, "refined": refined}
        return Context(self.fuse(gate * refined), mask, notes)

    def shares(self, z: Tensor) -> Tensor:
        """How much of each emotion is in a state: z (P, B, Z) -> (P, B, E), 0 outside the own group, float32."""
        return self.choose(z).float().masked_fill(~self.sides[:, None], -torch.inf).softmax(-1)

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the emotion, and KL(q || p) of each polarity: summed over Z, the mean over the batch."""
        mean, logvar = self.recognise(context)
        kl = gaussian_kl(mean, logvar, context.notes["mean"], context.notes["logvar"])  # (P, B)
        kl = over_all(kl, -1)  # (P,)
        return super().extra_losses(batch, context, generator) | {"kl_pos": kl[0], "kl_neg": kl[1]}

    def recognise(self, context: Context) -> tuple[Tensor, Tensor]:
        """q(z_s | c, m_s): mean and log-variance (P, B, Z). Training alone asks; it reads no reply and no label."""
        notes, there = context.notes, context.mask[..., None]  # (B, L+1, 1)
        m = (notes["refined"].float() * there).sum(1) / there.sum(1)  # (B, 2D): the means of m and of m~
        m = by_mimicry(torch.stack(m.chunk(2, -1)), notes["positive"])  # (P, B, D)
        read = torch.cat([notes["c"].expand_as(m), m], -1)  # (P, B, 2D)
        return gaussian(self.posterior(F.relu(self.posterior_hidden(read))))
