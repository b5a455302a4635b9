"""The diffusion process against its own steps and against the schedulers of `diffusers`."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from rd.blocks.diffusion import Diffusion, normal_like

SMALL = Diffusion(steps=60, beta_last=0.1)
PLAIN = {"clip_sample": False, "prediction_type": "epsilon"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_forward_process_equals_its_own_steps():
    """Mean factor and variance of x_n, one step of eq. 6 at a time, in double precision."""
    diffusion = Diffusion()
    mean, variance = 1.0, 0.0
    ones, zeros = torch.ones(1, 1), torch.zeros(1, 1)
    for step in range(1000):
        beta = 1e-5 + (5e-2 - 1e-5) * step / 999
        mean, variance = (1 - beta) ** 0.5 * mean, (1 - beta) * variance + beta
        if step in (0, 1, 10, 500, 999):
            n = torch.tensor([step])
            assert diffusion.noise(ones, n, zeros).item() == pytest.approx(mean, rel=1e-6)
            assert diffusion.noise(zeros, n, ones).item() == pytest.approx(variance**0.5, rel=1e-6)


def test_eq7_as_printed_is_nan_and_ours_is_not():
    diffusion = Diffusion()
    literal = diffusion.literal_eq7_coefficients()
    first = int(literal.isnan().nonzero()[0])
    assert 190 < first < 210 and bool(literal[first:].isnan().all()) and not bool(literal[:first].isnan().any())
    n = torch.arange(1000)
    assert bool(diffusion.step(torch.randn(1000, 4), n, torch.randn(1000, 4), seeded()).isfinite().all())
    assert_close(literal[:5], diffusion.noise_level[:5].neg().add(1).sqrt(), rtol=1e-6, atol=1e-6)


def test_our_step_is_the_scheduler_s():
    scheduler = DDPMScheduler(60, trained_betas=SMALL.beta.numpy(), variance_type="fixed_small", **PLAIN)
    scheduler.set_timesteps(60)
    x, eps = torch.randn(2, 3, 5, generator=seeded(1)), torch.randn(2, 3, 5, generator=seeded(2))
    for level in (59, 30, 1, 0):
        n = torch.full((3,), level)
        theirs = scheduler.step(eps, level, x, generator=seeded(level)).prev_sample
        assert_close(SMALL.step(x, n, eps, seeded(level)), theirs, rtol=1e-4, atol=1e-5)
        assert_close(SMALL.noise(x, n, eps), scheduler.add_noise(x, eps, torch.tensor([level])), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("start", "k"), [(59, 60), (59, 10), (59, 1), (23, 6)])
def test_our_ddim_chain_is_the_scheduler_s(start, k):
    """A chain from a lower level is a full chain of the shortened schedule, spaced "trailing"."""
    beta = SMALL.beta[: start + 1].numpy()
    scheduler = DDIMScheduler(start + 1, trained_betas=beta, timestep_spacing="trailing", **PLAIN)
    scheduler.set_timesteps(k)
    assert scheduler.timesteps.tolist() == SMALL.levels(start, k)
    x = theirs = torch.randn(2, 3, 4, generator=seeded())
    for level in scheduler.timesteps:
        theirs = scheduler.step(torch.sin(theirs + level / 9), int(level), theirs).prev_sample
    ours = SMALL.ddim(x, start, k, lambda xn, n: torch.sin(xn + n[:, None] / 9))
    assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k", [1, 4, 7])
def test_a_perfect_predictor_recovers_the_start(k):
    x0, eps = torch.randn(2, 3, 5, generator=seeded(4)), torch.randn(2, 3, 5, generator=seeded(5))
    n = torch.full((3,), 40)
    xn = SMALL.noise(x0, n, eps)
    assert_close(SMALL.predict_x0(xn, n, eps), x0, rtol=1e-4, atol=1e-5)

    def perfect(x, level):
        """The noise that x holds if x0 was the start."""
        return (x - SMALL.noise(x0, level, torch.zeros_like(x))) / SMALL.noise_level[level].sqrt()[:, None]

    assert_close(SMALL.ddim(xn, 40, k, perfect), x0, rtol=1e-4, atol=1e-4)
    assert_close(SMALL.ddpm(xn, 40, perfect, seeded()), x0, rtol=1e-3, atol=1e-3)


def test_the_ancestral_chain_takes_every_level_once():
    seen = []
    x = torch.randn(2, 4)

    def predict(xn, n):
        seen.append(n.tolist())
        return xn * 0.5

    found = SMALL.ddpm(x, 3, predict, seeded(8))
    chance = seeded(8)
    for level in (3, 2, 1, 0):
        x = SMALL.step(x, torch.tensor([level, level]), x * 0.5, chance)
    assert seen == [[3], [2], [1], [0]]  # all rows are at one level
    assert_close(found, x)


def test_gradients_pass_the_ddim_chain():
    weight = torch.tensor(0.3, dtype=torch.float32, requires_grad=True)
    x = torch.randn(3, 4, generator=seeded())

    def run(value):
        return SMALL.ddim(x, 20, 3, lambda xn, n: torch.tanh(value * xn)).sum()

    run(weight).backward()
    with torch.no_grad():
        numeric = (run(weight + 1e-2) - run(weight - 1e-2)) / 2e-2
    assert_close(weight.grad, numeric, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("start", "k"), [(60, 3), (-1, 1), (5, 0), (5, 7)])
def test_impossible_chains_are_refused(start, k):
    with pytest.raises(ValueError, match="start"):
        SMALL.levels(start, k)
    with pytest.raises(ValueError, match="beta"):
        Diffusion(steps=4, beta_first=0.5, beta_last=0.1)


def test_it_holds_no_weights_and_chance_is_the_generator_s():
    assert not list(SMALL.parameters()) and not SMALL.state_dict()
    x = torch.zeros(3, 2, dtype=torch.bfloat16)
    assert_close(normal_like(x, seeded(1)), normal_like(x, seeded(1)), rtol=0, atol=0)
    assert SMALL.noise(x, torch.zeros(3, dtype=torch.long), x).dtype == torch.float32
