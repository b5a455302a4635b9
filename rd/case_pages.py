"""Tables of cases (rd.cases) as people read them, and the two of the paper written: results/<preset>/tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from rd.cases import CONTEXT, COPIED, FREE, GOLD, find_runs, spoken, systems, table4, table5
from rd.data.corpus import Corpus, samples
from rd.dynamics import read_records
from rd.errors import UserError
from rd.figures import highlight
from rd.forms import MEASURE, read_form
from rd.publish import publish
from rd.tables import DASH

TITLES = {
    "table4": "Table 4: what every system says to the same context",
    "table5": "Table 5: emotion named wrongly, intent corrected or broken by the second guess",
}
LOOKED_UP = (
    "Contexts and gold replies are looked up by id in one's own copy of the corpus (rd.case_pages.with_text). A reply "
    f"is a dash where it repeats ten words in a row of the corpus, or {COPIED} of its own context."
)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """A table of cases as people read it: a case named once, intents judged by the gold one, a gap with its reason."""
    rows, table = [], table.astype(object).where(table.notna(), None)
    gold = table[table["said by"] == GOLD].set_index(["sample", "why"])["final"].to_dict()
    for row in table.to_dict("records"):
        case = f"{row['sample']}\n{row['why']}" if row["said by"] == CONTEXT else ""
        named = [row[key] for key in ("first", "final") if row[key]]
        if row["said by"] != GOLD and (right := gold[row["sample"], row["why"]]):
            named = [f"{intent} ({'right' if intent == right else 'wrong'})" for intent in named]
        text = row["text"] if row["text"] is not None else f"{DASH} ({row['withheld']})"
        head = {"case": case, "said by": row["said by"], "emotion": row["emotion"] or DASH}
        rows.append(head | {"intent": " → ".join(named) or DASH, "text": text})
    return pd.DataFrame(rows, columns=["case", "said by", "emotion", "intent", "text"])


def with_text(table: pd.DataFrame, corpus: Corpus, split: str = "test") -> pd.DataFrame:
    """The same table with the text of contexts and gold replies, to be read here, not passed on.

    Raises UserError where a sample is not in the corpus.
    """
    every, table = {sample.id: sample for sample in samples(corpus.splits[split])}, table.astype({"text": object})
    for place, row in table[table["said by"].isin((CONTEXT, GOLD))].iterrows():
        if row["sample"] not in every:
            raise UserError(f"{row['sample']}: not in this corpus; give the one that the cases are of (--data)")
        sample = every[row["sample"]]
        table.loc[place, "text"] = spoken(sample) if row["said by"] == CONTEXT else sample.target.text
        table.loc[place, "withheld"] = None
    return table


def styled(table: pd.DataFrame, corpus: Corpus, split: str = "test") -> Styler:
    """`shown` with all text, escaped, and the reasons of the contexts marked; for a notebook on one's own machine."""
    table = with_text(table, corpus, split).reset_index(drop=True)
    every = {sample.id: sample for sample in samples(corpus.splits[split])}
    style = shown(table).style.format(escape="html").hide(axis="index")
    for place, row in table[table["said by"] == CONTEXT].iterrows():
        turns = every[row["sample"]].context
        marked = highlight(turns, [turn.reasons for turn in turns]).data  # escapes what it marks
        marked = marked.replace("</div>\n<div>", "</div><div>")  # else white space would part the turns
        style = style.format(lambda _, marked=marked: marked, subset=([place], ["text"]))
    style = style.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return style.set_properties(**{"text-align": "left", "white-space": "pre-line", "vertical-align": "top"})


def write_cases(folder: str | Path, corpus: Corpus, split: str = "test", seed: int = 0) -> list[Path]:
    """Tables 4 and 5 of the runs in `folder` (results/<preset>) into its tables/."""
    runs, folder = find_runs(folder, seed), Path(folder)
    by = systems(runs, samples(corpus.splits[split]))
    more = [LOOKED_UP] * (corpus.name != FREE) + [line for run in runs for line in _source(run)]
    found = {
        "table4": table4(by, corpus, split, seed),
        "table5": table5(read_records(folder / f"reflectdiffu-s{seed}"), by, corpus, split, seed),
    }
    return [
        publish(table, folder, name, TITLES[name], notes + more, shown(table)) for name, (table, notes) in found.items()
    ]


def _source(run: Path) -> list[str]:
    if not (file := run / "metrics.json").is_file():
        return []
    form = {"provenance": dict.fromkeys(("config", "code", "date"), str)}
    facts = read_form(file, form, MEASURE)["provenance"]
    return [f"{run.name}: config {facts['config']}, code {facts['code']}, {facts['date']}"]
