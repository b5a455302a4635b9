"""Tables from made-up run folders: means and spreads by hand, gaps as dashes with their reasons."""

import json
from statistics import stdev

import pytest

from rd.errors import UserError
from rd.tables import cell, collect, footnotes, printed_table, table2, write_table


def metrics(seed, **values):
    facts = dict(
        seed=seed, config="c0ffee", code="abc", corpus="mini", split="test", hardware="a machine", date="today"
    )
    known = {"n": 247, "unk_rate": 1.5, "signature": "nrefs:1", "bleu_1": 10.0, "ppl": 40.0, "provenance": facts}
    return known | {"acc_emo": None, "notes": {"acc_emo": "the model names no emotion"}} | values


@pytest.fixture
def results(tmp_path):
    for name, found in {
        "transformer-s0": metrics(0),
        "transformer-s1": metrics(1, bleu_1=13.0),
        "reflectdiffu-s0": metrics(0, acc_emo=41.5),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(found))
    return tmp_path


def test_a_gap_is_a_dash_and_a_spread_needs_two_seeds():
    assert cell([]) == cell([None]) == "–"
    assert cell([12.345]) == "12.35" or cell([12.345]) == "12.34"
    assert cell([1.0, 2.0]) == f"1.50 ± {stdev([1.0, 2.0]):.2f}"
    assert cell([1.0, None]) == "1.00 (1)"
    assert cell([1.0, 2.0, None]) == f"1.50 ± {stdev([1.0, 2.0]):.2f} (2)"


def test_runs_are_grouped_over_seeds(results):
    assert {name: len(runs) for name, runs in collect(results).items()} == {"transformer": 2, "reflectdiffu": 1}
    table = table2(results)
    ours = table[table.source == "ours"].set_index("system")
    assert ours.loc["transformer", "BLEU-1"] == f"11.50 ± {stdev([10, 13]):.2f}"
    assert ours.loc["transformer", "Acc emo"] == "–" and ours.loc["ReflectDiffu", "Acc emo"] == "41.50"


def test_the_papers_row_stands_beside(results):
    table = table2(results)
    paper = table[table.source == "paper"]
    assert list(paper.system) == ["ReflectDiffu"]  # the plain transformer is no row of the paper
    assert paper["BLEU-1"].item() == "23.59" and paper["PPL"].item() == "24.56"


def test_every_dash_has_its_reason_and_every_run_its_provenance(results):
    lines = footnotes(results)
    assert "transformer: Acc emo –: the model names no emotion" in lines
    assert sum("config c0ffee" in line for line in lines) == 3


def test_written_table_holds_both_rows(results):
    text = write_table(results).read_text()
    assert "| ReflectDiffu | ours |" in text and "| ReflectDiffu | paper |" in text
    assert (results / "table.csv").exists()


def test_no_runs_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="rd train"):
        collect(tmp_path)


def test_printed_table_keeps_the_papers_gaps():
    printed = printed_table()
    assert len(printed) == 14 and printed.loc["cab"].isna()["acc_intent"]
