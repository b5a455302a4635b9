"""The page holds what was published, is inert, asks for nothing from outside, and its links lead somewhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from urllib.parse import unquote

import pandas as pd
import pytest

from rd.cli import main
from rd.errors import UserError
from rd.figures import panels
from rd.publish import publish, publish_figure
from rd.report import PARTS, report

HOSTILE = "<script>alert(1)</script>\"' onload=x {{ 'xy' * 3 }}"


class Page(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.tags if attrs.get(name)]


@pytest.fixture
def results(tmp_path):
    for preset in ("paper", "mini"):
        run = tmp_path / preset / "odd & run-s0"
        run.mkdir(parents=True)
        facts = {"seed": 0, "config": "c0ffee", "code": "abc", "corpus": "mini", "split": "test"}
        facts |= {"hardware": HOSTILE, "date": "now"}
        (run / "metrics.json").write_text(json.dumps({"n": 8, "signature": "s", "provenance": facts, "notes": {}}))
        (run / "samples.jsonl").write_text("{}\n")
        (tmp_path / preset / "table.md").write_text("x")
    table = pd.DataFrame({"system": [HOSTILE, "b"], "value": [1.5, -2.0], "source": ["ours", "paper"]})
    publish(table, tmp_path / "paper", "table2", f"Caption {HOSTILE}", [f"note {i} {HOSTILE}" for i in range(5)])
    publish(table, tmp_path / "paper", "unheard-of", "Something else")
    publish_figure(panels()[0], tmp_path / "mini", "dynamics-flow", "Drawn", ["from somewhere"])
    return tmp_path


@pytest.fixture
def page(results):
    return Page(report(results).read_text(encoding="utf-8"))


def test_texts_are_shown_and_do_nothing(page):
    assert not {"script", "iframe", "object", "embed", "link", "form"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(HOSTILE) >= 8 and "xyxyxy" not in page.text


def test_nothing_comes_from_outside(results, page):
    places = page.all("src") + page.all("href")
    assert places and not any("//" in place or place.startswith("http") for place in places)
    images = page.all("src")
    assert len(images) == 1 and images[0].startswith("data:image/svg+xml;base64,")
    style = (results / "report.html").read_text().partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize("out", ["report.html", "elsewhere/page.html"])
def test_every_link_leads_somewhere(results, out):
    file = report(results, results / out)
    page = Page(file.read_text(encoding="utf-8"))
    links, ids = page.all("href"), set(page.all("id"))
    assert len([link for link in links if not link.startswith("#")]) >= 12
    for link in links:
        known = link[1:] in ids if link.startswith("#") else (file.parent / unquote(link)).exists()
        assert known, link


def test_every_part_of_the_paper_stands_there_or_is_a_dash_with_what_makes_it(page):
    for heading, _, _ in PARTS:
        assert page.text.count(heading) == 4  # contents and text, both presets
    missing = [line for line in page.text.splitlines() if line.startswith("– nothing in ")]
    assert len(missing) == 2 * len(PARTS) - 2  # of one preset Table 2, of the other the dynamics are there
    assert any("rd human table" in line for line in missing)
    assert "Something else" in page.text and "Drawn" in page.text and "from somewhere" in page.text


def test_numbers_and_the_papers_rows_are_set_apart(page):
    rows = [attrs.get("class") for tag, attrs in page.tags if tag == "tr"]
    assert rows.count("paper") == 2  # one in each published table
    assert sum(attrs.get("class") == "number" for tag, attrs in page.tags if tag == "td") == 4


def test_no_results_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="rd tables"):
        report(tmp_path)


@pytest.mark.parametrize("option", ["--data", "--runs"])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_written(results, capsys, option):
    gone = results / "nosuch"
    assert main(["tables", "--preset", "paper", "--results", str(results), option, str(gone)]) == 2
    assert capsys.readouterr().err == f"rd: {option} {gone}: no such folder; check the path\n"
    assert (results / "paper" / "table.md").read_text() == "x"
