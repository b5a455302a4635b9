"""A board: handles above a page. The page is a function of their values; the board only asks it again."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from rd.errors import UserError

BAR = "display:inline-block;height:.7em;border-radius:2px;background:{colour};width:{width:.1f}em"
CELL = "padding:.1em .7em;text-align:{side};white-space:nowrap"


class Board(ipywidgets.VBox):
    """handles: name -> a widget with a value. page: their values by name -> HTML; a UserError becomes a line of it.

    more: further widgets, such as buttons, behind the handles; all stand in `columns` columns. wait: seconds for which
    the handles must be still first (only where an event loop runs, as in a notebook's kernel). What cannot show widgets
    (a saved notebook without its kernel, GitHub) shows the page of the last values.
    """

    def __init__(
        self,
        page: Callable[..., str],
        handles: Mapping[str, Any],
        more: Sequence[ipywidgets.Widget] = (),
        wait: float = 0.0,
        columns: int = 1,
    ) -> None:
        self.page, self.handles, self.wait = page, dict(handles), wait
        self.pending: asyncio.TimerHandle | None = None
        self.shown = ipywidgets.HTML()
        places = {"grid_template_columns": f"repeat({columns}, max-content)"}
        rows = [ipywidgets.GridBox([*self.handles.values(), *more], layout=places), self.shown]
        super().__init__(rows)
        for handle in self.handles.values():
            handle.observe(self._moved, "value")
        self.show()

    def show(self) -> None:
        """Ask the page for the values that the handles have now."""
        try:
            self.shown.value = self.page(**{name: handle.value for name, handle in self.handles.items()})
        except UserError as error:
            self.shown.value = f"<p>{escape(str(error))}</p>"

    def _moved(self, change: Any) -> None:
        if self.pending is not None:
            self.pending.cancel()
        try:
            loop = asyncio.get_running_loop() if self.wait else None
        except RuntimeError:  # none runs: a script, a test
            loop = None
        if loop is None:
            self.show()
        else:
            self.pending = loop.call_later(self.wait, self.show)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/html": self.shown.value}


def picture(fig: Figure, text: str) -> str:
    """A figure as an image inside a page; text: what stands in its place where images are not shown."""
    held = io.BytesIO()
    fig.savefig(held, format="png", dpi=80)
    data = base64.b64encode(held.getvalue()).decode()
    return f'<img style="max-width:100%" alt="{escape(text)}" src="data:image/png;base64,{data}">'


def table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Rows as an HTML table, numbers with three digits at the right; every text is escaped."""

    def cell(value: Any, kind: str = "td") -> str:
        number = isinstance(value, float)
        style = CELL.format(side="right" if number else "left")
        return f'<{kind} style="{style}">{f"{value:.3f}" if number else escape(str(value))}</{kind}>'

    lines = ["".join(cell(name, "th") for name in head)] if head else []
    lines += ["".join(map(cell, row)) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def bars(shares: Mapping[str, float], colour: str) -> str:
    """Label, bar and percent of each share (0 to 1), one a line. Labels are escaped."""
    lines = []
    for label, share in shares.items():
        name = f'<span style="display:inline-block;width:9em">{escape(label)}</span>'
        bar = f'<span style="{BAR.format(colour=colour, width=12 * share)}"></span>'
        lines.append(f"<div>{name}{bar} {share:.0%}</div>")
    return "".join(lines)
