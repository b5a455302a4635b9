"""The rater for notebooks: context, two replies side by side, three aspects; every press is saved before the next.

Keyboard, all in JupyterLab: ipywidgets tells a kernel of no key presses, so (1) every button is reached by Tab and
pressed by Space or Enter, as in any web page; (2) the field at the bottom takes one letter an aspect and Enter: "abt"
is A in empathy, B in relevance, a tie in fluency, and the next pair comes; "back" goes back.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import ipywidgets as widgets

from rd.errors import UserError
from rd.human.guidelines import ASPECTS, CHOICES, folded
from rd.human.session import HELP, Session, take_seat
from rd.human.store import Pair, Store

BOX = "flex:1;border:1px solid #999;border-radius:6px;padding:.5em;white-space:pre-wrap"


def rater(folder: str | Path, name: str = "") -> widgets.Widget:
    """A widget to rate the study in `folder`, from the first pair that lacks a rating.

    name: who rates; empty: the widget asks, so that no notebook holds it. Raises UserError for no such study.
    """
    store = Store(folder)
    if name:
        return _Rater(Session(store, take_seat(store, name))).box
    field = widgets.Text(description="your name", placeholder="stays in the database; sheets say r1, r2, ...")
    start, note = widgets.Button(description="start"), widgets.HTML()
    box = widgets.VBox([widgets.HTML(folded()), widgets.HBox([field, start]), note])

    def begin(_: object) -> None:
        try:
            session = Session(store, take_seat(store, field.value))
        except UserError as error:
            note.value = f"<p>{escape(str(error))}</p>"
            return
        field.value = ""
        box.children = [_Rater(session).box]

    start.on_click(begin)
    return box


def pair_html(pair: Pair) -> str:
    """What a rater reads of a pair; all of it escaped."""
    replies = "".join(
        f'<div style="{BOX}"><b>{side}</b><br>{escape(text) or "(no words)"}</div>'
        for side, text in (("A", pair.a), ("B", pair.b))
    )
    context = escape(pair.context).replace("\n", "<br>")
    return f'<p>{context}</p><div style="display:flex;gap:1em;line-height:1.4">{replies}</div>'


class _Rater:
    """Widgets around a session; each callback calls one of its methods and draws again."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.progress = widgets.IntProgress(min=0, max=len(session.sheet), description="rated")
        self.text, self.note = widgets.HTML(), widgets.HTML()
        self.buttons = {(a, c): widgets.Button(description=c, tooltip=f"{a}: {c}") for a in ASPECTS for c in CHOICES}
        for (aspect, choice), button in self.buttons.items():
            button.on_click(lambda _, aspect=aspect, choice=choice: self._do(self.session.rate, aspect, choice))
        back = widgets.Button(description="back", tooltip="the pair before")
        back.on_click(lambda _: self._do(self.session.back))
        # not at each letter: a slow kernel would answer a half typed word and wipe out the rest
        self.keys = widgets.Text(
            description="keys", placeholder="abt, then Enter", continuous_update=False, tooltip=HELP
        )
        self.keys.observe(self._typed, "value")
        rows = [
            widgets.HBox([widgets.Label(a, layout={"width": "6em"}), *(self.buttons[a, c] for c in CHOICES)])
            for a in ASPECTS
        ]
        last = widgets.HBox([self.keys, back])
        self.box = widgets.VBox([widgets.HTML(folded()), self.progress, self.text, *rows, last, self.note])
        self._draw()

    def _typed(self, change: dict) -> None:
        if change["new"]:
            self._do(self.session.typed, change["new"])
            self.keys.value = ""

    def _do(self, act, *arguments: str) -> None:
        """One act of the session; a mistake is told and changes nothing."""
        try:
            act(*arguments)
        except UserError as error:
            self._draw(str(error))
        else:
            self._draw()

    def _draw(self, note: str = "") -> None:
        session = self.session
        self.progress.value = session.done
        self.text.value = pair_html(session.pair) if session.pair else "<p>All pairs are rated. Thank you.</p>"
        for (aspect, choice), button in self.buttons.items():
            button.disabled = session.pair is None
            button.button_style = "info" if session.choice(aspect) == choice else ""
        done = f"{session.rater}: {session.done} of {len(session.sheet)} pairs; {HELP}"
        self.note.value = f"<p>{escape(note or done)}</p>"
