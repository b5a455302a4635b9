"""CAB's three parts, each a second way: loops over single words and samples, a library's gaussians, a loss by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_up import batch, epochs, saved, tiny, train_config, validate
from test_recognition import copy_prior, normal
from torch.distributions import kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from rd.baselines.cab import BAG, FULL_KL
from rd.data.text import Vocabulary
from rd.train import fit


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture
def case():
    """A model that is not at its first step, a batch, and what the model made of it."""
    model, given = tiny("cab").eval(), batch()
    model.annealing.steps.fill_(FULL_KL // 3)
    with torch.no_grad():
        yield model, given, model.encode(given.unlabelled())


def trained_on(model, given, monkeypatch) -> tuple[dict, object]:
    """The terms of the loss, and the context that the decoder read in it."""
    seen, score = [], model.taught
    monkeypatch.setattr(model, "taught", lambda b, context: seen.append(context) or score(b, context))
    terms = model.loss(given, chance())
    monkeypatch.undo()
    return terms, seen[0]


# --- cognition --------------------------------------------------------------------------------------------------------


def test_knowledge_is_recalled_path_by_path(case):
    """Each sample alone with the paths it has, no padding."""
    model, given, _ = case
    h = torch.randn(6, given.source.size(1) + 1, 12)
    found, recalled = model.cognition(h, given.known)
    for b in range(6):
        steps = [
            (h[b, 1 + int(given.known.heads[b, c])], model.words.weight[concept])
            for c, concept in enumerate(given.known.concepts[b].tolist())
            if concept
        ]
        slots = [c for c, concept in enumerate(given.known.concepts[b].tolist()) if concept]
        for r, phrase in enumerate(given.known.commonsense[b].tolist()):
            said = [model.words.weight[word] for word in phrase if word]
            if said:
                steps.append((model.relations[r], sum(said) / len(said)))
                slots.append(given.known.concepts.size(1) + r)
        paths = torch.stack([torch.tanh(model.path(torch.cat(step))) for step in steps])[None]
        read, weights = model.recall(h[b : b + 1], model.recall.keys(paths))
        gate, new = model.blend(torch.cat([h[b], read[0]], -1)).split(12, -1)
        assert_close(found[b], gate.sigmoid() * h[b] + (1 - gate.sigmoid()) * new.tanh())
        assert_close(recalled[b, slots], weights[0, 0])
        assert_close(recalled[b].sum(), torch.tensor(1.0))


def test_who_knows_nothing_keeps_the_words_as_they_are(case):
    model, given, _ = case
    h = torch.randn(6, given.source.size(1) + 1, 12)
    known = given.known._replace(
        concepts=given.known.concepts.clone().index_fill_(0, torch.tensor([2]), 0),
        commonsense=given.known.commonsense.clone().index_fill_(0, torch.tensor([2]), 0),
    )
    found, recalled = model.cognition(h, known)
    assert_close(found[2], h[2], rtol=0, atol=0)
    assert not recalled[2].any()
    assert_close(found[3], model.cognition(h, given.known)[0][3])


# --- affection --------------------------------------------------------------------------------------------------------


def test_each_interlocutor_is_read_in_their_own_words(case):
    """By gathering the words of one side of one sample, no mask; and the bond by its definition."""
    model, given, _ = case
    mask = F.pad(given.mask, (1, 0), value=True)
    h, cosines = torch.randn(*mask.shape, 12), []
    model.felt.weight.mul_(20.0)  # emotions so distinct that some point away from each other
    notes = model.affection(h, mask, given.speaker)
    felt = torch.stack([notes["emotion"], notes["emotion_listener"]], 1)
    for b in range(6):
        feelings = []
        for side, speaks in enumerate((True, False)):
            words = [0] + [
                1 + i for i in range(given.source.size(1)) if mask[b, 1 + i] and given.speaker[b, i] == speaks
            ]
            keys = model.side.keys(h[b : b + 1, words])
            asks = (h[b, 0] + model.roles[side])[None, None]
            read = asks + model.side(asks, keys)[0]
            logits = read[0] @ model.felt.weight[side] + model.felt.bias[side]
            assert_close(felt[b, side], logits[0].log_softmax(-1))
            feelings.append(logits[0].softmax(-1) @ model.emotions)
            again = model.side(read + feelings[-1], keys)[0]
            assert_close(notes["sides"][b, side], (read + again)[0, 0])
        cosines.append(feelings[0] @ feelings[1] / (feelings[0].norm() * feelings[1].norm()))
    assert_close(notes["bond"], torch.stack(cosines).abs())
    assert min(cosines) < 0 < max(cosines)


def test_the_listener_s_variable_stands_on_the_speaker_s_and_not_the_other_way(case):
    model, _, context = case
    notes, size = context.notes, context.notes["z"].size(1) // 2
    for seen in (None, torch.randn(6, 12)):

        def z(speaker=0.0, listener=0.0, seen=seen):
            sides = notes["sides"] + torch.tensor([speaker, listener])[:, None]
            return model.latents(notes | {"sides": sides}, seen, chance())[0].split(size, -1)

        plain, by_speaker, by_listener = z(), z(speaker=1.0), z(listener=1.0)
        assert ((by_speaker[0] - plain[0]).abs().amax(-1) > 1e-3).all()
        assert ((by_speaker[1] - plain[1]).abs().amax(-1) > 1e-4).all()  # through z_s alone: u_l is the same
        assert_close(by_listener[0], plain[0], rtol=0, atol=0)
        assert ((by_listener[1] - plain[1]).abs().amax(-1) > 1e-3).all()


def test_z_is_the_two_variables_weighed_by_the_bond(case):
    model, _, context = case
    notes, seen = context.notes, torch.randn(6, 12)
    z, kl = model.latents(notes, seen, noise := chance())
    again, (one, other) = chance(), notes["sides"].unbind(1)
    p, q = normal(model.speaker.prior, one), normal(model.speaker.recognise, torch.cat([one, seen], -1))
    speaker = q.loc + q.scale * torch.randn(q.loc.shape, generator=again)
    below = torch.cat([other, speaker], -1)
    p_l, q_l = normal(model.listener.prior, below), normal(model.listener.recognise, torch.cat([below, seen], -1))
    listener = q_l.loc + q_l.scale * torch.randn(q_l.loc.shape, generator=again)
    w = notes["bond"][:, None]
    assert_close(z, torch.cat([w * speaker, (1 - w) * listener], -1))
    assert_close(kl, kl_divergence(q, p).sum(-1) + kl_divergence(q_l, p_l).sum(-1))
    assert noise.get_state().equal(again.get_state())


# --- behaviour, and the three together --------------------------------------------------------------------------------


def test_the_plan_is_the_three_parts_by_their_gates(case):
    model, _, context = case
    notes = context.notes
    act = sum(notes["final"][:, i, None].exp() * model.acts[i] for i in range(9))
    parts = [context.memory[:, 0], model.affect(notes["z"]), act]
    open_ = [gate.exp() for gate in model.gate(torch.cat(parts, -1)).chunk(3, -1)]
    assert_close(context.plan, sum(gate * part for gate, part in zip(open_, parts, strict=True)) / sum(open_))
    assert_close(notes["shares"], torch.stack([(gate / sum(open_)).mean(-1) for gate in open_], -1))
    assert_close(notes["final"].exp().sum(-1), torch.ones(6))


# --- the reply is seen in training alone ------------------------------------------------------------------------------


def test_another_reply_is_another_z_in_training_and_the_same_context_elsewhere(case, monkeypatch):
    model, given, context = case
    there = given.target != Vocabulary.PAD
    other = torch.where(there, 5 + (given.target + 1) % 20, given.target)
    changed = replace(given, target=other, target_ext=other)
    read, read_changed = (trained_on(model, b, monkeypatch)[1] for b in (given, changed))
    assert ((read.notes["z"] - read_changed.notes["z"]).abs().amax(-1) > 1e-3).all()
    assert ((read.plan - read_changed.plan).abs().amax(-1) > 1e-4).all()
    for name in set(read.notes) - {"z", "kl", "shares"}:  # memory, emotion and act know no reply
        assert_close(read_changed.notes[name], read.notes[name], rtol=0, atol=0)
    assert_close(read_changed.memory, read.memory, rtol=0, atol=0)
    scored, scored_changed = model.nll(given)[2], model.nll(changed)[2]
    for one in (scored, scored_changed):
        assert_close((one.plan, one.notes), (context.plan, context.notes), rtol=0, atol=0)
        assert not one.notes["kl"].any()


def test_the_loss_by_hand(case, monkeypatch):
    """The five terms from the context that the decoder read: words and bag one by one, gaussians of the library."""
    model, given, _ = case
    terms, read = trained_on(model, given, monkeypatch)
    words, _ = model.word_log_probs(given, read)
    bags = (model.bag(read.notes["z"]) @ model.words.weight.T + model.bias).softmax(-1)
    said = [[bags[b, w].log() for w in given.target[b].tolist() if w != Vocabulary.PAD] for b in range(6)]
    assert set(terms) == {"response", "emotion", "intent", "kl", "bag"}
    assert_close(terms["response"], -words.mean())
    assert_close(terms["bag"], -BAG * sum(map(sum, said)) / 6)
    assert_close(terms["emotion"], -read.notes["emotion"][range(6), given.emotion].mean())
    known = given.intent >= 0
    assert_close(terms["intent"], -read.notes["final"][range(6), given.intent][known].mean())
    assert_close(terms["kl"], (FULL_KL // 3) / FULL_KL * read.notes["kl"].mean())
    reply = F.pad(given.target, (1, 0), value=Vocabulary.CTX)
    seen = torch.stack(  # each reply alone, no padding
        [model.reply(model.embed(row[row != 0][None]), torch.ones(1, int((row != 0).sum()), dtype=torch.bool))[0, 0]
         for row in reply]
    )  # fmt: skip
    assert_close(read.notes["z"], model.latents(read.notes, seen, chance())[0])


def test_with_recognition_copied_from_the_priors_the_kl_term_is_zero(case):
    model, given, _ = case
    assert float(model.loss(given, chance())["kl"]) > 1e-3
    copy_prior(model.speaker)
    copy_prior(model.listener)
    assert_close(model.loss(given, chance())["kl"], torch.tensor(0.0), rtol=0, atol=1e-6)


def test_the_schedule_counts_steps_of_training_and_goes_on_where_it_stopped(tmp_path):
    for resume, steps in ((False, 5), (True, 12)):
        model = tiny("cab", seed=steps)
        fit(model, epochs(), validate, train_config(steps=steps, save_every=5), tmp_path, resume=resume, log_every=1)
        assert int(saved(tmp_path)["annealing.steps"]) == steps  # validations and answers count nothing
    model.annealing.steps.fill_(2 * FULL_KL)
    assert float(model.train().annealing()) == 1


def test_hits_are_the_named_emotion_and_act(case):
    model, given, context = case
    notes = {"emotion": F.one_hot(given.emotion, 32).float(), "final": F.one_hot(given.intent, 9).float()}
    wrong = notes | {"final": notes["final"].roll(1, -1)}
    hits, missed = (model.hits(given, replace(context, notes=n)) for n in (notes, wrong))
    assert set(hits) == {"acc_emo", "acc_intent"} and all(row.all() and len(row) == 6 for row in hits.values())
    assert missed["acc_emo"].all() and not missed["acc_intent"].any()


def test_the_bag_of_words_moves_what_leads_to_z_and_no_word_of_the_decoder():
    model, given = tiny("cab"), batch()
    model.loss(given, chance())["bag"].backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and bool(weight.grad.any())}
    assert {"bag.0.weight", "speaker.recognise.0.weight", "listener.recognise.0.weight", "emotions"} <= moved
    assert not moved & {"bias", "project.weight", "act.weight"} and not {n for n in moved if n.startswith("decoder.")}
    model.zero_grad()
    context = model.encode(given.unlabelled())
    cut = replace(context, notes=context.notes | {"z": context.notes["z"].detach()})
    model.extra_losses(given, cut)["bag"].backward()
    assert model.words.weight.grad is None and model.bag[2].weight.grad.any()
