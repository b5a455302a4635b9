"""Samples to batches: a hand-made dialogue followed to every tensor, and orders that cover each example once."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import chain

import numpy as np
import pytest
import torch
from made_up import annotate, collate, examples, tiny
from torch.testing import assert_close

from rd import responder
from rd.baselines import empdg
from rd.data.batch import STRIDE, UNLABELLED, Batches, Collate, Turns, encode, in_order, shuffled
from rd.data.corpus import Dialogue, Sample, Turn
from rd.data.known import Known
from rd.data.text import Vocabulary, tokenize
from rd.labels import EMOTIONS, INTENTS

VOCAB = Vocabulary.build([["i", "lost", "my", "dog", "sad", "found", "him"]])
ID = {word: i for i, word in enumerate(VOCAB.words)}
V, UNK, EOS = len(VOCAB), Vocabulary.UNK, Vocabulary.EOS
TURNS = ("I lost Rex", "sad", "Rex found my dog Mia", "Mia found him")
TAGS = {TURNS[0]: [0, 1, 1], TURNS[1]: [1], TURNS[2]: [1, 0, 0, 1, 1]}


def lookup(sample: str, text: str) -> tuple[np.ndarray, np.ndarray]:
    """h~ of a word is (turn, place), so that each vector names its word."""
    places = [[TURNS.index(text), i] for i in range(len(tokenize(text)))]
    return np.array(TAGS[text]), np.array(places, dtype=np.float16)


def hand_made(max_context: int = 200, **fields) -> list:
    turns = tuple(Turn(text, intent="consoling" if i == 1 else None) for i, text in enumerate(TURNS))
    dialogue = Dialogue("d", fields.pop("emotion", "sad"), "", turns)
    whole = [Sample("d:2", dialogue, 1), Sample("d:4", dialogue, 3)]
    heard = []
    made = encode(whole, VOCAB, max_context, lambda text: heard.append(text) or 0.25 * len(heard), **fields)
    assert heard == ["I lost Rex", "I lost Rex Rex found my dog Mia"]  # VADER reads the speaker's turns alone
    return made


def test_a_hand_made_dialogue_becomes_these_tensors():
    priors = {"d:2": np.eye(9)[0], "d:4": np.eye(9)[1]}
    batch = Collate(VOCAB, lookup)(hand_made(priors=priors))
    i, lost, my, dog, sad, found, him = (ID[word] for word in ("i", "lost", "my", "dog", "sad", "found", "him"))
    assert batch.ids == ["d:2", "d:4"] and batch.oov == [["rex"], ["rex", "mia"]]
    rows = {
        "source": ([i, lost, UNK], [i, lost, UNK, sad, UNK, found, my, dog, UNK]),
        "source_ext": ([i, lost, V], [i, lost, V, sad, V, found, my, dog, V + 1]),
        "speaker": ([1, 1, 1], [1, 1, 1, 0, 1, 1, 1, 1, 1]),
        "reason": ([0, 1, 1], [0, 1, 1, 0, 1, 0, 0, 1, 1]),  # the listener's "sad" was tagged and is not passed on
        "mask": ([1, 1, 1], [1] * 9),
        "target": ([sad, EOS], [UNK, found, him, EOS]),
        "target_ext": ([sad, EOS], [V + 1, found, him, EOS]),
    }
    for name, wanted in rows.items():
        width = max(map(len, wanted))
        padded = torch.tensor([row + [0] * (width - len(row)) for row in wanted])
        assert_close(getattr(batch, name).long(), padded, msg=f"{name}: {getattr(batch, name)}")
    vectors = [[0, 0], [0, 1], [0, 2], [1, 0], *([2, n] for n in range(5))]
    assert_close(batch.features, torch.tensor([vectors[:3] + [[0, 0]] * 6, vectors]).float())
    assert_close(batch.intent_prior, torch.eye(9)[:2])
    assert_close(batch.sentiment, torch.tensor([0.25, 0.5]))
    assert batch.emotion.tolist() == [EMOTIONS.index("sad")] * 2
    assert batch.intent.tolist() == [INTENTS.index("consoling"), UNLABELLED]
    assert (batch.source.dtype, batch.reason.dtype, batch.speaker.dtype) == (torch.int64, torch.int64, torch.bool)


@pytest.mark.parametrize("length", [1, 4, 6, 8])
def test_a_long_context_is_cut_at_the_front_alike_everywhere(length):
    """The last words, with their own tags and vectors; names that were cut away cannot be copied any more."""
    whole = Collate(VOCAB, lookup)(hand_made()[1:])
    cut = Collate(VOCAB, lookup)(hand_made(length)[1:])
    for name in ("source", "speaker", "reason", "features"):
        assert_close(getattr(cut, name), getattr(whole, name)[:, -length:], msg=name)
    words = [word for text in TURNS[:3] for word in tokenize(text)][-length:]
    assert cut.oov == [[word for word in dict.fromkeys(words) if word not in VOCAB]]
    back = [VOCAB.words[i] if i < V else cut.oov[0][i - V] for i in cut.source_ext[0].tolist()]
    assert back == words


def test_labels_given_by_hand_win_and_missing_ones_are_marked():
    marked = hand_made(intents={"d:4": "wishing"}, emotion=None)
    assert [example.intent for example in marked] == [INTENTS.index("consoling"), INTENTS.index("wishing")]
    assert [example.emotion for example in marked] == [UNLABELLED] * 2


def test_without_annotations_there_are_no_tags_and_no_vectors():
    batch = Collate(VOCAB)(hand_made())
    assert batch.features is None and batch.intent_prior is None and not batch.reason.any()


def test_unlabelled_keeps_the_inputs_and_drops_every_label():
    batch = collate()(examples(3))
    shown = batch.unlabelled()
    labels = {"target", "target_ext", "emotion", "intent", "after"}
    assert {name for name, value in vars(shown).items() if value is None} == labels
    assert all(value is getattr(batch, name) for name, value in vars(shown).items() if name not in labels)
    assert all(vars(batch)[name] is not None for name in labels)


def test_moving_a_batch_moves_all_of_it():
    batch = collate()(examples(3))
    moved = batch.to("meta")
    assert {index.device.type for index in moved.said} == {"meta"}
    assert list(zip(*(index.tolist() for index in batch.said), strict=True)) == [
        (row, place) for row, words in enumerate(batch.target.tolist()) for place, word in enumerate(words) if word
    ]
    for name in (field.name for field in fields(batch)):
        value, new = getattr(batch, name), getattr(moved, name)
        if isinstance(value, Turns):
            assert type(new.pieces) is type(value.pieces)
            assert {t.device.type for t in (*new.pieces, new.row, new.place)} == {"meta"}
        elif isinstance(value, Known):
            assert {t.device.type for t in new} == {"meta"}
        else:
            assert new.device.type == "meta" if isinstance(value, torch.Tensor) else new == value, name
    assert batch.unlabelled().to("cpu").target is None


def ids(batches: Batches) -> list[list[str]]:
    """Sample ids, batch by batch."""
    return [batch.ids for batch in batches]


@pytest.mark.parametrize("count", [1, 8, 23, 450])  # 450: three chunks of 50 batches
def test_shuffled_covers_every_example_once_and_repeats_with_seed_and_epoch(count):
    rows, made = examples(count), collate(annotate)
    found = ids(shuffled(rows, made, 4, seed=1, epoch=0))
    assert Counter(chain(*found)) == Counter(row.id for row in rows)
    assert len(found) == -(-count // 4)
    assert all(1 <= len(batch) <= 4 for batch in found)
    assert found == ids(shuffled(rows, made, 4, seed=1, epoch=0))
    if count > 8:
        assert found != ids(shuffled(rows, made, 4, seed=1, epoch=1))
        assert found != ids(shuffled(rows, made, 4, seed=2, epoch=0))


def test_shuffled_puts_like_lengths_together_in_an_order_of_chance():
    rows = examples(160)
    lengths = {row.id: len(row.words) for row in rows}
    batches = [[lengths[key] for key in batch] for batch in ids(shuffled(rows, collate(), 8, seed=0, epoch=0))]
    assert sum(max(batch) - min(batch) for batch in batches) <= max(lengths.values()) - min(lengths.values())
    assert batches != sorted(batches)


def test_in_order_covers_every_example_once_longest_first():
    rows = examples(23)
    batches = in_order(rows, collate(), 4)
    assert len(batches) == 6 and Counter(chain(*ids(batches))) == Counter(row.id for row in rows)
    lengths = [length for batch in batches for length in batch.mask.sum(1).tolist()]
    assert lengths == sorted(lengths, reverse=True)


def test_batches_to_train_on_have_few_lengths_and_the_same_content():
    rows = examples(6)
    order = shuffled(rows, collate(), 2, seed=0, epoch=0)
    for place, index in enumerate(order.order):
        found, plain = order[place], collate()([rows[i] for i in index])
        for name in ("source", "source_ext", "speaker", "reason", "features", "target", "target_ext"):
            wide, narrow = getattr(found, name), getattr(plain, name)
            assert wide.size(1) % STRIDE == 0 and 0 <= wide.size(1) - narrow.size(1) < STRIDE, name
            assert_close(wide[:, : narrow.size(1)], narrow, msg=name)
            assert not wide[:, narrow.size(1) :].any(), name
        assert found.known.intensity.size(1) == found.turns.row.size(1) == found.source.size(1)


@pytest.mark.parametrize("words", [1, 63, 64, 65])
def test_words_made_up_to_few_numbers_change_no_loss(words, monkeypatch):
    """Where training makes the number of words up to a multiple, the loss and every gradient are those of the words."""
    found = []
    for stride in (1, 64):
        monkeypatch.setattr(responder, "MULTIPLE", stride)
        model, given = tiny("transformer", dropout=0.0).train(), collate()(examples(1))
        target = torch.arange(words)[None] % (V - 5) + 5
        terms = model.loss(replace(given, target=target, target_ext=target))
        terms["response"].backward()
        found.append([terms["response"], *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("case", ["moel", "empdg"])
def test_words_made_up_change_no_loss_of_the_models_that_pick_words_themselves(case, monkeypatch):
    """As above, every loss of theirs; EmpDG in its game."""
    found = []
    for multiple in (1, 5, 64):
        monkeypatch.setattr(responder, "MULTIPLE", multiple)
        model, given = tiny(case, dropout=0.0).train(), collate()(examples(6))
        model.steps.fill_(empdg.PRETRAIN)
        terms = model.loss(given, torch.Generator().manual_seed(1))
        sum(terms.values()).backward()
        found.append([*terms.values(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, *others in zip(*found, strict=True):
        for other in others:
            assert_close(one, other, rtol=1e-4, atol=1e-6)
