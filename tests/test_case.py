"""CASE's own: the selection of nodes, fused affection, what is aligned with what, and contexts that nobody knows of."""

from dataclasses import replace
from math import exp, log, sqrt, tanh

import pytest
import torch
from made_up import VOCAB, batch, tiny
from torch.nn import functional as F
from torch.testing import assert_close

from rd.baselines.case import COARSE, FINE, divergence_of, select
from rd.data.text import Vocabulary
from rd.generate import Decode, generate
from rd.responder import label_loss


def silent(given, relations=slice(None)):
    """The batch, nothing said of these relations."""
    said = given.known.commonsense.clone()
    said[:, relations] = 0
    return replace(given, known=given.known._replace(commonsense=said))


def test_selection_and_divergence_against_a_loop():
    """The intensity is a second softmax over the nodes: the product of the two, made to sum to one."""
    torch.manual_seed(0)
    query, states, eta = torch.randn(2, 4), torch.randn(2, 5, 4), torch.rand(2, 5)
    there = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).bool()
    weights, mixed = select(query, states, there, eta)
    assert not weights[1].any() and not mixed[1].any()

    def product(bias):
        parts = {}
        for i in range(5):
            if there[0, i]:
                dot = sum(query[0, d].item() * tanh(states[0, i, d].item()) for d in range(4))
                parts[i] = exp(dot / sqrt(4)) * exp(bias[i])
        return {i: part / sum(parts.values()) for i, part in parts.items()}

    wanted, other = product(eta[0].tolist()), product([0.0] * 5)
    assert_close(weights[0], torch.tensor([wanted.get(i, 0.0) for i in range(5)]))
    assert_close(mixed[0], sum(w * states[0, i] for i, w in wanted.items()))
    kl = sum(other[i] * log(other[i] / wanted[i]) for i in wanted)
    found = divergence_of(select(query, states, there)[0], weights)
    assert found[0].item() == pytest.approx(kl, abs=1e-6) and found[1] == 0 and kl > 0


def test_both_alignments_against_a_loop_over_pairs():
    """Coarse: the selected cognition and emotional state of a sample. Fine: each of its phrases and its reaction."""
    model, given = tiny("case").eval(), batch(8)
    context = model.encode(given.unlabelled())
    terms, notes = model.extra_losses(given, context), context.notes
    said = given.known.commonsense.bool().any(-1)  # (B, R)

    def f(align, a, b):
        return torch.sigmoid(a @ align.weight @ b)

    def lost(align, a, b, here):
        """a, b: vectors by sample; here: the samples that have both."""
        return [
            -2 * f(align, a[i], b[i])
            + torch.stack([f(align, a[i], b[j]) for j in here]).exp().sum().log()
            + torch.stack([f(align, a[j], b[i]) for j in here]).exp().sum().log()
            for i in here
        ]

    coarse = lost(model.coarse, notes["c_cog"], notes["c_emo"], [i for i in range(8) if said[i, :4].any()])
    assert_close(terms["coarse"], COARSE * torch.stack(coarse).mean())
    fine = []
    for r in range(4):
        here = [i for i in range(8) if said[i, r] and said[i, 4]]
        fine += lost(model.fine, notes["phrases"][:, r], notes["h_rea"], here)
    assert_close(terms["fine"], FINE * torch.stack(fine).mean())
    assert 8 < len(fine) < 32


def test_what_the_reply_chooses_sample_by_sample():
    """KL of its choice and the context's, and the bag of its words."""
    model, given = tiny("case").eval(), batch()
    context = model.encode(given.unlabelled())
    terms, notes = model.extra_losses(given, context), context.notes
    kl, said = 0.0, []
    for i in range(6):
        words = given.target[i][given.target[i] != 0]
        read = F.pad(words, (1, 0), value=Vocabulary.CTX)[None]
        query = model.encoder(model.embed(read), read != 0)[:, 0]
        graphs = [("phrases", "phrased", "cognition", None), ("affects", "felt", "affection", notes["intensity"])]
        mixed = []
        for states, there, prior, bias in graphs:
            here = notes[there][i]
            scores = notes[states][i][here].tanh() @ query[0] / sqrt(12)
            posterior = (scores if bias is None else scores + bias[i][here]).softmax(0)
            kl += F.kl_div(notes[prior][i][here].log(), posterior, reduction="sum") if here.any() else 0.0
            mixed.append(posterior @ notes[states][i][here])
        logits = model.vocab_logits(torch.tanh(model.bag(torch.cat(mixed[::-1]))))
        said += [-logits.log_softmax(-1)[word] for word in words]
    assert_close(terms["kl"], kl / 6)
    assert_close(terms["bow"], torch.stack(said).mean())


def test_the_context_learns_the_choice_and_the_reply_does_not_give_way():
    """A word that the reply alone holds gets no gradient from the KL, and one from the bag."""
    model, given, alone = tiny("case").eval(), batch(), VOCAB.encode(["dog"])[0]
    known = {name: getattr(given.known, name) for name in ("concepts", "commonsense")}
    known = given.known._replace(**{name: ids.masked_fill(ids == alone, alone + 1) for name, ids in known.items()})
    source = given.source.masked_fill(given.source == alone, alone + 1)
    given = replace(given, source=source, known=known, target=given.target.masked_fill(given.target > 4, alone))
    terms = model.extra_losses(given, model.encode(given.unlabelled()))
    for term, asked, learns in (("kl", model.query.weight, False), ("bow", model.bag.weight, True)):
        model.zero_grad()
        terms[term].backward(retain_graph=True)
        assert asked.grad is not None and bool(asked.grad.any())
        assert bool(model.words.weight.grad[alone].any()) == learns


def test_the_signals_join_every_word():
    """W_1 in two parts is W_1 on the three laid side by side."""
    model, given = tiny("case").eval(), batch()
    context = model.encode(given.unlabelled())
    notes = context.notes
    words, mask = model.context_words(given)
    h = model.encoder(words, mask)
    c_aff = notes["gate"] * notes["c_emo"] + (1 - notes["gate"]) * notes["h_rea"]
    whole = torch.cat([model.merge_words.weight, model.merge_signals.weight], 1)
    places = h.size(1)
    signals = torch.cat([notes["c_cog"], c_aff], -1)[:, None].expand(-1, places, -1)
    joined = F.relu(torch.cat([h, signals], -1) @ whole.T) @ model.merge.weight.T
    assert_close(context.memory[:, -places:], joined)
    assert_close(notes["emotion"], model.emotion(c_aff).log_softmax(-1))
    assert context.memory.size(1) == 4 + given.known.concepts.size(1) + places
    assert context.mask[:, :4].equal(given.known.commonsense[:, :4].bool().any(-1))


def test_without_a_reaction_affection_is_the_concept_graph_alone():
    model, given = tiny("case").eval(), batch()
    notes = model.encode(silent(given, 4).unlabelled()).notes
    assert bool((notes["gate"] == 1).all()) and not notes["h_rea"].any()
    assert_close(notes["emotion"], model.emotion(notes["c_emo"]).log_softmax(-1))


@pytest.mark.parametrize("gone", range(4))
def test_a_silent_relation_leaves_the_memory_and_the_alignment(gone):
    model, given = tiny("case").eval(), batch(8)
    less = silent(given, gone)
    context = model.encode(less.unlabelled())
    assert not context.mask[:, gone].any() and not context.notes["cognition"][:, gone].any()
    others = [r for r in range(4) if r != gone]
    assert context.mask[:, others].equal(given.known.commonsense[:, others].bool().any(-1))
    shouted = context.notes["phrases"].index_fill(1, torch.tensor(gone), 9.0)
    loud = replace(context, notes=context.notes | {"phrases": shouted})
    assert_close(model.extra_losses(less, loud)["fine"], model.extra_losses(less, context)["fine"])


def test_contexts_of_which_nothing_is_known():
    """All relations empty, no concepts: finite losses and gradients, replies, an emotion; nothing to align."""
    model, given = tiny("case").train(), silent(batch())
    given = replace(given, known=given.known._replace(concepts=torch.zeros_like(given.known.concepts)))
    terms = model.loss(given)
    assert float(terms["coarse"].detach()) == float(terms["fine"].detach()) == 0
    sum(terms.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    rows = next(iter(generate(model.eval(), [given], Decode(steps=6))))[2]
    assert len(rows) == 6
    context = model.encode(given.unlabelled())
    assert_close(label_loss(context.notes["emotion"], given.emotion), model.loss(given)["emotion"])
    assert not context.notes["c_cog"].any() and context.notes["c_emo"].any()


def test_bf16_and_fp32_agree():
    model, given = tiny("case").eval(), batch(8)
    exact = model.loss(given)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(given)
    assert {name: term.dtype for name, term in rough.items()} == dict.fromkeys(exact, torch.float32)
    for name, term in exact.items():
        assert_close(rough[name], term, rtol=0.05, atol=0.05, msg=name)
