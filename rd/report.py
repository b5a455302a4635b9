"""`rd tables` makes every table and figure of results/<preset>; `rd report` puts them on one self-contained page.

The page reads what `rd.publish` wrote (tables/*.json, figures/*.json): whoever publishes stands on it. A part of the
paper that nobody made yet is a dash with what makes it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rd.errors import UserError
from rd.files import replace_text
from rd.forms import read_form
from rd.gather import gather
from rd.paper_tables import paper_tables
from rd.pipeline import Pipeline
from rd.provenance import code_version, provenance
from rd.readme import embed
from rd.run_figures import run_figures
from rd.tables import DASH, collect, origin, read_metrics, split_name, write_table

TEMPLATE = "report.html.j2"
FILES = ("metrics.json", "config.json", "machine.json", "history.jsonl", "samples.jsonl", "scores.csv")
TABLES = "rd tables --preset {preset} --data DIR --runs DIR"
# heading, names of what `rd.publish` wrote, and what makes it
PARTS = (
    ("Table 1: reference intents", ("table1*",), TABLES),
    ("Figure 3: intents by emotion", ("figure3*",), TABLES),
    ("Table 2: automatic evaluation and ablations", ("table2*",), TABLES),
    ("Differences between runs", ("significance*",), TABLES),
    ("Table 3: human A/B", ("table3*", "human*"), "ratings by people (rd human make), then rd human table"),
    ("Table 4: case study", ("table4*", "case*"), "the notebook 10_cases"),
    ("Table 5: intent twice corrects", ("table5*",), "the notebook 10_cases"),
    ("Emotion-intent dynamics (App. B.2)", ("dynamics*",), "the notebook 10_cases"),
    ("Training curves", ("training*",), TABLES),
    ("Emotion confusion", ("confusion*",), TABLES),
    ("Q and the experts' regions", ("q-plane*",), TABLES),
    ("Reverse-diffusion trajectories", ("trajectories*",), TABLES),
)
FURTHER = "Further tables and figures"
ITEM = {"caption": str, "notes": [str], "columns?": [str], "rows?": [[str]]}  # what `rd.publish` wrote
AGAIN = "delete it, or make it again (rd tables; cases and dynamics: the notebook 10_cases)"


@dataclass(frozen=True)
class Item:
    """A published table (columns, rows) or figure (image: a data URI), with links to its files: (name, place)."""

    name: str
    caption: str
    notes: list[str]
    files: list[tuple[str, str]]
    columns: list[str]
    rows: list[list[str]]
    image: str = ""

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers (set flush right)."""
        return all(row[column][:1] in "0123456789+-−–" for row in self.rows)


def refresh(desk: Pipeline, runs: Path | None = None, documents: Sequence[Path] = ()) -> list[str]:
    """Make all tables and figures of desk.folder anew; returns a line for each that cannot be made.

    Where the corpus is given (or is the bundled one), what is missing of corpus and weights is gathered first; without
    it all comes from what lies in the folder. runs: where weights and annotators lie. documents: in which the table of
    results is renewed. Raises UserError for a folder that is not there, and for a damaged file of results.
    """
    for option, place in (("--data", desk.data), ("--runs", runs)):
        if place and not Path(place).exists():
            raise UserError(f"{option} {place}: no such folder; check the path")
    known = collect(desk.folder)
    free = all(run["provenance"]["corpus"] == "mini" for runs_of in known.values() for run in runs_of)
    gaps = gather(desk, runs) if desk.data or free else []
    write_table(desk.folder)
    gaps += paper_tables(desk.folder) + run_figures(desk.folder)
    for document in documents:
        embed(document, desk.folder)
    return gaps


def report(results: str | Path, out: str | Path | None = None) -> Path:
    """Write the page (results/report.html); returns its path. Raises UserError where no preset has a measured run."""
    results = Path(results)
    out = Path(out or results / "report.html")
    presets = [
        path.parent for path in sorted(results.glob("*/table.md"), reverse=True) if any(path.parent.glob("*-s*"))
    ]
    if not presets:
        raise UserError(f"{results}: no preset with a table here; run rd reproduce or rd tables first")
    facts = provenance()
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template(TEMPLATE)
    text = page.render(
        presets=[_preset(folder, out.parent) for folder in presets],
        made=f"code {code_version()}, {facts['hardware']}, {facts['date']}",
        dash=DASH,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(out, text)
    return out


def _preset(folder: Path, home: Path) -> dict[str, Any]:
    """What the template shows of results/<preset>; places are relative to `home`, the page's folder."""
    items = [_item(file, home) for kind in ("figures", "tables") for file in sorted((folder / kind).glob("*.json"))]
    parts, taken = [], set()
    for heading, patterns, maker in PARTS:
        found = [item for item in items if any(fnmatch(item.name, pattern) for pattern in patterns)]
        taken |= {item.name for item in found}
        reason = f"nothing in {folder.name}/tables or {folder.name}/figures yet: {maker.format(preset=folder.name)}"
        parts.append({"heading": heading, "items": found, "reason": reason})
    if rest := [item for item in items if item.name not in taken]:
        parts.append({"heading": FURTHER, "items": rest, "reason": ""})
    runs = []
    for file in sorted(folder.glob("*-s*/metrics.json")):
        run, name = file.parent, split_name(file.parent.name)[0]
        places = [(f, _place(run / f, home)) for f in FILES if (run / f).is_file()]
        text = origin(name, read_metrics(file))
        runs.append({"name": run.name, "place": f"{_place(run, home)}/", "files": places, "origin": text})
    return {"name": folder.name, "parts": parts, "runs": runs}


def _item(file: Path, home: Path) -> Item:
    told, image = read_form(file, ITEM, AGAIN), file.with_suffix(".svg")
    columns, rows = told.get("columns", []), told.get("rows", [])
    if any(len(row) != len(columns) for row in rows):
        raise UserError(f"{file}: damaged (a row has not as many cells as there are columns); {AGAIN}")
    beside = [file.with_suffix(f".{kind}") for kind in ("csv", "md", "tex", "svg")]
    return Item(
        file.stem,
        told["caption"],
        told["notes"],
        [(path.suffix[1:], _place(path, home)) for path in beside if path.is_file()],
        columns,
        rows,
        f"data:image/svg+xml;base64,{base64.b64encode(image.read_bytes()).decode()}" if image.is_file() else "",
    )


def _place(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()
