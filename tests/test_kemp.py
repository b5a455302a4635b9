"""KEMP's parts written out node by node and word by word, and what its concepts are for."""

from dataclasses import replace
from math import exp

import pytest
import torch
from made_up import VOCAB, batch, collate, examples, tiny
from torch.nn import functional as F
from torch.testing import assert_close

from rd.baselines.concept_graph import adjacency
from rd.baselines.kemp import attention_loss, emotional_signal
from rd.blocks.transformer import positions
from rd.data.known import Known
from rd.data.text import Vocabulary
from rd.generate import Decode, generate


@pytest.fixture
def model():
    return tiny("kemp", seed=1).eval()


def without_concepts(known: Known) -> Known:
    """What a batch knows where no word calls up a concept."""
    return known._replace(
        concepts=torch.zeros_like(known.concepts), heads=0 * known.heads, weights=torch.zeros_like(known.weights)
    )


def test_a_node_is_its_word_its_place_and_its_state(model):
    given = batch(4)
    length, width = given.source.size(1), model.config.width
    found, there, intensity = model.embed_nodes(given)
    place = positions(length + 1, width)
    seen = set()
    for b in range(4):
        assert_close(found[b, 0], model.words.weight[Vocabulary.CTX] + place[0] + model.states.weight[0])
        for i, word in enumerate(given.source[b].tolist()):
            assert bool(there[b, 1 + i]) == (word != Vocabulary.PAD)
            if word:
                state = 1 if given.speaker[b, i] else 2
                seen.add(state)
                assert_close(found[b, 1 + i], model.words.weight[word] + place[1 + i] + model.states.weight[state])
        for c, concept in enumerate(given.known.concepts[b].tolist()):
            assert bool(there[b, 1 + length + c]) == bool(concept)
            if concept:
                head = given.known.heads[b, c]
                seen.add(3)
                expected = model.words.weight[concept] + place[1 + head] + model.states.weight[3]
                assert_close(found[b, 1 + length + c], expected)
                assert_close(intensity[b, 1 + length + c], given.known.weights[b, c])
    assert seen == {1, 2, 3} and bool(there[:, 0].all())


@torch.no_grad()
def test_graph_attention_against_a_loop_over_neighbours(model):
    """The state that the transformer encoder gets: head by head, each node from its neighbours alone."""
    given, got = batch(3), []
    hook = model.encoder.register_forward_pre_hook(lambda _, args: got.append(args))
    model.encode(given.unlabelled())
    hook.remove()
    [(found, mask)] = got
    x, there, _ = model.embed_nodes(given)
    assert torch.equal(mask, there)
    edges, graph = adjacency(given.mask, given.known), model.graph
    weight, bias = graph.key_value.weight.chunk(2), graph.key_value.bias.chunk(2)
    size = x.size(-1) // graph.heads
    for b, i in there.nonzero().tolist():
        near = [j for j in range(x.size(1)) if edges[b, i, j]]
        query = graph.query(x[b, i]).split(size)
        keys = [F.linear(x[b, j], weight[0], bias[0]).split(size) for j in near]
        values = [F.linear(x[b, j], weight[1], bias[1]).split(size) for j in near]
        parts = []
        for head in range(graph.heads):
            scores = [exp(float(query[head] @ key[head]) / size**0.5) for key in keys]
            parts.append(sum(s / sum(scores) * value[head] for s, value in zip(scores, values, strict=True)))
        assert_close(found[b, i], model.norm(x[b, i] + graph.output(torch.cat(parts))), rtol=1e-4, atol=1e-5)


def test_the_emotional_signal_by_hand():
    intensity = torch.tensor([[0.0, 0.9, 0.4, 0.0], [0.0, 0.2, 0.0, 0.7]])
    there = torch.tensor([[True, True, True, False], [True, True, False, True]])
    h = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    share, felt = emotional_signal(h, intensity, there)
    for b, kept in enumerate([(0, 1, 2), (0, 1, 3)]):
        weight = {i: exp(float(intensity[b, i])) for i in kept}
        total = sum(weight.values())
        assert_close(share[b], torch.tensor([weight.get(i, 0.0) / total for i in range(4)]))
        assert_close(felt[b], sum(weight[i] / total * h[b, i] for i in kept))


def test_the_emotion_and_the_plan_are_read_off_the_signal(model):
    given = batch(4)
    context = model.encode(given.unlabelled())
    felt = (context.notes["share"][..., None] * context.memory).sum(1)  # both in the memory's order
    scores = felt @ model.emotion.weight.T + model.emotion.bias
    assert_close(context.notes["emotion"], scores.log_softmax(-1))
    assert_close(context.plan, scores @ model.signal.weight.T + model.signal.bias + felt @ model.feature.weight.T)
    length = given.source.size(1)
    expected = torch.cat([given.known.concepts != 0, torch.ones(4, 1, dtype=torch.bool), given.mask], 1)
    assert torch.equal(context.mask, expected)
    ranks = torch.where(given.mask, given.known.intensity, -1.0).argmax(-1)
    shares = torch.where(given.mask, context.notes["share"][:, -length:], -1.0)
    assert torch.equal(shares.argmax(-1), ranks)


def test_the_attention_loss_by_hand():
    chance = torch.Generator().manual_seed(0)
    there = torch.tensor([[True, True, True], [True, True, False]])
    said = torch.tensor([[True, True], [True, False]])
    looked = torch.rand(2, 2, 3, generator=chance) * there[:, None]
    looked = looked / looked.sum(-1, keepdim=True)
    share = torch.tensor([[0.5, 0.2, 0.3], [0.9, 0.1, 0.0]])
    first = [((looked[0, 0, i] + looked[0, 1, i]) / 2 - share[0, i]) ** 2 for i in range(3)]
    second = [(looked[1, 0, i] - share[1, i]) ** 2 for i in range(2)]
    assert_close(attention_loss(looked, said, share, there), (sum(first) / 3 + sum(second) / 2) / 2)
    assert_close(attention_loss(share[:, None].expand(-1, 2, -1), said, share, there), torch.tensor(0.0))


def test_the_attention_loss_sees_the_attention_of_the_gold_reply(model):
    """The decoder again, by hand; and the loss draws its attention to the shares."""
    given = batch(4)
    with torch.no_grad():
        context = model.encode(given.unlabelled())
    before = torch.cat([torch.full_like(given.target[:, :1], Vocabulary.BOS), given.target[:, :-1]], 1)
    embedded = model.embed_response(before, plan=context.plan)
    looked = model.decoder(embedded, model.decoder.memory_keys(context.memory), context.mask)[2]
    said = given.target != Vocabulary.PAD
    expected = attention_loss(looked, said, context.notes["share"], context.mask).detach()
    assert_close(model.loss(given)["attention"], 0.1 * expected)
    optimizer = torch.optim.Adam(model.decoder.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        model.loss(given)["attention"].backward()
        optimizer.step()
    assert float(model.loss(given)["attention"].detach()) < 0.05 * float(expected)


def test_concepts_change_the_answer(model):
    given = batch(6)
    [(_, _, with_them)] = generate(model, [given], Decode(steps=8))
    [(_, _, without)] = generate(model, [replace(given, known=without_concepts(given.known))], Decode(steps=8))
    called = given.known.concepts.bool().any(-1).tolist()
    assert any(a != b for a, b, any_ in zip(with_them, without, called, strict=True) if any_)
    assert all(a == b for a, b, any_ in zip(with_them, without, called, strict=True) if not any_)
    other = given.known._replace(concepts=torch.where(given.known.concepts != 0, VOCAB.index("sad"), 0))
    assert not torch.equal(model.nll(replace(given, known=other))[0], model.nll(given)[0])


def test_a_context_without_concepts_or_without_words_is_answered(model):
    row, mate = examples(2)
    none = Known(
        row.known.intensity,
        *(getattr(row.known, name)[:0] for name in ("concepts", "heads", "weights")),
        row.known.commonsense,
    )
    silent = none._replace(intensity=none.intensity[:0])
    bare = replace(row, known=none)
    empty = replace(row, words=(), source=row.source[:0], speaker=row.speaker[:0], known=silent)
    for odd in (bare, empty):
        lookup = None if odd is empty else collate().annotate
        alone, beside = collate(lookup)([odd]), collate(lookup)([odd, mate])
        nll = model.nll(alone)[0]
        assert bool(nll.isfinite().all())
        assert_close(model.nll(beside)[0][:1], nll, rtol=1e-5, atol=1e-5)
        assert all(bool(term.isfinite()) for term in model.loss(alone).values())
