r"""A latent variable with a prior and a recognition network, and the annealing of its KL term.

$$ p(z|c) = N(\mu_p, \sigma_p^2), \quad q(z|c, y) = N(\mu_q, \sigma_q^2), \quad L = -\log p(y|c, z) + w\, KL(q || p) $$

The conditional variational auto-encoder of dialogue (Zhao et al., ACL 2017, Sec. 3.1); w as in Bowman et al. (CoNLL
2016, Sec. 3.1), but linear. In the shapes, C is the width of the condition c, Y that of the reply's state y, Z latent.
"""

import torch
from torch import Tensor, nn

from rd.blocks.diffusion import normal_like
from rd.blocks.latent import gaussian, gaussian_kl


class LatentVariable(nn.Module):
    """z: from the prior's mean where there is no reply to see, else drawn from the recognition network's gaussian."""

    def __init__(self, condition: int, seen: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.prior = _two_layers(condition, hidden, 2 * latent)
        self.recognise = _two_layers(condition + seen, hidden, 2 * latent)

    def forward(
        self, condition: Tensor, seen: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """condition (B, C), seen (B, Y) or None -> z (B, Z), KL(q || p) in nats (B,), 0 where nothing was seen."""
        mean_p, logvar_p = gaussian(self.prior(condition))  # (B, Z)
        if seen is None:
            return mean_p, mean_p.new_zeros(len(mean_p))
        mean_q, logvar_q = gaussian(self.recognise(torch.cat([condition, seen], -1)))  # (B, Z)
        z = mean_q + (0.5 * logvar_q).exp() * normal_like(mean_q, generator)
        return z, gaussian_kl(mean_q, logvar_q, mean_p, logvar_p)


class Annealing(nn.Module):
    """A weight that rises linearly to 1 over `full` calls in training; their count is saved with the weights."""

    def __init__(self, full: int) -> None:
        super().__init__()
        self.full = full
        self.register_buffer("steps", torch.tensor(0))

    def forward(self) -> Tensor:
        """The weight, a scalar: 1/full at the first call in training. In eval the count stands still."""
        if self.training:
            self.steps.add_(1)
        return (self.steps / self.full).clamp(max=1.0)


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
