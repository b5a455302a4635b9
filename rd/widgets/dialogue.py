"""Dialogues: a browser over a corpus with its gold labels, and a box in which one talks with a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets

from rd.chat import Chat, Turned
from rd.data.corpus import Dialogue
from rd.figures import highlight
from rd.widgets.board import Board, bars

EVERY = "(all)"
SHOWN = 5  # labels of an answer, the likeliest
HINT = '<p style="color:#777">Tell what moved you. The answer comes while you type; <i>say it</i> keeps it.</p>'
BOX = "display:inline-block;vertical-align:top;margin:.6em 3em 0 0"


def dialogue_page(dialogue: Dialogue, note: str = "") -> str:
    """A labelled dialogue: emotion, situation, turns with their reasons marked and their intents behind."""
    turns = dialogue.turns
    marked = highlight(turns, [turn.reasons for turn in turns], [turn.intent or "" for turn in turns]).data
    head = f"<b>{escape(dialogue.emotion or 'no emotion given')}</b> <span>{escape(f'{dialogue.id} {note}')}</span>"
    prompt = f'<div style="color:#777">situation: {escape(dialogue.prompt)}</div>' if dialogue.prompt else ""
    return f"<div>{head}</div>{prompt}{marked}"


def shelf(dialogues: Sequence[Dialogue], emotion: str) -> list[Dialogue]:
    """The dialogues of one emotion, or all of them."""
    return [d for d in dialogues if emotion in (EVERY, d.emotion)]


def dialogue_browser(dialogues: Sequence[Dialogue]) -> Board:
    """A choice of the emotion and a slider over its dialogues."""
    named = sorted({d.emotion for d in dialogues if d.emotion})
    emotion = ipywidgets.Dropdown(options=[EVERY, *named], value=EVERY, description="emotion")
    number = ipywidgets.IntSlider(1, min=1, max=len(dialogues), description="dialogue")

    def page(emotion: str, number: int) -> str:
        chosen = shelf(dialogues, emotion)
        number = min(number, len(chosen))  # the slider may still stand where another emotion's end was
        return dialogue_page(chosen[number - 1], f"({number} of {len(chosen)})")

    board = Board(page, {"emotion": emotion, "number": number})
    emotion.observe(lambda change: setattr(number, "max", len(shelf(dialogues, change.new))), "value")
    return board


def answer_page(turned: Turned, before: Sequence[str] = ()) -> str:
    """One exchange as `Chat` gives it: reasons marked, emotions and intents as bars, the reply. before: past turns."""
    turns = [*before, turned.text, turned.reply]
    spans = [*[None] * len(before), turned.spans, None]
    intents = " → ".join(name for name in (turned.first, turned.final) if name)
    parts = [highlight(turns, spans, [*[""] * (len(turns) - 1), intents]).data]
    if turned.spans is None:
        parts.append('<p style="color:#777">This model marks no reasons.</p>')
    for name, title, colour in (
        ("emotion", "emotion", "#c0504d"),
        ("first", "first intent", "#9bbb59"),
        ("final", "final intent", "#8064a2"),
    ):
        shares = dict(list(turned.shares.get(name, {}).items())[:SHOWN])
        shown = bars(shares, colour) if shares else "not named by this model"
        parts.append(f'<div style="{BOX}"><b>{title}</b>{shown}</div>')
    return "".join(parts)


def talk_page(chat: Chat, text: str) -> str:
    """What the run would answer to `text` after the conversation so far."""
    if not text.strip():
        return highlight(chat.turns, [None] * len(chat.turns)).data + HINT
    return answer_page(chat.look(text.strip()), chat.turns)


def talk_box(chat: Chat, text: str = "", wait: float = 0.4) -> Board:
    """A line to type in; the page follows `wait` seconds after the last key. Buttons: keep the turn, start again."""
    line = ipywidgets.Text(
        text, description="speaker", continuous_update=True, layout={"width": "32em"}, placeholder="what happened?"
    )
    say, again = (ipywidgets.Button(description=name, layout={"width": "8em"}) for name in ("say it", "start again"))
    board = Board(lambda text: talk_page(chat, text), {"text": line}, [say, again], wait, columns=3)

    def keep(_: Any) -> None:
        if line.value.strip():
            chat.say(line.value.strip())
            line.value = ""
            board.show()

    def forget(_: Any) -> None:
        chat.turns.clear()
        board.show()

    say.on_click(keep)
    again.on_click(forget)
    return board
