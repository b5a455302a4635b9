"""The one writer of tables and figures: results/<preset>/tables and figures, in every form the report and a paper need.

    publish(table, folder, name, caption, notes=(), shown=None, digits=2) -> Path
    publish_figure(fig, folder, name, caption, notes=(), data=None) -> Path

`folder` is results/<preset>. `publish` writes tables/<name>.csv (numbers as they are), .md, .tex (booktabs) and .json
(caption, columns, cells as shown, notes: what `rd.report` reads); `publish_figure` figures/<name>.svg, .json, and .csv
where its data are given. notes: footnotes, one line each: why a cell is a dash, and where the numbers come from.
Each file is whole or absent, and the .json comes last. Texts are escaped for their form: a cell shows what it holds and
does nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rd.errors import UserError
from rd.figures import save
from rd.files import replace_csv, replace_text
from rd.tables import DASH

LONG = 36  # characters: a column with a longer cell is broken into lines in LaTeX
PAGE = 45  # lines of a table: a longer one goes over several pages
MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]|$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": "<br>"}
LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "[": "{[}",
    "*": "{*}", "\n": r"\newline ", "–": "--", "—": "---", "−": "$-$", "±": r"$\pm$", "→": r"$\to$", "×": r"$\times$",
    "·": r"$\cdot$", "≤": r"$\le$", "≥": r"$\ge$", "†": r"$\dagger$", "‡": r"$\ddagger$", "α": r"$\alpha$",
    "κ": r"$\kappa$", "σ": r"$\sigma$", "…": r"\ldots{}", "‘": "`", "’": "'", "“": "``", "”": "''",
} | {c: f"\\{c}" for c in "{}$&#_%"}  # fmt: skip


def publish(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    caption: str,
    notes: Iterable[str] = (),
    shown: pd.DataFrame | None = None,
    digits: int = 2,
) -> Path:
    """Write tables/<name>.csv, .md, .tex and .json into `folder` (results/<preset>); returns the path of the .md.

    table: for the CSV, without its index; floats keep all their digits there. shown: what people read, where that is
    another table ("12.30 ± 0.20 (3)"); without it `table`, floats rounded to `digits`. An empty cell (None, NaN) is a
    dash when shown, and its reason belongs into the notes. Raises UserError for a name that is no file name.
    """
    target, notes = _target(folder, "tables", name), list(notes)
    cells = written(table if shown is None else shown, digits)
    lines = "".join(f"\n- {_note(note)}" for note in notes)
    text = f"**{escape(caption, MARKDOWN)}**\n\n{markdown(cells)}\n{lines and chr(10)}{lines.strip(chr(10))}"
    replace_csv(target.with_suffix(".csv"), table)
    replace_text(target.with_suffix(".tex"), latex(cells, caption, notes, name))
    replace_text(target.with_suffix(".md"), text.rstrip("\n") + "\n")
    _describe(target, caption, notes, columns=list(cells.columns), rows=cells.to_numpy().tolist())
    return target.with_suffix(".md")


def publish_figure(
    fig: Figure,
    folder: str | Path,
    name: str,
    caption: str,
    notes: Iterable[str] = (),
    data: pd.DataFrame | None = None,
) -> Path:
    """Write figures/<name>.svg, .json and, with `data` (no index), .csv into `folder`; returns the path of the .svg.

    Raises UserError for a name that is no file name.
    """
    target = _target(folder, "figures", name)
    if data is not None:
        replace_csv(target.with_suffix(".csv"), data)
    image = save(fig, folder, name)
    _describe(target, caption, list(notes))
    return image


def written(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """The same table as texts: floats with `digits`, nothing as a dash."""

    def text(value: Any) -> str:
        if pd.isna(value):
            return DASH
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    cells = [[text(value) for value in row] for row in table.astype(object).to_numpy()]
    return pd.DataFrame(cells, columns=[str(column) for column in table.columns], dtype=object)


def escape(text: str, signs: dict[str, str]) -> str:
    """Each sign of `text` as its form writes it; a carriage return is dropped."""
    return "".join(signs.get(sign, sign) for sign in text.replace("\r", "").strip("\n"))


def _note(text: str) -> str:
    """A line of a Markdown list, escaped: its beginning makes no heading, list or block of code of it."""
    begins = r"(#+|[+-]|\d+[.)]|~)(?=\s|~~|$)"
    return re.sub(f"^{begins}", lambda sign: f"{sign[1][:-1]}\\{sign[1][-1]}", escape(text, MARKDOWN).strip())


def markdown(cells: pd.DataFrame) -> str:
    """A GitHub table of texts, escaped."""
    rows = [[escape(str(cell), MARKDOWN) for cell in row] for row in [list(cells.columns), *cells.to_numpy().tolist()]]
    rows.insert(1, ["---"] * len(cells.columns))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def latex(cells: pd.DataFrame, caption: str, notes: Iterable[str] = (), label: str = "table") -> str:
    """A table* of texts, escaped, with rules of booktabs; never wider than the line (graphicx).

    One of more than a page becomes a longtable, which goes on over the next pages and needs a single column.
    """
    shape = "".join(_column(cells[c], first=i == 0) for i, c in enumerate(cells.columns))
    head, *rows = [
        " & ".join(escape(str(cell), LATEX) for cell in row) + r" \\"
        for row in [list(cells.columns), *cells.to_numpy().tolist()]
    ]
    below = "".join(f"\n\\par {escape(note, LATEX)}" for note in notes)
    if _lines(cells) > PAGE:
        return _over_pages(shape, head, rows, escape(caption, LATEX), label, below)
    body = "\n".join(["\\toprule", head, "\\midrule", *rows, "\\bottomrule"])
    return (
        "% needs \\usepackage{booktabs, graphicx} and T1 fonts\n\\begin{table*}\n\\centering\n"
        f"\\caption{{{escape(caption, LATEX)}}}\n\\label{{tab:{label}}}\n"
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
        f"\\begin{{tabular}}{{{shape}}}\n{body}\n\\end{{tabular}}}}\n"
        + (f"\\begin{{flushleft}}\\footnotesize{below}\n\\end{{flushleft}}\n" if below else "")
        + "\\end{table*}\n"
    )


def _over_pages(shape: str, head: str, rows: list[str], caption: str, label: str, below: str) -> str:
    shape = re.sub(r"p\{([\d.]+)cm\}", lambda found: f"p{{{0.04 * float(found[1]):.2f}\\linewidth}}", shape)
    top = [f"\\caption{{{caption}}}\\label{{tab:{label}}}\\\\", "\\toprule", head, "\\midrule", "\\endhead"]
    whole = [f"\\begin{{longtable}}{{{shape}}}", *top, *rows, "\\bottomrule", "\\end{longtable}" + below]
    packages = "% needs \\usepackage{booktabs, longtable, pdflscape}, T1 fonts and a single column (\\onecolumn)"
    return "\n".join([packages, "\\begin{landscape}\\footnotesize", *whole, "\\end{landscape}\n"])


def _lines(cells: pd.DataFrame) -> int:
    """Lines that a table takes in LaTeX, about."""
    return sum(max(1 + len(str(cell)) // LONG for cell in row) for row in cells.to_numpy())


def _column(column: pd.Series, first: bool) -> str:
    """Broken into lines where a cell is long, or has lines of its own: their widest gives the width."""
    lines = [line for cell in column for line in str(cell).split("\n")]
    widest = max(map(len, lines), default=0)
    if widest > LONG:
        return "p{5.5cm}"
    return f"p{{{max(1.5, 0.16 * widest):.1f}cm}}" if len(lines) > len(column) else "l" if first else "c"


def _target(folder: str | Path, kind: str, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{name!r}: not a name for a file in {kind}/; use letters, digits, '-' and '_'")
    (Path(folder) / kind).mkdir(parents=True, exist_ok=True)
    return Path(folder) / kind / f"{name}.json"


def _describe(target: Path, caption: str, notes: list[str], **more: Any) -> None:
    text = json.dumps({"caption": caption, **more, "notes": notes}, indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(target, text + "\n")
