r"""Intent twice: exploring, sampling, correcting (Sec. 3.3.1, eq. 5-10), with the emotion mimicry unit as its state."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.attention import Attention
from rd.blocks.diffusion import Diffusion, normal_like
from rd.blocks.latent import ConditionalVAE
from rd.blocks.parts import mean
from rd.blocks.policy import MovingBaseline, PolicyNetwork, behaviour, masked_policy
from rd.config import ModelConfig
from rd.labels import EMOTIONS, INTENTS, POSITIVE


class Exploring(nn.Module):
    """The first guess (eq. 5): Intent_first = normalised (p_semantic + alpha p_intent)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.alpha, self.temperature = config.alpha, config.temperature
        self.project = nn.Linear(config.width, config.width)

    def forward(self, q: Tensor, intents: Tensor, prior: Tensor) -> Tensor:
        """q (B, D), intent embeddings (I, D), p_intent (B, I) -> (B, I), rows sum to 1."""
        likeness = F.cosine_similarity(self.project(q).float()[:, None], intents.float()[None], dim=-1)  # (B, I)
        semantic = (likeness / self.temperature).softmax(-1)
        return (semantic + self.alpha * prior) / (1 + self.alpha)


class MimicryUnit(nn.Module):
    """EMU (eq. 6-8): Q seen through each polarity's emotions, diffused and denoised under the first intent."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        settings = config.diffusion
        self.settings = settings
        self.diffusion = Diffusion(settings.steps, settings.beta_first, settings.beta_last)
        self.denoiser = ConditionalVAE(config.width, len(INTENTS), latent=settings.latent)
        self.norm = nn.LayerNorm(config.width)
        self.fuse = Attention(config.width, config.heads, config.dropout)
        self.fused_norm = nn.LayerNorm(config.width)
        positive = torch.tensor([name in POSITIVE for name in EMOTIONS])
        self.register_buffer("polarity", torch.stack([positive, ~positive]), persistent=False)  # (2, E)
        # Answers draw this one noise, kept with the weights: they repeat, and batch mates do not matter.
        self.register_buffer("still_noise", torch.randn(2, 1, config.width))

    def split(self, q: Tensor, emotions: Tensor) -> Tensor:
        """q (B, D), E_emo (E, D) -> Q_pos and Q_neg (2, B, D): attention over one polarity, residual, norm."""
        scores = (q @ emotions.T).float() / q.size(-1) ** 0.5  # (B, E)
        weights = scores.masked_fill(~self.polarity[:, None], -1e9).softmax(-1)  # (2, B, E)
        return self.norm(q + weights @ emotions).float()

    def loss(self, x0: Tensor, first: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """L_kl of both polarities, (2,): MSE(eps, eps^) + KL(q || p) / D; and its noise part alone, (2,).

        x0 (2, B, D) is given without gradient: else the encoder could make Q easy to denoise by making it empty.
        """
        x0, first = x0.detach(), first.detach()
        levels = torch.rand(x0.size(1), device=x0.device, generator=generator) * self.diffusion.steps
        eps = normal_like(x0, generator)
        guess, kl = self.denoiser(self.diffusion.noise(x0, levels.long(), eps), levels.long(), first, eps, generator)
        noise = mean((guess - eps).pow(2), (1, 2))
        return noise + mean(kl, 1) / x0.size(-1), noise.detach()

    def mimic(self, x0: Tensor, first: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noise Q_s to level t* and come back (eq. 7): x0 (2, B, D) -> Emo_s (2, B, D)."""
        start = self.settings.start
        level = torch.full((x0.size(1),), start, device=x0.device)
        eps = normal_like(x0, generator) if self.training else self.still_noise.expand_as(x0)
        noised = self.diffusion.noise(x0, level, eps)

        def predict(x: Tensor, n: Tensor) -> Tensor:
            return self.denoiser(x, n, first)[0]

        if self.settings.sampler == "ddpm":
            if not self.training:  # answers repeat here too
                generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                steady = self.denoiser.predictor(first, self.diffusion.steps)
                return self.diffusion.ddpm(noised, start, steady, generator, shared=not self.training)
        return self.diffusion.ddim(noised, start, self.settings.chain_steps, predict)

    def forward(self, emo: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 8: Emo_s (2, B, D), H (B, L+1, D), mask (B, L+1) -> Emofused (B, L+2, D) and its mask."""
        query = torch.cat([emo[0][:, None].to(h.dtype), h], 1)
        source = torch.cat([emo[1][:, None].to(h.dtype), h], 1)
        whole = F.pad(mask, (1, 0), value=True)
        read, _ = self.fuse(query, self.fuse.keys(source), whole[:, None])
        return self.fused_norm(query + read), whole


@dataclass(frozen=True)
class Sampled:
    """What the policy did: action (B,), log pi (B, I), behaviour mu (B, I)."""

    action: Tensor
    log_pi: Tensor
    mu: Tensor


class Sampling(nn.Module):
    """The policy M_p over the reference intents of the emotion (Sec. 3.3.1, Action)."""

    def __init__(self, config: ModelConfig, reference: Tensor) -> None:
        """reference (E, I): the intents that each emotion allows. ValueError if one allows none."""
        super().__init__()
        if not reference.any(-1).all():
            raise ValueError("every emotion needs at least one reference intent")
        self.explore = config.explore
        self.policy = PolicyNetwork(config.width, intents=len(INTENTS))
        self.baseline = MovingBaseline()
        self.register_buffer("reference", reference.bool())  # (E, I): top 3 intents of each emotion, from train labels

    def forward(
        self, state: Tensor, emotion: Tensor, first: Tensor, generator: torch.Generator | None = None
    ) -> Sampled:
        """state (B, D), emotion (B,), Intent_first (B, I) -> the action: drawn from mu in training, argmax pi else."""
        allowed = self.reference[emotion]  # (B, I)
        log_pi = masked_policy(self.policy(state), allowed)
        mu = behaviour(first, allowed, self.explore)
        drawn = torch.multinomial(mu, 1, generator=generator)[:, 0] if self.training else log_pi.argmax(-1)
        return Sampled(drawn, log_pi, mu)


class Correcting(nn.Module):
    """The second guess (eq. 10): a shared layer on the first intent's plus the action's embedding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shared = nn.Linear(config.width, len(INTENTS))

    def forward(self, first: Tensor, action: Tensor, intents: Tensor) -> Tensor:
        """Intent_first (B, I), action (B,), intent embeddings (I, D) -> log p of the final intent (B, I)."""
        updated = first.to(intents.dtype) @ intents + intents[action]  # (B, D)
        return (first.clamp_min(1e-6).log() + self.shared(updated).float()).log_softmax(-1)
