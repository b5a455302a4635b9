"""A latent variable against torch.distributions, and the annealing against its closed form."""

import torch
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from rd.blocks.recognition import Annealing, LatentVariable

C, Y, Z = 5, 4, 3


def variable() -> tuple[LatentVariable, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return LatentVariable(C, Y, 6, Z), torch.randn(7, C), torch.randn(7, Y)


def normal(network, inputs) -> Normal:
    """What a network says of z, as a distribution of the library."""
    mean, logvar = network(inputs).chunk(2, -1)
    return Normal(mean, (logvar / 2).exp())


def copy_prior(latent: LatentVariable) -> None:
    """The recognition network becomes the prior's: what it sees weighs nothing."""
    with torch.no_grad():
        first, last = latent.recognise[0], latent.recognise[2]
        first.weight.zero_()[:, : latent.prior[0].in_features] = latent.prior[0].weight
        first.bias.copy_(latent.prior[0].bias)
        last.load_state_dict(latent.prior[2].state_dict())


def test_z_and_kl_against_the_library():
    latent, condition, seen = variable()
    z, kl = latent(condition, seen, torch.Generator().manual_seed(3))
    p, q = normal(latent.prior, condition), normal(latent.recognise, torch.cat([condition, seen], -1))
    assert_close(z, q.loc + q.scale * torch.randn(7, Z, generator=torch.Generator().manual_seed(3)))
    assert_close(kl, kl_divergence(q, p).sum(-1))
    assert float(kl.detach().min()) > 0


def test_without_a_reply_z_is_the_prior_s_mean():
    latent, condition, _ = variable()
    z, kl = latent(condition, generator=torch.Generator().manual_seed(3))
    assert_close(z, normal(latent.prior, condition).loc, rtol=0, atol=0)
    assert_close(kl, torch.zeros(7))


def test_where_recognition_is_the_prior_the_kl_is_zero():
    latent, condition, seen = variable()
    copy_prior(latent)
    assert_close(latent(condition, seen)[1], torch.zeros(7), rtol=0, atol=1e-6)
    latent.recognise[2].bias.data += 0.1
    assert float(latent(condition, seen)[1].detach().min()) > 1e-3


def test_annealing_is_a_line_then_one_and_goes_on_after_a_restart():
    annealing = Annealing(4).train()
    assert_close([float(annealing()) for _ in range(3)], [0.25, 0.5, 0.75])
    annealing.eval()
    assert_close([float(annealing()) for _ in range(2)], [0.75, 0.75])  # scoring moves nothing
    again = Annealing(4).train()
    again.load_state_dict(annealing.state_dict())
    assert_close([float(again()) for _ in range(3)], [1.0, 1.0, 1.0])
