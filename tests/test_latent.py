"""The stacked denoiser against two networks apart, and its KL against a library and against sampling."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from rd.blocks.latent import ConditionalVAE, StackedLinear, gaussian_kl, step_embedding

WIDTH, LATENT = 6, 3


@pytest.fixture
def case():
    torch.manual_seed(2)
    model = ConditionalVAE(WIDTH, hidden=5, latent=LATENT)
    x, eps = torch.randn(2, 2, 4, WIDTH).unbind(0)
    return model, x, torch.tensor([0, 3, 40, 999]), torch.rand(4, 9).softmax(-1), eps


def apart(layer, polarity, x):
    """One polarity of a stacked layer as a plain affine map."""
    return x @ layer.weight[polarity] + layer.bias[polarity]


def one_network(model, s, x, n, intent, eps=None, draw=None):
    """M_theta of one polarity, written out: x (B, D) -> eps_hat (B, D), kl (B,) or None."""
    c = F.silu(apart(model.condition, s, torch.cat([x, step_embedding(n, WIDTH), intent], -1)))
    prior = apart(model.prior, s, c)
    z, kl = prior[:, :LATENT], None
    if eps is not None:
        after = apart(model.posterior, s, F.silu(apart(model.recognise, s, torch.cat([c, eps], -1))))
        q = Normal(after[:, :LATENT], (after[:, LATENT:] / 2).exp())
        p = Normal(prior[:, :LATENT], (prior[:, LATENT:] / 2).exp())
        z, kl = q.loc + q.scale * draw, kl_divergence(q, p).sum(-1)
    state = c + F.silu(apart(model.decode, s, torch.cat([c, z], -1)))
    return apart(model.output, s, torch.cat([state, x], -1)), kl


def test_stacked_equals_two_networks(case):
    model, x, n, intent, eps = case
    found, kl = model(x, n, intent, eps, torch.Generator().manual_seed(7))
    draw = torch.randn(2, 4, LATENT, generator=torch.Generator().manual_seed(7))
    for s in (0, 1):
        wanted, wanted_kl = one_network(model, s, x[s], n, intent, eps[s], draw[s])
        assert_close((found[s], kl[s]), (wanted, wanted_kl), rtol=1e-4, atol=1e-5)


def test_without_the_noise_z_is_the_prior_s_mean_or_a_draw(case):
    model, x, n, intent, _ = case
    found, kl = model(x, n, intent)
    assert kl is None
    assert_close(found, torch.stack([one_network(model, s, x[s], n, intent)[0] for s in (0, 1)]), rtol=1e-4, atol=1e-5)
    drawn = [model(x, n, intent, generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert not torch.allclose(drawn[0], drawn[2]) and not torch.allclose(drawn[0], found)


def test_the_chain_s_predictor_is_the_denoiser(case):
    model, x, n, intent, _ = case
    predict = model.predictor(intent, 1 + int(n.max()))
    assert_close(predict(x, n), model(x, n, intent)[0], rtol=1e-4, atol=1e-5)
    for level in n.split(1):
        assert_close(predict(x, level), model(x, level.expand(4), intent)[0], rtol=1e-4, atol=1e-5)
        assert_close(model(x, level, intent)[0], model(x, level.expand(4), intent)[0])


def test_one_polarity_never_touches_the_other(case):
    model, x, n, intent, eps = case
    x.requires_grad_()
    found, kl = model(x, n, intent, eps)
    (found[0].sum() + kl[0].sum()).backward()
    assert bool((x.grad[0] != 0).any()) and bool((x.grad[1] == 0).all())
    assert all(bool((w.grad[0] != 0).any()) and bool((w.grad[1] == 0).all()) for w in model.parameters())


def test_stacked_linear_is_linear():
    torch.manual_seed(0)
    stacked, x = StackedLinear(2, 4, 3), torch.randn(2, 5, 4)
    for s in (0, 1):
        assert_close(stacked(x)[s], F.linear(x[s], stacked.weight[s].T, stacked.bias[s, 0]))
        assert_close(stacked(x[0])[s], F.linear(x[0], stacked.weight[s].T, stacked.bias[s, 0]))


def test_kl_against_the_library_and_against_sampling():
    chance = torch.Generator().manual_seed(5)
    mean_q, logvar_q, mean_p, logvar_p = torch.randn(4, 2, 3, generator=chance) * 0.5
    q, p = Normal(mean_q, (logvar_q / 2).exp()), Normal(mean_p, (logvar_p / 2).exp())
    found = gaussian_kl(mean_q, logvar_q, mean_p, logvar_p)
    assert_close(found, kl_divergence(q, p).sum(-1))
    z = mean_q + q.scale * torch.randn(200_000, 2, 3, generator=chance)
    assert_close(found, (q.log_prob(z) - p.log_prob(z)).sum(-1).mean(0), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("width", [6, 5])
def test_step_embedding_tells_the_levels_apart(width):
    table = step_embedding(torch.arange(1000), width)
    assert table.shape == (1000, width) and len(table.unique(dim=0)) == 1000
    assert_close(table[7, 0], torch.tensor(7.0).sin())


def test_autocast_returns_float32(case):
    model, x, n, intent, eps = case
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, kl = model(x, n, intent, eps)
    assert found.dtype == kl.dtype == torch.float32
