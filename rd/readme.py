"""The table that README and papers/ show: one row a system, ours and the paper's in one cell."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rd.errors import UserError
from rd.files import replace_text
from rd.tables import COLUMNS, PRINTED, cell, collect, in_order, printed_table, steps_of, system_name, to_markdown


def side_by_side(folder: str | Path, printed: Path = PRINTED) -> pd.DataFrame:
    """Table 2 with one row a system, "ours (paper's)"; only runs on all samples: Dist differs on fewer."""
    paper, found = printed_table(printed), collect(folder)
    whole = max(run["n"] for runs in found.values() for run in runs)
    measured = {key for runs in found.values() for run in runs for key, value in run.items() if value is not None}
    columns = {key: names for key, names in COLUMNS.items() if key in measured}
    rows = []
    for name in in_order(found, paper):
        runs = found[name]
        if any(run["n"] < whole for run in runs):
            continue
        cells = {}
        for key, (heading, column) in columns.items():
            theirs = paper[column].get(name)
            cells[heading] = cell([run.get(key) for run in runs]) + ("" if pd.isna(theirs) else f" ({theirs:.2f})")
        steps = steps_of(runs)
        rows.append({"system": system_name(name, paper, steps), **cells, "seeds": len(runs), "steps": steps})
    return pd.DataFrame(rows)


def embed(document: Path, folder: str | Path) -> bool:
    """Put the table, side by side, between a document's marks for folder/table.md; True where that changed it.

    Raises UserError where the marks are missing, and where it is no text.
    """
    name = Path(folder).name
    begin, end = f"<!-- table: results/{name}/table.md -->\n", "<!-- /table -->"
    try:
        text = document.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{document}: no text in UTF-8 ({error}); give a document in Markdown") from None
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise UserError(f"{document}: no lines {begin.strip()} and {end} to put the table between")
    new = f"{before}{begin}{to_markdown(side_by_side(folder))}\n{end}{after}"
    if new != text:
        replace_text(document.resolve(), new)  # of a link: the document that it names
    return new != text
