r"""The diffusion process of the Emotion Mimicry Unit (eq. 6-7; Ho et al. 2020, Song et al. 2021). It holds no weights.

$$ q(x_n|x_0) = N(\sqrt{\bar\alpha_n}\, x_0,\ (1-\bar\alpha_n) I), \qquad \bar\alpha_n = \prod_{m \le n} (1-\beta_m) $$
$$ x_{n-1} = \frac{1}{\sqrt{1-\beta_n}} \Big( x_n - \frac{\beta_n\, \hat\epsilon}{\sqrt{1-\bar\alpha_n}} \Big)
   + \sigma_n z, \qquad \sigma_n^2 = \frac{1-\bar\alpha_{n-1}}{1-\bar\alpha_n} \beta_n $$

Time: n = 0 .. N-1 as in `diffusers`; x_n has seen n+1 noise steps, and the clean vector (`x0`) lies BEFORE n = 0.
Erratum: eq. 7 prints sqrt(1 - sum beta), imaginary once the sum passes 1 (near n = 200): `literal_eq7_coefficients`.
The variance is the posterior's ("fixed_small" of `diffusers`), exact when x_0 is one known vector; it is 0 at n = 0.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Predictor = Callable[[Tensor, Tensor], Tensor]  # (x_n (..., B, D), n (1,)) -> eps_hat (..., B, D)


def normal_like(x: Tensor, generator: torch.Generator | None = None, shared: bool = False) -> Tensor:
    """float32 standard normal noise (..., B, D) like x and on its device, drawn where the generator lives.

    shared: one draw for all B, so that batch mates do not matter.
    """
    device = x.device if generator is None else generator.device
    shape = (*x.shape[:-2], 1, x.size(-1)) if shared else x.shape
    return torch.randn(shape, device=device, generator=generator).to(x.device).expand_as(x)


class Diffusion(nn.Module):
    """Schedule and both reverse chains, in float32. A module only so that its tables follow `.to(device)`."""

    def __init__(self, steps: int = 1000, beta_first: float = 1e-5, beta_last: float = 5e-2):
        super().__init__()
        if steps < 1 or not 0 < beta_first <= beta_last < 1:
            raise ValueError(f"need steps >= 1 and 0 < beta_first <= beta_last < 1: {steps}, {beta_first}, {beta_last}")
        self.steps = steps
        beta = torch.linspace(beta_first, beta_last, steps, dtype=torch.float64)  # (N,)
        log_alpha_bar = torch.log1p(-beta).cumsum(0)
        noise = -torch.expm1(log_alpha_bar)  # 1 - alpha_bar: the subtraction in float32 would lose 1e-5's digits
        before = torch.cat([noise.new_zeros(1), noise[:-1]])  # 1 - alpha_bar of n-1
        tables = {"beta": beta, "alpha_bar": log_alpha_bar.exp(), "noise_level": noise, "sigma2": before / noise * beta}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def noise(self, x0: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """x_n in closed form (eq. 6 iterated). x0 (..., B, D), n (B,), eps like x0 -> (..., B, D)."""
        signal, noise = self.alpha_bar[n].sqrt()[:, None], self.noise_level[n].sqrt()[:, None]  # (B, 1)
        return signal * x0.float() + noise * eps.float()

    def predict_x0(self, xn: Tensor, n: Tensor, eps: Tensor) -> Tensor:
        """The clean vector that x_n and its noise imply; inverts `noise`. xn (..., B, D), n (B,) -> (..., B, D)."""
        signal, noise = self.alpha_bar[n].sqrt()[:, None], self.noise_level[n].sqrt()[:, None]  # (B, 1)
        return (xn.float() - noise * eps.float()) / signal

    def posterior_mean(self, xn: Tensor, n: Tensor, eps_hat: Tensor) -> Tensor:
        """Eq. 7 with the erratum applied: the mean of x_{n-1}. xn (..., B, D), n (B,) -> (..., B, D)."""
        beta, noise = self.beta[n][:, None], self.noise_level[n].sqrt()[:, None]  # (B, 1)
        return (xn.float() - beta / noise * eps_hat.float()) / (1 - beta).sqrt()

    def step(
        self, xn: Tensor, n: Tensor, eps_hat: Tensor, generator: torch.Generator | None = None, shared: bool = False
    ) -> Tensor:
        """One ancestral step x_n -> x_{n-1}; no noise is added at n = 0. xn (..., B, D), n (B,) -> (..., B, D)."""
        spread = self.sigma2[n].sqrt()[:, None]  # (B, 1)
        return self.posterior_mean(xn, n, eps_hat) + spread * normal_like(xn, generator, shared)

    def ddpm(
        self,
        x: Tensor,
        start: int,
        predict: Predictor,
        generator: torch.Generator | None = None,
        shared: bool = False,
    ) -> Tensor:
        """Ancestral chain from x = x_start to the clean vector, start + 1 steps. x (..., B, D) -> (..., B, D)."""
        for level in self.levels(start, start + 1):
            n = self._level(x, level)
            x = self.step(x, n, predict(x, n), generator, shared)
        return x

    def ddim(self, x: Tensor, start: int, k: int, predict: Predictor) -> Tensor:
        """Deterministic, differentiable chain from x = x_start to the clean vector in k steps. x (..., B, D)."""
        levels = self.levels(start, k)
        for level, following in zip(levels, [*levels[1:], None], strict=True):
            n = self._level(x, level)
            eps = predict(x, n)
            x = self.predict_x0(x, n, eps)
            if following is not None:
                x = self.noise(x, self._level(x, following), eps)
        return x

    def levels(self, start: int, k: int) -> list[int]:
        """The k noise levels a chain visits, from `start` down ("trailing" spacing). ValueError if that cannot be."""
        if not 0 <= start < self.steps or not 1 <= k <= start + 1:
            raise ValueError(
                f"a chain from level {start} in {k} steps needs 0 <= start < {self.steps}, 1 <= k <= start+1"
            )
        return [round((start + 1) * (k - j) / k) - 1 for j in range(k)]

    def literal_eq7_coefficients(self) -> Tensor:
        """sqrt(1 - sum_{m<=n} beta_m) as eq. 7 prints it, (N,): NaN from where the sum passes 1."""
        return (1 - self.beta.cumsum(0)).sqrt()

    @staticmethod
    def _level(x: Tensor, level: int) -> Tensor:
        return torch.full((1,), level, dtype=torch.long, device=x.device)  # all B are at one level
