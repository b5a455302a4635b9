r"""A Wasserstein critic of replies that also reads what a reply led to (EmpDG: Li et al., COLING 2020).

$$ L_D = E[D(\hat Y)] - E[D(Y)] + \lambda\, E[(\lVert \nabla_{\tilde H} D \rVert_2 - 1)^2], \quad L_G = -E[D(\hat Y)] $$

D(Y): an LSTM reads the reply and the turn after it; pairs of neighbouring states, max-pooled, meet that turn's last
state and the context. H~ lies at random between the states of Y^ and of Y (Gulrajani et al., NeurIPS 2017), behind the
LSTM, as in the authors' code: so nothing is differentiated twice through an LSTM, which cuDNN cannot do.
In the shapes, P is the samples that play, F the words of the turn after, R how many replies are judged at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from rd.blocks.parts import total

PENALTY = 10.0  # lambda; Gulrajani et al. 2017 (the authors' 0.1 does not hold a critic that plays from the first step)


class Exchange(NamedTuple):
    """What surrounds a reply."""

    mask: Tensor  # (P, T) True at the words of the reply
    after: Tensor  # (P, F, D) the words of the turn after it
    heard: Tensor  # (P, F) True at those words
    context: Tensor  # (P, D) the dialogue before it


class Critic(nn.Module):
    """D, high for gold replies. No dropout and no batch norm: a score is that of one reply alone.

    SiLU where the authors have ReLU: a slope that is smooth in the weights, so that the penalty reaches all of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.pair = nn.Linear(2 * width, width)  # a convolution over two neighbours
        self.dense = nn.Linear(width, width // 2)
        self.score = nn.Linear(width // 2, 1, bias=False)  # a bias would cancel in L_D

    def forward(
        self, replies: Tensor, exchange: Exchange, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """replies (R, P, T, D) -> scores (R, P), the LSTM's states of them (R, P, T, D), what else is known (P, D).

        known: as an earlier call gave it, so that the turn after is not read again.
        """
        count, rows, length, _ = replies.shape
        turns = [*replies] if known is not None else [*replies, exchange.after]
        longest = max(x.size(1) for x in turns)
        turns = torch.cat([F.pad(x, (0, 0, 0, longest - x.size(1))) for x in turns])
        states = self.lstm(turns)[0].unflatten(0, (-1, rows))  # (R or R+1, P, longest, D)
        if known is None:
            last = exchange.heard.sum(1).clamp_min(1) - 1
            known = exchange.context + states[-1, torch.arange(rows, device=last.device), last]
        states = states[:count, :, :length]
        return self.judge(states, exchange.mask, known), states, known

    def judge(self, states: Tensor, mask: Tensor, known: Tensor) -> Tensor:
        """states (..., P, T, D), mask (P, T), known (P, D) -> scores (..., P)."""
        before = F.pad(states, (0, 0, 1, 0))[..., :-1, :]
        pairs = F.silu(self.pair(torch.cat([before, states], -1)))  # (..., P, T, D)
        pooled = pairs.masked_fill(~mask[..., None], torch.finfo(pairs.dtype).min).amax(-2)
        return self.score(F.silu(self.dense(F.silu(pooled + known))))[..., 0]

    def penalty(self, states: Tensor, mask: Tensor, known: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(|slope| - 1)^2 at a random place between states[0] and states[1], each (P, T, D) -> (P,)."""
        device = states.device if generator is None else generator.device
        share = torch.rand(states.size(1), 1, 1, dtype=states.dtype, device=device, generator=generator)
        between = torch.lerp(states[0], states[1], share.to(states.device)).detach().requires_grad_()
        scores = self.judge(between, mask, known)
        slope = torch.autograd.grad(scores.sum(), between, create_graph=True)[0]
        norm = (slope.square().sum((1, 2)) + 1e-12).sqrt()  # a slope of 0 has a derivative, too
        return (norm - 1).square()


def wasserstein(
    critic: Critic,
    said: Tensor,
    gold: Tensor,
    exchange: Exchange,
    plays: Tensor,
    generator: torch.Generator | None = None,
    fool: bool = True,
) -> tuple[Tensor, Tensor]:
    """L_D and L_G, scalars: the first moves the critic alone, the second alone what made `said`.

    said, gold (P, T, D); plays (P,) True where a sample counts; zeros where none does. fool: whether L_G is wanted,
    else it is 0. Float32 inside. To be called where gradients are on: the penalty is made of one.
    """
    after, context = exchange.after.detach().float(), exchange.context.detach().float()
    exchange = exchange._replace(after=after, context=context)
    frozen = {name: weight.detach() for name, weight in critic.named_parameters()}
    with torch.autocast(said.device.type, enabled=False):
        both = torch.stack([said.detach().float(), gold.detach().float()])
        scores, states, known = critic(both, exchange)
        gap = scores[0] - scores[1] + PENALTY * critic.penalty(states, exchange.mask, known, generator)
        fooled = torch.zeros_like(gap)
        if fool:
            fooled = functional_call(critic, frozen, (said.float()[None], exchange, known.detach()))[0][0]
    share = plays / total(plays.sum()).clamp_min(1)  # (P,)
    return total((gap * share).sum()), -total((fooled * share).sum())
