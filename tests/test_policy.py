"""The policy gradient against exact enumeration over three intents."""

import pytest
import torch
from torch.testing import assert_close

from rd.blocks.policy import (
    MovingBaseline,
    PolicyNetwork,
    behaviour,
    masked_policy,
    policy_loss,
    reward,
)

MASK = torch.tensor([[0, 1, 0, 1, 0, 0, 1, 0, 0]], dtype=torch.bool)
ALLOWED = (1, 3, 6)
GAIN = torch.tensor([0.0, 0.9, 0.0, 0.2, 0.0, 0.0, 0.6, 0.0, 0.0])


@pytest.fixture
def case():
    chance = torch.Generator().manual_seed(6)
    first = torch.randn(1, 9, generator=chance).softmax(-1)
    return torch.randn(1, 9, generator=chance).requires_grad_(), behaviour(first, MASK, explore=0.2)


def expected_gradient(logits, mu, **options):
    """E_mu of the estimator's gradient of the LOSS: each of the three actions, weighted by its probability under mu."""
    total = torch.zeros_like(logits)
    for action in ALLOWED:
        chosen = torch.tensor([action])
        loss = policy_loss(masked_policy(logits, MASK), mu, chosen, GAIN[chosen], **options)
        total += mu[0, action] * torch.autograd.grad(loss, logits)[0]
    return total


@pytest.mark.parametrize("baseline", [0.0, 0.5, torch.tensor(-3.0)])
def test_unclipped_gradient_is_that_of_the_expected_reward(case, baseline):
    logits, mu = case
    expected_reward = (masked_policy(logits, MASK).exp() * GAIN).sum()
    wanted = torch.autograd.grad(-expected_reward, logits)[0]
    assert bool((wanted != 0).any())
    assert_close(expected_gradient(logits, mu, baseline=baseline), wanted, rtol=1e-4, atol=1e-6)
    assert_close(expected_gradient(logits, mu, baseline=baseline, clip=1e6), wanted, rtol=1e-4, atol=1e-6)


def test_clip_bounds_the_ratio_and_keeps_the_direction(case):
    _, mu = case
    logits = torch.zeros(1, 9).index_fill(1, torch.tensor([1]), 4.0).requires_grad_()
    log_pi, action, gain = masked_policy(logits, MASK), torch.tensor([1]), torch.tensor([1.0])
    ratio = (log_pi.exp()[0, 1] / mu[0, 1]).item()
    free, held = (
        torch.autograd.grad(policy_loss(log_pi, mu, action, gain, clip=clip), logits, retain_graph=True)[0]
        for clip in (None, ratio / 2)
    )
    assert bool((held != 0).any())
    assert_close(held, free / 2)


def test_a_batch_is_the_mean_of_its_examples(case):
    logits, mu = case
    several = logits.detach().repeat(3, 1).requires_grad_()
    action = torch.tensor(ALLOWED)
    loss = policy_loss(
        masked_policy(several, MASK), mu.repeat(3, 1), action, GAIN[action], torch.tensor([0.1, 0.2, 0.3])
    )
    apart = [
        policy_loss(masked_policy(logits, MASK), mu, action[i : i + 1], GAIN[action[i : i + 1]], 0.1 * (i + 1))
        for i in range(3)
    ]
    assert_close(loss, torch.stack(apart).mean())


def test_behaviour_by_hand():
    first = torch.tensor([[0.5, 0.3, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0], [1.0] + [0.0] * 8])
    found = behaviour(first, MASK.repeat(2, 1), explore=0.3)
    wanted = torch.zeros(2, 9)
    wanted[0, list(ALLOWED)] = torch.tensor([0.7 * 0.75 + 0.1, 0.7 * 0.25 + 0.1, 0.1])
    wanted[1, list(ALLOWED)] = 1 / 3  # Intent_first gives the whole set nothing
    assert_close(found, wanted)


def test_policy_lives_on_the_reference_set(case):
    logits, _ = case
    log_pi = masked_policy(logits, MASK)
    assert_close(log_pi[MASK], logits[MASK].log_softmax(-1))
    entropy = -(log_pi.exp() * log_pi).sum()
    assert bool(entropy.isfinite()) and bool((log_pi.exp()[~MASK] == 0).all())


def test_reward_is_eq9_and_takes_no_gradient():
    state, intent = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True), torch.tensor([[0.5, -1.0], [3.0, 0.0]])
    found = reward(state, intent)
    assert_close(found, 1 / (1 + torch.tensor([1.5, 0.0]).exp()))
    assert not found.requires_grad
    assert_close(reward(state, intent, scale=2.0)[0], 1 / (1 + torch.tensor(3.0).exp()))


def test_baseline_is_the_past_and_moves_in_training_only():
    baseline = MovingBaseline(momentum=0.75)
    assert baseline(torch.tensor([1.0, 0.9])).item() == 0.5
    moved = 0.75 * 0.5 + 0.25 * 0.95
    assert baseline.eval()(torch.zeros(2)).item() == pytest.approx(moved)
    assert baseline.value.item() == pytest.approx(moved) and "value" in baseline.state_dict()


def test_network_is_two_linear_layers():
    torch.manual_seed(0)
    network, state = PolicyNetwork(4, hidden=5), torch.randn(2, 4)
    (a, b), (c, d) = ((layer.weight, layer.bias) for layer in network.layers if hasattr(layer, "weight"))
    assert_close(network(state), (state @ a.T + b).clamp(min=0) @ c.T + d)
