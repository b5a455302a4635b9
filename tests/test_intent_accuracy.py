"""Intents of replies: what the tagger is shown, and what it is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from rd.data.corpus import Corpus, Dialogue, Turn, samples
from rd.intent_accuracy import next_intent, reply_intent
from rd.labels import INTENTS


def talk(number: int, emotion: str, *intents: str | None) -> Dialogue:
    turns = [turn for i, intent in enumerate(intents) for turn in (Turn(f"told {i}"), Turn(f"said {i}", intent=intent))]
    return Dialogue(f"d{number}", emotion, "", tuple(turns))


TRAIN = (talk(0, "sad", "consoling", "consoling", "wishing"), talk(1, "proud", "wishing", "wishing", "agreeing"))
TEST = (talk(2, "sad", "consoling", "wishing"), talk(3, "proud", "agreeing", None))
CORPUS = Corpus("jsonl", {"train": TRAIN, "test": TEST})


def sure(*names: str) -> np.ndarray:
    return np.array([[0.9 if name == intent else 0.1 for intent in INTENTS] for name in names])


class Words:
    """A tagger that believes the first word of the target turn."""

    def __init__(self) -> None:
        self.shown = []

    def intents(self, chosen):
        self.shown += [[turn.text for turn in (*sample.context, sample.target)] for sample in chosen]
        return {sample.id: sample.target.text.split()[0] for sample in chosen}


def test_replies_stand_where_the_gold_ones_stood_and_only_there():
    tagger, replies = Words(), ["consoling you", "consoling me", "agreeing", "neutral ."]
    rows = {"final": sure("consoling", "wishing", "agreeing", "neutral")}
    found, notes = reply_intent(rows, replies, CORPUS, "test", tagger)
    assert tagger.shown == [
        ["told 0", "consoling you"],
        ["told 0", "said 0", "told 1", "consoling me"],
        ["told 0", "agreeing"],
        ["told 0", "said 0", "told 1", "neutral ."],
    ]
    assert found["acc_reply_intent"] == pytest.approx(200 / 3)  # two of three with a gold intent
    assert found["acc_reply_final"] == pytest.approx(75.0)  # three of four follow the plan
    assert notes == {}


def test_what_cannot_be_measured_is_none_with_a_reason():
    replies = ["consoling"] * 4
    found, notes = reply_intent({}, replies, CORPUS, "test", Words())
    assert found["acc_reply_final"] is None and "names no intent" in notes["acc_reply_final"]
    assert found["acc_reply_intent"] == pytest.approx(100 / 3)
    found, notes = reply_intent({}, replies, CORPUS, "test", None)
    assert set(found.values()) == {None} and set(notes) == set(found)


def test_the_next_intent_beside_what_counting_gives():
    rows = {"final": sure("consoling", "consoling", "agreeing", "agreeing"), "first": sure(*["wishing"] * 4)}
    found, notes = next_intent(rows, CORPUS, "test")
    assert found["acc_intent"] == pytest.approx(200 / 3) and found["acc_intent_first"] == pytest.approx(100 / 3)
    assert found["acc_intent_majority"] == pytest.approx(100 / 3)  # wishing: 3 of 6 on train
    assert "3 samples" in notes["acc_intent"]


def test_one_named_intent_and_chosen_samples_suffice():
    chosen = samples(TEST)[1:3]
    found, notes = next_intent({"final": sure("wishing", "neutral")}, CORPUS, "test", chosen)
    assert found["acc_intent"] == pytest.approx(50) and notes["acc_intent"].startswith("2 samples")
    assert found["acc_intent_first"] is None and "once" in notes["acc_intent_first"]
    tagger = Words()
    found, _ = reply_intent(
        {"final": sure("wishing", "neutral")}, ["wishing you", "agreeing"], CORPUS, "test", tagger, chosen
    )
    assert tagger.shown == [["told 0", "said 0", "told 1", "wishing you"], ["told 0", "agreeing"]]
    assert found == {"acc_reply_intent": 100, "acc_reply_final": 50}
