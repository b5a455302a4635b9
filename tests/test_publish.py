"""What is published reads back as it was, in each of its forms, and does nothing on the way."""

from __future__ import annotations

import json
import re
from html import unescape

import pandas as pd
import pytest

from rd.errors import UserError
from rd.figures import panels
from rd.publish import LATEX, escape, latex, publish, publish_figure

HOSTILE = '<script>alert(1)</script> a_b|c `x` *y* [z](u) $1 50% & \\input{/etc} {q}^~#1 "r"'
TABLE = pd.DataFrame({"system": [HOSTILE, "plain"], "value": [1 / 3, None], "n": [3, 5]})


@pytest.fixture
def files(tmp_path):
    path = publish(TABLE, tmp_path, "t", f"caption {HOSTILE}", [f"note {HOSTILE}", "value –: not measured"])
    assert path == tmp_path / "tables" / "t.md"
    return {kind: path.with_suffix(f".{kind}").read_text(encoding="utf-8") for kind in ("csv", "md", "tex", "json")}


def test_csv_keeps_every_digit_and_an_empty_cell(files, tmp_path):
    read = pd.read_csv(tmp_path / "tables" / "t.csv")
    pd.testing.assert_frame_equal(read, TABLE, check_exact=True)


def test_markdown_shows_the_texts_and_nothing_else(files):
    assert "<" not in files["md"].replace("<br>", "")
    mistune = pytest.importorskip("mistune")  # comes with JupyterLab
    page = mistune.create_markdown(escape=False, plugins=["table"])(files["md"])  # escape=False: raw HTML would pass
    cells = [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<td.*?>(.*?)</td>", page, re.S)]
    assert cells == [HOSTILE, "0.33", "3", "plain", "–", "5"]
    assert "<script" not in page and "<a " not in page and "<em>" not in page and page.count("<table>") == 1
    notes = [unescape(line) for line in re.findall(r"<li>(.*?)</li>", page, re.S)]
    assert notes == [f"note {HOSTILE}", "value –: not measured"]


def test_latex_commands_are_ours_alone(files):
    body = files["tex"].split("\\midrule\n")[1].split(" \\\\\n")[0]
    back = {written: sign for sign, written in LATEX.items()}
    pattern = "|".join(re.escape(written) for written in sorted(back, key=len, reverse=True))
    read = re.sub(pattern, lambda found: back[found.group()], body.split(" & ")[0])
    assert read == HOSTILE
    rest = re.sub(pattern, "", files["tex"].split("\\caption{")[1].split("}\n\\label")[0])
    assert not set(rest) & set("\\{}$&#_%^~<>")
    bare = re.sub(r"\\[\\{}$&#_%]", "", files["tex"])
    assert bare.count("{") == bare.count("}")
    for rule in ("\\toprule", "\\midrule", "\\bottomrule", "\\begin{tabular}{p{5.5cm}cc}"):
        assert rule in files["tex"]


def test_a_row_that_begins_with_a_bracket_is_no_argument():
    assert escape("[2pt] x", LATEX) == "{[}2pt] x"


def test_what_the_page_reads_is_what_was_shown(files):
    told = json.loads(files["json"])
    assert told["rows"] == [[HOSTILE, "0.33", "3"], ["plain", "–", "5"]] and told["columns"] == list(TABLE)
    assert told["caption"] == f"caption {HOSTILE}" and len(told["notes"]) == 2


def test_people_may_be_shown_another_table(tmp_path):
    shown = pd.DataFrame({"value": ["0.33 ± 0.10 (3)"]})
    text = publish(TABLE[["value"]], tmp_path, "t", "c", shown=shown).read_text()
    assert "0.33 ± 0.10 (3)" in text and "0.3333333" in (tmp_path / "tables" / "t.csv").read_text()


def test_figures_come_with_caption_and_numbers(tmp_path):
    path = publish_figure(panels()[0], tmp_path, "f", "a caption", ["a note"], TABLE)
    assert path.read_text().count("<svg") == 1 and (tmp_path / "figures" / "f.csv").is_file()
    assert json.loads(path.with_suffix(".json").read_text()) == {"caption": "a caption", "notes": ["a note"]}


@pytest.mark.parametrize("name", ["../t", "a/b", "", ".t", "t t"])
def test_a_name_cannot_leave_its_folder(tmp_path, name):
    with pytest.raises(UserError, match="not a name"):
        publish(TABLE, tmp_path, name, "c")


def test_latex_breaks_long_tables_and_lines() -> None:
    """More than a page: a longtable with its head on each; a cell of two lines stands in a column that breaks."""
    short = latex(pd.DataFrame({"case": ["a\nb"], "n": ["1"]}), "c")
    assert re.search(r"\\begin\{tabular\}\{p\{1\.5cm\}c\}", short) and "longtable" not in short
    rows = [[f"row {i}", "1"] for i in range(60)]
    whole = latex(pd.DataFrame(rows, columns=["case", "n"]), "c")
    assert whole.count("\\begin{longtable}{lc}") == 1 and "tabular}" not in whole.replace("longtable", "")
    assert whole.index("\\endhead") < whole.index("row 0")
    assert [line for line in whole.splitlines() if line.startswith("row ")] == [f"row {i} & 1 \\\\" for i in range(60)]
