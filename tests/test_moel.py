"""MoEL: the tracker, the mixture word by word, and the oracle's schedule, which answering never sees."""

from dataclasses import replace

import pytest
import torch
from made_up import batch, tiny
from torch.testing import assert_close

from rd.baselines.moel import FALL, GAMMA
from rd.data.batch import UNLABELLED
from rd.labels import EMOTIONS


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(2)


@torch.no_grad()
def test_the_tracker_is_a_softmax_over_keys_and_its_p_are_the_shares():
    model, given = tiny("moel").eval(), batch()
    context = model.encode(given.unlabelled())
    for q, p, named in zip(context.memory[:, 0], context.experts, context.notes["emotion"], strict=True):
        scores = torch.stack([(key * q).sum().exp() for key in model.tracker.weight])
        assert_close(p, scores / scores.sum())
        assert_close(named.exp(), p)


@torch.no_grad()
def test_who_speaks_matters():
    model, given = tiny("moel").eval(), batch()
    before = model.encode(given.unlabelled()).experts
    after = model.encode(replace(given, speaker=~given.speaker & given.mask).unlabelled()).experts
    assert bool(((after - before).abs().amax(-1) > 1e-6).all())


@torch.no_grad()
def test_in_training_the_reply_is_first_learned_under_the_true_emotion_then_under_p():
    model, given = tiny("moel", dropout=0.0).train(), batch()
    given = replace(given, emotion=torch.where(torch.arange(6) < 4, given.emotion, UNLABELLED))
    context = model.encode(given.unlabelled())
    told = context.experts.clone()
    for i in range(4):
        told[i] = torch.eye(len(EMOTIONS))[given.emotion[i]]

    def response(experts: torch.Tensor) -> torch.Tensor:
        return -model.word_log_probs(given, replace(context, experts=experts))[0].mean()

    first = model.loss(given, chance())
    assert_close(first["response"], response(told))
    model.steps.fill_(40 * FALL)
    late = model.loss(given, chance())
    assert_close(late["response"], response(context.experts))
    assert abs(float(first["response"] - late["response"])) > 1e-3
    assert_close(first["emotion"], late["emotion"])


@pytest.mark.parametrize("step", [0, FALL // 3, 2 * FALL, 30 * FALL])
def test_the_oracle_speaks_as_often_as_the_schedule_says(step):
    model, draws, generator = tiny("moel"), 2000, chance()
    p, emotion = torch.full((1, len(EMOTIONS)), 1 / len(EMOTIONS)), torch.tensor([3])
    told = 0
    for _ in range(draws):
        model.steps.fill_(step)
        told += bool(model.oracle(p, emotion, generator)[0, 3] == 1)
    assert int(model.steps) == step + 1
    expected = GAMMA + (1 - GAMMA) * 2.718281828 ** (-step / FALL)
    assert abs(told / draws - expected) <= 4.5 * (expected * (1 - expected) / draws) ** 0.5 + 1e-9


@torch.no_grad()
def test_no_true_emotion_outside_of_training():
    """Scoring never reads it, not even in training mode at the first step; nor does the loss in evaluation mode."""
    model, given = tiny("moel", dropout=0.0), batch()
    other = replace(given, emotion=(given.emotion + 7) % len(EMOTIONS))
    model.train()
    assert_close(model.nll(given)[0], model.nll(other)[0], rtol=0, atol=0)
    assert not torch.equal(model.loss(given, chance())["response"], model.loss(other, chance())["response"])
    counted = int(model.steps)
    model.eval()
    assert_close(model.loss(given)["response"], model.loss(other)["response"], rtol=0, atol=0)
    assert int(model.steps) == counted == 2


def test_bf16_and_fp32_agree():
    model, given = tiny("moel").eval(), batch(8)
    exact = model.loss(given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(given)
    for name, term in exact.items():
        assert_close(rough[name].float(), term, rtol=0.05, atol=0.05)
