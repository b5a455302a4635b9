"""ERA (eq. 13-16) with a random BERT."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_bert import random_bert
from torch.testing import assert_close

from rd.annotation.quality import reason_quality, runs, tag_scores
from rd.annotation.rows import Item, Lazy, turn_batch
from rd.models.annotator import ERA, _batches
from rd.models.bert import encode_words

TURNS = ["i am so sad my dog died today", "oh no sorry", "you won the unbelievable race that is"]
LISTS = [turn.split() for turn in TURNS]
GOLD = [(0, 0, 0, 1, 1, 1, 1, 0), (0, 0, 1), (0, 1, 1, 1, 0, 0, 0)]


def era(**switches) -> ERA:
    torch.manual_seed(1)
    made = ERA(*random_bert(), **switches).eval()
    for layer in (made.query, made.key):
        if layer is not None:
            torch.nn.init.normal_(layer.weight, std=0.5)
    return made


def items(dialogue: str = "d") -> list[Item]:
    return [
        Item(f"{dialogue}:{2 * i + 1}", tuple(w), t, i, 2 * i) for i, (w, t) in enumerate(zip(LISTS, GOLD, strict=True))
    ]


def test_first_subword_gather_against_a_loop() -> None:
    model = era(attention=False)
    pieces = encode_words(model.tokenizer, LISTS, 64)
    found = model.encode(pieces)
    for row, words in enumerate(LISTS):
        ids, first = [model.tokenizer.cls_token_id], []
        for word in words:
            first.append(len(ids))
            ids += model.tokenizer(word, add_special_tokens=False)["input_ids"]
        ids.append(model.tokenizer.sep_token_id)
        states = model.bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert any(b - a > 1 for a, b in zip(first, first[1:])) or row < 2  # "unbelievable" has many
        assert_close(found[row, : len(words)], states[first], atol=1e-5, rtol=1e-4)
        assert not found[row, len(words) :].any()


@torch.no_grad()
def test_attention_against_a_loop() -> None:
    """Eq. 14-15 word by word."""
    model = era()
    words = LISTS[0]
    h = era(attention=False).encode(encode_words(model.tokenizer, [words], 64))[0]
    found = model.encode(encode_words(model.tokenizer, [words], 64))[0]
    for i in range(len(words)):
        scores = [float(model.query(h[i]) @ model.key(h[m])) / math.sqrt(model.width) for m in range(len(words))]
        weights = [math.exp(s) for s in scores]
        mixed = sum(w / sum(weights) * h[m] for m, w in enumerate(weights))
        assert_close(found[i], mixed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("switches", [{}, {"crf": False}, {"attention": False}, {"residual": True}])
def test_padding_and_batch_mates_change_nothing(switches: dict) -> None:
    model = era(**switches)
    together = model.annotate(LISTS, batch=3)
    for words, (tags, h) in zip(LISTS, together, strict=True):
        ((alone_tags, alone_h),) = model.annotate([words])
        assert tags.tolist() == alone_tags.tolist()
        assert (tags.dtype, h.dtype, h.shape) == (np.uint8, np.float16, (len(words), 16))
        np.testing.assert_allclose(h, alone_h, atol=0.03)  # bf16


def test_long_turns_in_small_batches_are_the_same_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    model, shapes = era(), []
    model.threshold.fill_(float(np.median(np.concatenate(model.predict(LISTS)[0]))))
    lists = [LISTS[i % 3] * (1 + i % 4) for i in range(12)]

    def pieces(rows, real=model.pieces):
        shapes.append((len(rows), max(map(len, rows))))
        return real(rows)

    monkeypatch.setattr(model, "pieces", pieces)
    whole, chances = model.annotate(lists), model.predict(lists)
    assert shapes == [(12, 32)] * 2
    monkeypatch.setattr("rd.models.annotator.PADDED", 40)
    shapes.clear()
    for (tags, h), (other_tags, other_h) in zip(whole, model.annotate(lists), strict=True):
        assert tags.tolist() == other_tags.tolist() and tags.shape == other_tags.shape
        np.testing.assert_allclose(h, other_h, atol=0.03)  # bf16
    assert len(shapes) > 3 and all(rows == 1 or rows * longest <= 40 for rows, longest in shapes)
    np.testing.assert_allclose(np.concatenate(model.predict(lists)[0]), np.concatenate(chances[0]), atol=0.03)
    assert model.annotate([]) == []


def test_usual_turns_stand_in_batches_of_128_and_endless_ones_in_few() -> None:
    usual = [["so"] * (1 + i % 100) for i in range(300)]
    sizes = [[len(usual[i]) for i in batch] for batch in _batches(usual, 128)]
    assert list(map(len, sizes)) == [128, 128, 44] and sum(sizes, []) == sorted(map(len, usual))
    assert [len(batch) for batch in _batches([["a"] * 2000] * 20, 128)] == [8, 8, 4]
    assert list(_batches([["a"] * 10**5] * 2 + [["a"]], 128)) == [[2], [0], [1]] and list(_batches([], 128)) == []


@pytest.mark.parametrize("size", [1, 2, 16])
def test_turns_in_groups_of_like_length_are_the_same_turns(size: int) -> None:
    model = era().eval()
    lists = [
        ["so", "sad"],
        ["my", "dog", "died", "the", "race", "retched"],
        ["oh"],
        [],
        ["won", "the", "race", "today"],
    ]
    pieces = encode_words(model.tokenizer, lists, 64)
    torch.testing.assert_close(model.encode_by_length(pieces, size), model.encode(pieces), rtol=1e-4, atol=1e-5)


def test_context_sees_earlier_turns_and_never_later_ones() -> None:
    model = era(scope="context")
    with torch.no_grad():
        whole = model.encode(*_parts(model, items()))
        shorter = model.encode(*_parts(model, items()[:2]))
        other_end = model.encode(*_parts(model, [*items()[:2], replace(items()[2], words=("my", "cat"), tags=(0, 0))]))
        other_start = model.encode(*_parts(model, [replace(items()[0], words=("my", "cat"), tags=None), *items()[1:]]))
    for changed in (shorter, other_end):
        assert_close(changed[:2, :8], whole[:2, :8], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(other_start[1, :3], whole[1, :3], atol=1e-4)


def test_scope_turn_knows_no_other_turn() -> None:
    model = era()
    with torch.no_grad():
        whole = model.encode(*_parts(model, items()))
        for i, item in enumerate(items()):
            alone = model.encode(*_parts(model, [item]))
            assert_close(alone[0], whole[i, : len(item.words)], atol=1e-5, rtol=1e-4)


def test_words_beyond_the_limit_get_zeros_and_stay_words() -> None:
    model = era(max_subwords=6)
    ((tags, h),) = model.annotate([LISTS[0]])
    assert len(tags) == len(h) == len(LISTS[0])
    assert h[:4].any(axis=1).all()
    assert not h[4:].any()


@pytest.mark.parametrize("switches", [{}, {"crf": False}])
def test_one_batch_is_learned_by_heart(switches: dict) -> None:
    model = ERA(*random_bert(), **switches)
    batch = turn_batch(items(), model.tokenizer, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(80):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in (model.query.weight, model.emission.weight, model.emotion.weight))
        optimizer.step()
    chances, emotions = model.predict(LISTS)
    assert [tuple((p > 0.5).astype(int)) for p in chances] == GOLD
    assert [tuple(tags) for tags, _ in model.annotate(LISTS)] == GOLD
    assert emotions.argmax(-1).tolist() == [0, 1, 2]


def test_turns_without_reasons_teach_the_emotion_only() -> None:
    model = era()
    bare = turn_batch([replace(item, tags=None) for item in items()], model.tokenizer, 64)
    terms = model.loss(bare)
    assert terms["reason"].item() == 0.0
    assert terms["emotion"].item() > 0
    assert set(era(emotion_weight=0.0).loss(bare)) == {"reason"}
    unknown = turn_batch([replace(item, emotion=-100) for item in items()], model.tokenizer, 64)
    assert model.loss(unknown)["emotion"].item() == 0.0


def test_threshold_against_trying_every_cut() -> None:
    model, chosen = era(), items()
    reason_quality(model, chosen, choose=True)
    best = float(model.threshold)
    scores = {}
    for cut in (0.2 + 0.025 * k for k in range(17)):
        model.threshold.fill_(cut)
        scores[cut] = tag_scores([tags for tags, _ in model.annotate(LISTS)], GOLD)["f1"]
    assert max(scores.values()) == pytest.approx(scores[min(scores, key=lambda cut: abs(cut - best))], abs=1e-9)
    model.threshold.fill_(1.0)
    assert not any(tags.any() for tags, _ in model.annotate(LISTS))


def test_batches_hold_every_row_once_and_repeat_by_seed() -> None:
    rows = [item for k in range(7) for item in items(f"d{k}")]
    make = [Lazy(rows, lambda item: len(item.words), 4, 0, epoch, list) for epoch in (0, 0, 1)]
    first, again, other = ([[item.id for item in batch] for batch in lazy] for lazy in make)
    assert first == again != other
    assert sorted(i for batch in first for i in batch) == sorted(item.id for item in rows)


def test_scores_against_sets() -> None:
    found, gold = [[1, 1, 0, 0, 1], [0, 0]], [[0, 1, 1, 0, 0], [0, 1]]
    words = [{(t, i) for t, tags in enumerate(side) for i, tag in enumerate(tags) if tag} for side in (found, gold)]
    hits = len(words[0] & words[1])
    scores = tag_scores(found, gold)
    assert scores["precision"] == pytest.approx(hits / len(words[0]))
    assert scores["recall"] == pytest.approx(hits / len(words[1]))
    assert scores["f1"] == pytest.approx(2 * hits / (len(words[0]) + len(words[1])))
    assert scores["phrase_f1"] == pytest.approx(0.5)  # one of two found, one of two gold phrases
    assert runs([1, 1, 0, 1]) == [(0, 2), (3, 4)]


def _parts(model: ERA, chosen: list[Item]):
    batch = turn_batch(chosen, model.tokenizer, 64)
    return batch.pieces, batch.dialogue, batch.turn
