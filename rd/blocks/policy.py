r"""Sampling the second intent: off-policy REINFORCE over the reference intents (sec. 3.3.1 "Action", eq. 9).

$$ \nabla J = E_{a \sim \mu} \Big[ \min\Big(\frac{\pi(a)}{\mu(a)}, c\Big) (R - b) \nabla \log \pi(a) \Big],
   \qquad R = \mathrm{sigmoid}(Emo_s \cdot e_a) $$

Without the bound c this is exactly the gradient of sum_a pi(a) R(a): mu pi/mu grad log pi = grad pi, and the baseline b
cancels as the probabilities sum to 1. The bound trades a little bias for variance (truncated importance sampling,
Ionides 2008); unlike PPO's clip it shortens a long step instead of dropping it.
"""

import torch
from torch import Tensor, nn

from rd.blocks.parts import mean


class PolicyNetwork(nn.Module):
    """M_p: two linear layers on the pooled Emofused."""

    def __init__(self, width: int, hidden: int | None = None, intents: int = 9):
        super().__init__()
        hidden = hidden or width
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, intents))

    def forward(self, state: Tensor) -> Tensor:
        """state (B, D) -> logits (B, I)."""
        return self.layers(state)


def behaviour(first: Tensor, mask: Tensor, explore: float) -> Tensor:
    """mu: Intent_first within the reference set, mixed with a uniform over it. first (B, I), mask (B, I) -> (B, I).

    Where Intent_first gives the whole set nothing, mu is the uniform. No gradient: mu only chooses.
    """
    inside = first.detach().float() * mask  # (B, I)
    total = inside.sum(dim=-1, keepdim=True)  # (B, 1)
    uniform = mask / mask.sum(dim=-1, keepdim=True)  # (B, I)
    inside = torch.where(total > 0, inside / total.clamp(min=torch.finfo(total.dtype).tiny), uniform)
    return (1 - explore) * inside + explore * uniform


def masked_policy(logits: Tensor, mask: Tensor) -> Tensor:
    """log pi over the reference set; outside it about -1e9, so pi is 0 and pi log pi too. (B, I) each -> (B, I)."""
    return logits.float().masked_fill(~mask, -1e9).log_softmax(dim=-1)


def reward(emotion_state: Tensor, intent_embedding: Tensor, scale: float = 1.0) -> Tensor:
    """Eq. 9, sigmoid of the dot product, without gradient. (B, D), (B, D) -> (B,).

    scale 1 is the letter; D^-0.5 keeps wide embeddings out of the sigmoid's flat ends.
    """
    return torch.sigmoid(scale * (emotion_state.float() * intent_embedding.float()).sum(-1)).detach()


def policy_loss(
    log_pi: Tensor,
    mu: Tensor,
    action: Tensor,
    reward: Tensor,
    baseline: Tensor | float = 0.0,
    clip: float | None = None,
) -> Tensor:
    """REINFORCE for actions drawn from mu; the GRADIENT is the point, the value means little.

    log_pi (B, I), mu (B, I), action (B,), reward (B,), baseline scalar or (B,) -> scalar mean over B.
    clip bounds the ratio pi/mu from above; None: no bound, unbiased.
    """
    chosen = log_pi.float().gather(-1, action[:, None]).squeeze(-1)  # (B,)
    ratio = chosen.detach().exp() / mu.detach().float().gather(-1, action[:, None]).squeeze(-1)  # (B,)
    if clip is not None:
        ratio = ratio.clamp(max=clip)
    return -mean(ratio * (reward - baseline).detach() * chosen)


class MovingBaseline(nn.Module):
    """Moving average of the reward, moved in training only; starts at .5, the middle of a sigmoid."""

    def __init__(self, momentum: float = 0.99):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(0.5))

    def forward(self, reward: Tensor) -> Tensor:
        """reward (B,) -> the average BEFORE this batch (a scalar): one that saw its own reward would be biased."""
        before = self.value.clone()
        if self.training:
            self.value.lerp_(mean(reward.detach().float()), 1 - self.momentum)
        return before
