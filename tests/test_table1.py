"""Table 1 derived, on made-up dialogues by hand."""

import numpy as np
import pytest

from rd.annotation.table1 import compare_with_printed, intent_frequencies, reference_table, top_intents
from rd.data.corpus import Dialogue, Turn
from rd.labels import EMOTIONS, INTENTS


def dialogue(name, emotion, *intents):
    turns = []
    for intent in intents:
        turns += [Turn("well"), Turn("yes", intent=intent)]
    return Dialogue(name, emotion, "", tuple(turns))


MADE_UP = [
    dialogue("a", "angry", "consoling", "consoling", "questioning"),
    dialogue("b", "angry", "suggesting"),
    dialogue("c", "joyful", "wishing", None),
]


def test_frequencies_by_hand():
    found = intent_frequencies(MADE_UP)
    assert found.loc["angry", "consoling"] == pytest.approx(2 / 4)
    assert found.loc["angry"].sum() == pytest.approx(1)
    assert found.loc["joyful", "wishing"] == 1
    assert found.loc["sad"].isna().all()


def test_reference_has_three_intents_for_every_emotion():
    table = reference_table(MADE_UP)
    assert (table.sum(1) == 3).all()
    names = {INTENTS[i] for i in np.flatnonzero(table[EMOTIONS.index("angry")])}
    assert names == {"consoling", "questioning", "suggesting"}
    # joyful has one intent of its own; the overall commonest fill it up: consoling (2), then questioning (first of 1s)
    names = {INTENTS[i] for i in np.flatnonzero(table[EMOTIONS.index("joyful")])}
    assert names == {"wishing", "consoling", "questioning"}


def test_labels_given_by_sample_replace_gold():
    found = intent_frequencies(MADE_UP, {"a:2": "neutral"})
    assert found.loc["angry", "neutral"] == 1 and found.loc["joyful"].isna().all()


def test_beside_the_printed_table():
    frame = compare_with_printed(intent_frequencies(MADE_UP))
    assert frame.loc["annoyed", "printed"] == "not printed" and frame.loc["angry", "shared"] == 2
    assert set(frame.loc["faithful", "printed"].split(", ")) >= {"acknowledging", "sympathizing"}  # printed twice
    assert top_intents(intent_frequencies(MADE_UP))["angry"][0] == "consoling"
