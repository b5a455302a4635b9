"""The contagion encoder against sums written out (eq. 1-3)."""

from __future__ import annotations

import math

import pytest
import torch
from made_up import batch, tiny
from torch.testing import assert_close

from rd.data.text import Vocabulary
from rd.models.contagion import mean_words


@pytest.fixture(scope="module")
def run():
    """A tiny ReflectDiffu, a batch, and what went into and out of its encoder."""
    model, given, seen = tiny("reflectdiffu").eval(), batch(), {}
    handle = model.contagion.encoder.register_forward_hook(
        lambda module, inputs, output: seen.update(into=inputs[0], mask=inputs[1], h=output)
    )
    with torch.no_grad():
        seen["q"] = model.encode(given.unlabelled()).notes["q"]
    handle.remove()
    return model, given, seen


def test_the_context_is_word_place_and_reason(run):
    model, given, seen = run
    width = model.config.width
    for b, words in enumerate(given.source.tolist()):
        assert_close(seen["into"][b, 0], model.words.weight[Vocabulary.CTX])  # CTX stands in front, without a place
        for place, word in enumerate(words):
            angles = [place / 10_000 ** (2 * (d // 2) / width) for d in range(width)]
            where = torch.tensor([math.cos(a) if d % 2 else math.sin(a) for d, a in enumerate(angles)])
            mark = model.contagion.reasons.weight[given.reason[b, place]]
            assert_close(seen["into"][b, place + 1], model.words.weight[word] + where + mark, rtol=1e-4, atol=1e-5)


def test_the_encoder_reads_ctx_and_every_word_and_no_padding(run):
    _, given, seen = run
    assert (~given.mask).any() and seen["h"].shape == seen["into"].shape
    assert seen["mask"].tolist() == [[True, *row] for row in given.mask.tolist()]


def test_q_is_the_mean_of_attention_from_words_to_vectors(run):
    model, given, seen = run
    part, width = model.contagion, model.config.width
    heads = model.config.heads
    size = width // heads
    for b, words in enumerate(given.mask.sum(1).tolist()):
        h, vectors = seen["h"][b, 1 : words + 1], part.norm(given.features[b, :words])
        key, value = part.reflect.key_value(vectors).split(width, dim=-1)
        query, read = part.reflect.query(h), []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = query[:, own] @ key[:, own].T / math.sqrt(size)
            read.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ value[:, own])
        assert_close(seen["q"][b], part.reflect.output(torch.cat(read, -1)).mean(0), rtol=1e-4, atol=1e-5)


def test_the_mean_leaves_padding_out():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_words(x, mask).tolist() == [[2.0], [0.0]]  # a context without a word: zero, not NaN


def test_without_vectors_there_is_a_clear_error(run):
    model, given, _ = run
    with pytest.raises(ValueError, match="h~"):
        model.contagion(model.embed(given.source), torch.zeros(6, 1, 12), given.reason, given.mask, None)
