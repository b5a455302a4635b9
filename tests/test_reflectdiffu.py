"""The whole loss from its parts (eq. 12, 19, 20), and the memory the reply is written from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_up import batch, examples, tiny
from torch.testing import assert_close

from rd.blocks.contrastive import nt_xent
from rd.blocks.transformer import positions
from rd.data.text import tokenize

EMOTION, TWICE = {"contrast", "emotion"}, {"intent", "intent_first", "kl_pos", "kl_neg", "policy"}


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


def test_the_intent_losses_are_those_of_the_final_and_of_the_first_intent():
    model, given = tiny("reflectdiffu").eval(), batch()
    notes = model.encode(given.unlabelled()).notes
    found, rows = model.loss(given), torch.arange(len(given.intent))
    assert_close(found["intent"], -notes["final"][rows, given.intent].mean())
    assert_close(found["intent_first"], -notes["first"][rows, given.intent].log().mean())


def test_the_memory_is_the_mimicked_emotion_and_the_words_and_the_final_intent_leads():
    model, given = tiny("reflectdiffu").eval(), batch()
    context = model.encode(given.unlabelled())
    assert context.memory.shape[:2] == (6, given.source.size(1) + 2) == context.mask.shape
    assert context.mask[:, :2].all() and (context.mask[:, 2:] == given.mask).all()
    mixed = sum(p * e for p, e in zip(context.notes["final"][0].exp(), model.intents, strict=True))
    assert_close(context.plan[0], model.intent_slot(mixed))
    read = model.embed_response(given.target, plan=context.plan)
    assert_close(read[0, 1], model.words.weight[given.target[0, 1]] + positions(9, 12)[1] + context.plan[0])
    letter = tiny("reflectdiffu", intent_place="memory").eval().encode(given.unlabelled())
    assert letter.plan is None and letter.mask[:, 0].all()
    assert_close(letter.memory, torch.cat([context.plan[:, None], context.memory], 1))


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
    assert without.encode(given).memory.size(1) == given.source.size(1) + (1 if switch == "emu" else 2)


def test_joint_training_reads_its_own_bert_turn_by_turn():
    """h~ of each word computed one turn at a time; BERT learns, at its own rate, and the heads for tags do not."""
    model, given = tiny("reflectdiffu with BERT").eval(), batch()
    vectors = model._vectors(given)
    for b, example in enumerate(examples(6)):
        turns = [tokenize(text) for text in example.texts]
        alone = [model.annotator.encode(model.pieces([words]))[0, : len(words)] for words in turns]
        assert_close(vectors[b, : len(example.words)], torch.cat(alone)[-len(example.words) :], rtol=1e-4, atol=1e-5)
    groups = model.groups()
    assert [g.get("scale") for g in groups] == [None, model.config.joint_rate]
    learned = {id(p) for g in groups for p in g["params"]}
    heads = ("emission", "crf", "emotion", "bert.pooler", "bert.embeddings.word")
    fixed = tuple(f"annotator.{part}" for part in heads)
    for name, weight in model.named_parameters():
        assert (id(weight) in learned) != name.startswith(fixed), name
    with pytest.raises(ValueError, match="ERA"):
        type(model)(model.config, torch.zeros(9, model.config.width))
