"""Dropout: its rate, its scale, its gradient, its seed."""

import pytest
import torch

from rd.blocks.dropout import Dropout


def dropped(p: float, seed: int, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(x)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5])
def test_rate_and_scale_are_those_of_p(p):
    y = dropped(p, 0, torch.ones(400, 1001))
    n, share = y.numel(), (y == 0).float().mean()
    rounded = round(256 * p) / 256
    assert abs(share - rounded) < 5 * (rounded * (1 - rounded) / n) ** 0.5  # five standard errors
    torch.testing.assert_close(y[y != 0].unique(), torch.tensor([1 / (1 - rounded)]))
    assert abs(rounded - p) <= 1 / 512


def test_places_fall_alone():
    """Neighbours share a random word; they are still independent: joint rate = product of the rates."""
    gone = (dropped(0.5, 1, torch.ones(200_000)) == 0).float().view(-1, 8)
    joint = gone.T @ gone / len(gone)  # (8, 8)
    off = joint[~torch.eye(8, dtype=torch.bool)]
    assert (off - 0.25).abs().max() < 5 * (0.25 * 0.75 / len(gone)) ** 0.5


def test_the_gradient_is_the_mask():
    x = torch.randn(7, 13, requires_grad=True)
    y = dropped(0.3, 2, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_same_seed_same_mask_and_eval_is_the_identity():
    x = torch.randn(5, 9)
    assert torch.equal(dropped(0.4, 3, x), dropped(0.4, 3, x))
    assert not torch.equal(dropped(0.4, 3, x), dropped(0.4, 4, x))
    assert Dropout(0.4).eval()(x) is x and Dropout(0.0).train()(x) is x


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match="0, 1"):
        Dropout(1.0)
