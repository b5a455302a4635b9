"""A conversation with a trained run: what is shown is what the model computed, and looking keeps nothing."""

from __future__ import annotations

import pytest
import torch

from rd.answering import answer, split_inputs
from rd.chat import NAMED, Chat, Turned, show
from rd.data.batch import in_order
from rd.data.corpus import samples
from rd.widgets.dialogue import talk_page


@pytest.fixture
def desk(small_run):
    """A desk with a small trained ReflectDiffu."""
    return small_run[1]


def test_a_look_is_what_the_test_split_would_get(desk) -> None:
    """A first turn of the corpus, typed into the chat, against the route that measures the test split."""
    run, chat = desk.trained("reflectdiffu"), Chat(desk.run_folder("reflectdiffu"))
    inputs = split_inputs(run, desk.corpus, "test", desk.annotations)
    chosen = [s for s in samples(desk.corpus.splits["test"]) if len(s.context) == 1][:2]
    inputs.examples["test"] = [e for e in inputs.examples["test"] if e.id in {s.id for s in chosen}]
    (batch,) = in_order(inputs.examples["test"], inputs.collate, 64)
    with torch.inference_mode():
        notes = run.model.encode(batch.unlabelled()).notes
    chances = {"emotion": notes["emotion"].exp(), "first": notes["first"], "final": notes["final"].exp()}
    for record, sample in zip(answer(run, inputs, "test", quiet=True), chosen, strict=True):
        text = sample.context[0].text
        turned, row = chat.look(text), batch.ids.index(sample.id)
        assert (turned.emotion, turned.first, turned.final) == tuple(record[name] for name in NAMED)
        assert turned.reply == record["reply"] and turned.text == text
        for name, labels in NAMED.items():
            shares = turned.shares[name]
            assert list(shares.values()) == sorted(shares.values(), reverse=True)
            assert [shares[label] for label in labels] == pytest.approx(chances[name][row].tolist(), abs=2e-3)
        assert all(0 <= start < end <= len(text) for start, end in turned.spans)
    assert chat.turns == []


def test_what_was_said_is_the_context_of_what_comes(desk) -> None:
    chat = Chat(desk.run_folder("reflectdiffu"))
    alone = chat.look("They told me by mail.")
    first = chat.say("I lost my job today.")
    assert chat.turns == ["I lost my job today.", first.reply or "..."]
    later = chat.look("They told me by mail.")
    assert later.shares != alone.shares and len(chat.turns) == 2
    assert chat.say("They told me by mail.") == later and len(chat.turns) == 4


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "🙂", "...", "word " * 300]
)
def test_any_text_is_answered_and_shown_as_text(desk, text: str) -> None:
    page = talk_page(Chat(desk.run_folder("reflectdiffu")), text)
    assert "<script" not in page and "<img" not in page and "emotion" in page


def test_the_terminal_shows_every_field() -> None:
    shares = {"emotion": {"sad": 0.75, "lonely": 0.2, "angry": 0.04, "joyful": 0.01}}
    shares |= {"first": {"questioning": 0.5, "wishing": 0.5}, "final": {"consoling": 0.9, "wishing": 0.1}}
    lines = show(Turned("I lost my key", [(2, 6), (7, 13)], shares, "oh no")).splitlines()
    assert lines[0].split(maxsplit=1) == ["reasons", "lost | my key"]
    assert [line.split()[-1] for line in lines[1:4]] == ["75%", "20%", "4%"]
    assert [line.count("█") for line in lines[1:4]] == [15, 4, 1] and lines[1].startswith("emotion ")
    assert lines[4:6] == ["first intent questioning (50%)", "final intent consoling (90%)"]
    assert lines[6].split(maxsplit=1) == ["reply", "oh no"]
    nothing = show(Turned("hello", None, {}, "hi"))
    assert nothing.count("not named") == 3 and "not marked" in nothing
