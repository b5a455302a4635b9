r"""The denoiser M_theta(Q_n, n, Intent_first): a conditional variational auto-encoder (sec. 3.3.1, eq. 7 and 10).

$$ c = f(Q_n, n, i), \qquad p(z|c) = N(\mu_p, \sigma_p^2), \qquad q(z|c, \epsilon) = N(\mu_q, \sigma_q^2), \qquad
   \hat\epsilon = g(c, z, Q_n) $$

Training draws z from q, which sees the noise, and pays KL(q || p); at test time z comes from p. Both polarities are one
computation: every weight has a leading dimension P, and no number crosses from one polarity to the other.
In the shapes, P is the polarities (2), H hidden, Z latent.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.diffusion import Predictor, normal_like


class StackedLinear(nn.Module):
    """P independent linear layers as one batched product, each initialised as `nn.Linear`."""

    def __init__(self, stack: int, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(stack, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """x (P, B, in), or (B, in) shared by all P -> (P, B, out)."""
        return torch.baddbmm(self.bias, x.expand(self.weight.size(0), *x.shape[-2:]), self.weight)


def step_embedding(n: Tensor, width: int) -> Tensor:
    """Sinusoids of the noise level (Vaswani et al. 2017, sec. 3.5). n (B,) -> (B, D), float32."""
    half = (width + 1) // 2
    rates = 1e4 ** -(torch.arange(half, device=n.device) / half)  # (D/2,)
    angles = n[:, None].float() * rates  # (B, D/2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width]


def gaussian_kl(mean_q: Tensor, logvar_q: Tensor, mean_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(q || p) of diagonal gaussians, SUMMED over the last dimension. (..., Z) -> (...)."""
    spread = (logvar_q - logvar_p).exp() + (mean_q - mean_p) ** 2 * (-logvar_p).exp()
    return 0.5 * (logvar_p - logvar_q + spread - 1).sum(-1)


class ConditionalVAE(nn.Module):
    """Predicts the noise in x_n, for P polarities at once."""

    def __init__(self, width: int, intents: int = 9, hidden: int | None = None, latent: int = 64, polarities: int = 2):
        super().__init__()
        hidden = hidden or width
        self.width = width
        self.condition = StackedLinear(polarities, 2 * width + intents, hidden)
        self.prior = StackedLinear(polarities, hidden, 2 * latent)
        self.recognise = StackedLinear(polarities, hidden + width, hidden)
        self.posterior = StackedLinear(polarities, hidden, 2 * latent)
        self.decode = StackedLinear(polarities, hidden + latent, hidden)
        self.output = StackedLinear(polarities, hidden + width, width)  # x_n again: far out, it is nearly eps

    def forward(
        self,
        x: Tensor,
        n: Tensor,
        intent: Tensor,
        eps: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x (P, B, D), n (B,) or (1,), intent (B, I), eps (P, B, D) or None -> eps_hat (P, B, D), kl (P, B) or None.

        With eps: z is drawn from q (by the generator, else torch's own) and kl is KL(q || p).
        Without: z is the mean of p, or drawn from p if a generator is given.
        """
        level = step_embedding(n, self.width).expand(len(intent), -1)
        shared = torch.cat([level, intent], dim=-1)  # (B, D + I)
        condition = F.silu(self.condition(torch.cat([x, shared.expand(x.size(0), -1, -1)], dim=-1)))  # (P, B, H)
        mean_p, logvar_p = gaussian(self.prior(condition))  # (P, B, Z)
        if eps is None:
            z, kl = mean_p, None
            if generator is not None:
                z = mean_p + (0.5 * logvar_p).exp() * normal_like(mean_p, generator)
        else:
            seen = F.silu(self.recognise(torch.cat([condition, eps], dim=-1)))  # (P, B, H)
            mean_q, logvar_q = gaussian(self.posterior(seen))  # (P, B, Z)
            z = mean_q + (0.5 * logvar_q).exp() * normal_like(mean_q, generator)
            kl = gaussian_kl(mean_q, logvar_q, mean_p, logvar_p)  # (P, B)
        state = condition + F.silu(self.decode(torch.cat([condition, z], dim=-1)))  # (P, B, H)
        return self.output(torch.cat([state, x], dim=-1)).float(), kl

    def predictor(self, intent: Tensor, levels: int) -> Predictor:
        """`forward` for a long chain under one intent (B, I): z is the mean of p, what no step changes is done once.

        levels: of the noise, N; the chain visits some. With z linear in the condition, prior and decoder are one
        product; x_n enters both layers that read it at once.
        """
        width, hidden = self.width, self.output.weight.size(1) - self.width
        latent = self.prior.weight.size(2) // 2
        from_x, from_level, from_intent = self.condition.weight.split([width, width, intent.size(1)], dim=1)
        decode, decode_z = self.decode.weight.split([hidden, latent], dim=1)
        decode = decode + self.prior.weight[..., :latent] @ decode_z  # (P, H, H)
        bias = self.decode.bias + self.prior.bias[..., :latent] @ decode_z  # (P, 1, H)
        out, out_x = self.output.weight.split([hidden, width], dim=1)
        enter, given = torch.cat([from_x, out_x], 2), self.condition.bias + intent @ from_intent  # (P, B, H)
        at = step_embedding(torch.arange(levels, device=intent.device), width) @ from_level  # (P, N, H)

        def predict(x: Tensor, n: Tensor) -> Tensor:
            entered, kept = (x @ enter).split([hidden, width], dim=-1)
            condition = F.silu(entered + (given + at[:, n]))  # (P, B, H)
            state = condition + F.silu(torch.baddbmm(bias, condition, decode))
            return (kept + torch.baddbmm(self.output.bias, state, out)).float()

        return predict


def gaussian(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 2Z) -> mean and log-variance (..., Z), float32, the variance kept within e^-10 .. e^10."""
    mean, logvar = parameters.float().chunk(2, dim=-1)
    return mean, logvar.clamp(-10.0, 10.0)
