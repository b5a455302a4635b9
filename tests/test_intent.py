"""Intent twice against sums written out: exploring, mimicry, sampling, correcting (eq. 5, 8, 10)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from made_up import batch, model_config, tiny
from torch.testing import assert_close

from rd.labels import EMOTIONS, INTENTS, POSITIVE
from rd.models.intent import Correcting, Exploring, MimicryUnit, Sampling

B, WIDTH = 3, 12


@pytest.fixture
def chance():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def first(chance):
    """An Intent_first for each of B examples."""
    return torch.rand(B, len(INTENTS), generator=chance).softmax(-1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_exploring_is_likeness_and_prior_normalised(chance, first, alpha):
    torch.manual_seed(0)
    part = Exploring(model_config(alpha=alpha, temperature=0.3))
    q, intents = torch.randn(B, WIDTH, generator=chance), torch.randn(len(INTENTS), WIDTH, generator=chance)
    with torch.no_grad():
        found, projected = part(q, intents, first), part.project(q)
    for b in range(B):
        near = [float(projected[b] @ e / projected[b].norm() / e.norm()) / 0.3 for e in intents]
        total = sum(math.exp(x) for x in near)
        for i, x in enumerate(near):
            assert found[b, i].item() == pytest.approx((math.exp(x) / total + alpha * first[b, i].item()) / (1 + alpha))


def test_each_polarity_sees_its_own_emotions(chance):
    torch.manual_seed(0)
    unit = MimicryUnit(model_config())
    q, emotions = torch.randn(B, WIDTH, generator=chance), torch.randn(len(EMOTIONS), WIDTH, generator=chance)
    with torch.no_grad():
        found = unit.split(q, emotions)
    for side, wanted in enumerate((True, False)):
        own = emotions[[(name in POSITIVE) == wanted for name in EMOTIONS]]
        for b in range(B):
            weight = (own @ q[b] / math.sqrt(WIDTH)).exp()
            mixed = q[b] + (weight[:, None] * own).sum(0) / weight.sum()
            centred = mixed - mixed.mean()
            assert_close(found[side, b], centred / (centred.square().mean() + 1e-5).sqrt(), rtol=1e-4, atol=1e-4)


def test_fused_is_attention_from_positive_to_negative(chance):
    torch.manual_seed(0)
    unit, length = MimicryUnit(model_config(heads=1, dropout=0.0)), 4
    emo, h = torch.randn(2, 1, WIDTH, generator=chance), torch.randn(1, length, WIDTH, generator=chance)
    mask = torch.tensor([[True, True, True, False]])
    with torch.no_grad():
        found, seen = unit(emo, h, mask)
        query, source = torch.cat([emo[0], h[0]]), torch.cat([emo[1], h[0, :3]])  # the last word is padding
        key, value = unit.fuse.key_value(source).chunk(2, -1)
        weight = (unit.fuse.query(query) @ key.T / math.sqrt(WIDTH)).softmax(-1)
        wanted = unit.fused_norm(query + unit.fuse.output(weight @ value))
    assert seen.tolist() == [[True, True, True, True, False]]
    assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_the_polarities_never_mix_before_they_are_fused(chance, first):
    torch.manual_seed(0)
    unit = MimicryUnit(model_config()).eval()
    x = torch.randn(2, B, WIDTH, generator=chance)
    changed = torch.stack([x[0], x[1] + 1])
    with torch.no_grad():
        assert_close(unit.mimic(x, first)[0], unit.mimic(changed, first)[0])
        assert not torch.allclose(unit.mimic(x, first)[1], unit.mimic(changed, first)[1])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_an_answer_s_mimicry_repeats_and_batch_mates_change_nothing(chance, first, sampler):
    torch.manual_seed(0)
    settings = replace(model_config().diffusion, sampler=sampler, start=5)
    unit = MimicryUnit(model_config(diffusion=settings)).eval()
    x = torch.randn(2, B, WIDTH, generator=chance)
    with torch.no_grad():
        whole = unit.mimic(x, first)
        assert_close(unit.mimic(x, first), whole, rtol=0, atol=0)
        for b in range(B):
            assert_close(unit.mimic(x[:, b : b + 1], first[b : b + 1])[:, 0], whole[:, b], rtol=1e-4, atol=1e-5)
    drawn = unit.train().mimic(x, first, chance)
    assert not torch.allclose(drawn, whole)


def test_the_noise_loss_reaches_the_denoiser_and_not_what_it_denoises(chance, first):
    torch.manual_seed(0)
    unit = MimicryUnit(model_config())
    x = torch.randn(2, B, WIDTH, generator=chance).requires_grad_()
    both, noise = unit.loss(x, first, chance)
    assert both.shape == noise.shape == (2,) and (both > noise).all()  # the KL is what they differ by
    both.sum().backward()
    assert x.grad is None and all(p.grad is not None for p in unit.denoiser.parameters())


def test_actions_come_from_mu_in_training_and_from_the_policy_s_best_after(first):
    torch.manual_seed(0)
    reference = torch.zeros(len(EMOTIONS), len(INTENTS), dtype=torch.bool)
    reference[:, [1, 4, 6]] = True
    part = Sampling(model_config(explore=0.3), reference)
    many, draws = 20_000, torch.Generator().manual_seed(1)
    state, emotion = torch.randn(1, WIDTH).expand(many, -1), torch.zeros(many, dtype=torch.long)
    drawn = part(state, emotion, first[:1].expand(many, -1), draws)
    kept = first[0, [1, 4, 6]]
    wanted = 0.7 * kept / kept.sum() + 0.1
    assert_close(drawn.mu[0, [1, 4, 6]], wanted)
    assert_close(torch.bincount(drawn.action, minlength=9)[[1, 4, 6]] / many, wanted, rtol=0, atol=0.015)
    sure = part.eval()(state[:2], emotion[:2], first[:2])
    assert (sure.action == sure.log_pi.argmax(-1)).all() and set(sure.action.tolist()) <= {1, 4, 6}


def test_correcting_adds_a_shared_layer_to_the_first_guess(chance, first):
    torch.manual_seed(0)
    part, action = Correcting(model_config()), torch.tensor([0, 4, 8])
    intents = torch.randn(len(INTENTS), WIDTH, generator=chance)
    with torch.no_grad():
        found = part(first, action, intents).exp()
        for b in range(B):
            updated = sum(first[b, i] * intents[i] for i in range(len(INTENTS))) + intents[action[b]]
            scores = first[b] * (part.shared.weight @ updated + part.shared.bias).exp()
            assert_close(found[b], scores / scores.sum())


def test_the_action_moves_the_final_intent_and_the_policy_s_gradient_stops_at_its_state():
    model, given = tiny("reflectdiffu").eval(), batch()
    context = model.encode(given)
    model.train()._policy_loss(dict(context.notes)).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved and all(name.startswith("sampling.policy") for name in moved)
