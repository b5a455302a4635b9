"""NT-Xent against a loop over pairs."""

from math import exp, log

import pytest
import torch
from torch.testing import assert_close

from rd.blocks.contrastive import nt_xent


def by_loop(features, labels, temperature):
    """Eq. 17-18 as they read, one emotion after the other, in Python numbers."""

    def similarity(i, j):
        a, b = features[i].tolist(), features[j].tolist()
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5 / temperature

    everyone, total, pairs = range(len(labels)), 0.0, 0
    for emotion in set(labels):
        group = [i for i in everyone if labels[i] == emotion]
        for i in group:
            below = sum(exp(similarity(i, k)) for k in everyone if k != i)
            for j in group:
                if j != i:
                    total -= log(exp(similarity(i, j)) / below)
                    pairs += 1
    return total / pairs


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_loop(temperature):
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    labels = [3, 1, 3, 3, 0, 1, 2]
    found = nt_xent(features, torch.tensor(labels), temperature)
    assert found.item() == pytest.approx(by_loop(features, labels, temperature), rel=1e-5)


@pytest.mark.parametrize("labelled", [[0, 2, 3, 5], [4], []])
def test_examples_without_a_label_are_as_if_not_there(labelled):
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.full((6,), -100)
    labels[labelled] = torch.tensor([3, 1, 3, 1])[: len(labelled)]
    found = nt_xent(features, labels, known=labels >= 0)
    assert_close(found, nt_xent(features[labelled], labels[labelled]))
    (gradient,) = torch.autograd.grad(found, features)
    assert bool(gradient.isfinite().all()) and not gradient[labels < 0].any()
    if len(labelled) > 1:
        assert found.item() == pytest.approx(by_loop(features[labelled].detach(), labels[labelled].tolist(), 0.1))


def test_two_of_a_kind_need_no_telling():
    """With nobody else in the batch the positive is the only candidate: log 1."""
    assert nt_xent(torch.randn(2, 3), torch.tensor([5, 5])).item() == 0.0


def test_length_does_not_matter_and_being_close_helps():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 0, 1, 1])
    assert_close(nt_xent(features * torch.tensor([[1.0], [7.0], [0.3], [2.0]]), labels), nt_xent(features, labels))
    assert nt_xent(features, labels) < nt_xent(features, torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize("labels", [[4], [0, 1, 2]])
def test_without_positives_it_is_zero_and_differentiable(labels):
    features = torch.randn(len(labels), 3, requires_grad=True)
    loss = nt_xent(features, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0 and bool((features.grad == 0).all())


def test_a_zero_vector_has_a_finite_gradient():
    features = torch.zeros(3, 4, requires_grad=True)
    nt_xent(features, torch.tensor([0, 0, 1])).backward()
    assert bool(features.grad.isfinite().all())


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(torch.randn(2, 2), torch.tensor([0, 0]), 0.0)
