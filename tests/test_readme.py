"""The table inside documents: cells by hand, everything around it as it was."""

import json

import pytest
from test_tables import metrics

from rd.errors import UserError
from rd.readme import embed, side_by_side


@pytest.fixture
def results(tmp_path):
    """Three systems in tmp/paper; one answered fewer samples than the others."""
    for name, found in {
        "transformer-s0": metrics(0),
        "reflectdiffu-s0": metrics(0, bleu_1=20.0, acc_emo=41.5),
        "llama-3.1-8b-cot-s0": metrics(0, n=100),
    }.items():
        (tmp_path / "paper" / name).mkdir(parents=True)
        (tmp_path / "paper" / name / "metrics.json").write_text(json.dumps(found))
    return tmp_path / "paper"


def test_ours_and_the_papers_share_a_cell(results):
    table = side_by_side(results).set_index("system")
    assert list(table.index) == ["transformer", "ReflectDiffu"]  # in the paper's order, less the one of 100 samples
    assert list(table.columns) == ["BLEU-1", "Acc emo", "PPL", "seeds", "steps"]  # what nobody measured is no column
    assert list(table.loc["ReflectDiffu"]) == ["20.00 (23.59)", "41.50 (48.76)", "40.00 (24.56)", 1, "–"]
    assert list(table.loc["transformer"]) == ["10.00", "–", "40.00", 1, "–"]


def test_what_stands_around_the_table_stays(results):
    page = results.parent / "README.md"
    page.write_text("# a\n<!-- table: results/paper/table.md -->\nold\n<!-- /table -->\nb\n")
    assert embed(page, results) and not embed(page, results)
    lines = page.read_text().splitlines()
    assert lines[:2] == ["# a", "<!-- table: results/paper/table.md -->"] and lines[-2:] == ["<!-- /table -->", "b"]
    assert "old" not in lines and lines[2].startswith("| system |") and len(lines) == 4 + 4


def test_a_document_without_the_marks_is_told_and_stays(results):
    page = results.parent / "README.md"
    page.write_text("nothing")
    with pytest.raises(UserError, match="no lines"):
        embed(page, results)
    assert page.read_text() == "nothing"
