"""Alignment against a loop over pairs."""

from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from rd.blocks.alignment import Alignment


def by_loop(a, b, weight, there):
    """The formula as it reads, pair by pair, in Python numbers."""
    relations, samples, width = a.shape

    def f(r, i, j):
        terms = ((a[r, i, x] * weight[x, y] * b[j, y]).item() for x in range(width) for y in range(width))
        return 1 / (1 + exp(-sum(terms)))

    total, pairs = 0.0, 0
    for r in range(relations):
        here = [i for i in range(samples) if there[r, i]]
        for i in here:
            below_a = sum(exp(f(r, i, j)) for j in here)
            below_b = sum(exp(f(r, j, i)) for j in here)
            total -= 2 * f(r, i, i) - log(below_a) - log(below_b)
            pairs += 1
    return total / pairs


def made(relations=3, samples=5, width=4):
    torch.manual_seed(0)
    there = torch.rand(relations, samples) < 0.7
    return Alignment(width), torch.randn(relations, samples, width), torch.randn(samples, width), there


def test_equals_the_loop():
    align, a, b, there = made()
    assert there.any() and not there.all()
    assert align(a, b, there).item() == pytest.approx(by_loop(a, b, align.weight, there), rel=1e-5)


def test_what_is_not_there_has_no_say():
    """Neither its value nor its gradient, nor the samples of padding behind it."""
    align, a, b, there = made()
    a.requires_grad_()
    loss = align(a, b, there)
    loss.backward()
    assert not a.grad[~there].any() and a.grad[there].any()
    changed = torch.where(there[..., None], a, 1e3)
    assert_close(align(changed, b, there), loss)


def test_a_pair_is_learned_and_the_floor_is_what_the_docstring_says():
    align, a, b, there = made(relations=1, samples=4, width=8)
    there[:] = True
    first = align(a, b, there).item()
    optimizer = torch.optim.Adam(align.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        align(a, b, there).backward()
        optimizer.step()
    floor = 2 * log(1 + 3 / exp(1))
    assert floor <= align(a, b, there).item() < floor + 0.05 < first


@pytest.mark.parametrize("count", [0, 1])
def test_without_company_it_is_zero_and_differentiable(count):
    align, a, b, there = made()
    there = torch.zeros_like(there)
    there[0, :count] = True
    loss = align(a, b, there)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert bool(align.weight.grad.isfinite().all())
