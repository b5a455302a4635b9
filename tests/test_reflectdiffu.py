"""The whole loss from its parts (eq. 12, 19, 20), and the memory the reply is written from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_up import batch, tiny
from torch.testing import assert_close

from rd.blocks.contrastive import nt_xent

EMOTION, TWICE = {"contrast", "emotion"}, {"intent", "kl_pos", "kl_neg", "policy"}


def terms(**weights) -> dict[str, torch.Tensor]:
    """The loss terms of one batch; chance is the same at every call."""
    model = tiny("reflectdiffu", **weights).eval()
    return model.loss(batch(), torch.Generator().manual_seed(4))


def test_each_term_bears_its_own_weight():
    plain = terms()
    assert set(plain) == {"response"} | EMOTION | TWICE
    for weight, names in (("response_weight", {"response"}), ("emotion_weight", EMOTION), ("twice_weight", TWICE)):
        heavy = terms(**{weight: 3.0})
        for name, value in plain.items():
            assert_close(heavy[name], value * (3.0 if name in names else 1.0), msg=f"{weight}, {name}")


def test_the_emotion_loss_is_cross_entropy_and_contrast():
    model, given = tiny("reflectdiffu").eval(), batch()
    notes = model.encode(given.unlabelled()).notes
    found = model.loss(given)
    named = [-notes["emotion"][b, e] for b, e in enumerate(given.emotion.tolist())]
    assert_close(found["emotion"], sum(named) / len(named))
    assert_close(found["contrast"], nt_xent(notes["q"], given.emotion, model.config.temperature))


def test_the_intent_loss_is_that_of_the_final_intent():
    model, given = tiny("reflectdiffu").eval(), batch()
    final = model.encode(given.unlabelled()).notes["final"]
    assert_close(model.loss(given)["intent"], -final[torch.arange(len(final)), given.intent].mean())


def test_the_memory_is_the_final_intent_the_mimicked_emotion_and_the_words():
    model, given = tiny("reflectdiffu").eval(), batch()
    context = model.encode(given.unlabelled())
    assert context.memory.shape[:2] == (6, given.source.size(1) + 3) == context.mask.shape
    mixed = sum(p * e for p, e in zip(context.notes["final"][0].exp(), model.intents, strict=True))
    assert_close(context.memory[0, 0], model.intent_slot(mixed))
    assert context.mask[:, :3].all() and (context.mask[:, 3:] == given.mask).all()


@pytest.mark.parametrize("switch", ["era", "experts", "intent_twice", "emu"])
def test_an_ablation_is_a_switch_and_changes_the_answer(switch):
    given = batch().unlabelled()
    whole, without = tiny("reflectdiffu").eval(), tiny("reflectdiffu", **{switch: False}).eval()
    assert without.config == replace(whole.config, **{switch: False})
    fewer = {n.split(".")[0] for n, _ in whole.named_parameters()} - {
        n.split(".")[0] for n, _ in without.named_parameters()
    }
    gone = {"era": set(), "experts": {"experts"}, "intent_twice": {"sampling", "correcting"}, "emu": {"emu"}}
    assert fewer == gone[switch]
    assert without.encode(given).memory.size(1) == given.source.size(1) + (2 if switch == "emu" else 3)
