"""The paper's tables and figures from made-up run folders: numbers by hand, gaps as dashes with what makes them."""

import json

import numpy as np
import pandas as pd
import pytest

from rd.labels import EMOTIONS, INTENTS
from rd.paper_tables import missing, paper_tables
from rd.provenance import provenance
from rd.readme import embed
from rd.run_figures import confusions, history, q_plane, run_figures, training, trajectories
from rd.scores import FILE, score_rows, write_scores
from rd.tables import DASH, printed_table, system_name, table2

IDS = [f"d{i // 2}:{i}" for i in range(8)]
GOLD = [f"a b c d e {i}" for i in range(8)]


def put(folder, name, steps=5000, reply="a b c d e {}", **values):
    """A run of eight samples with its scores."""
    run = folder / name
    run.mkdir(parents=True)
    facts = dict(seed=int(name[-1]), config="c0ffee", code="abc", corpus="mini", split="test", hardware="x", date="now")
    known = {"n": 8, "unk_rate": 1.5, "signature": "nrefs:1", "provenance": facts, "notes": {}, "acc_emo": None}
    from_replies = {"bleu_1": 10.0, "bleu_2": 1.0, "ppl": float(np.exp(2.0))}
    (run / "metrics.json").write_text(json.dumps(known | from_replies | values))
    (run / "machine.json").write_text(json.dumps({"steps": steps}))
    table = score_rows(IDS, [None] * 8, GOLD, np.full(8, 2.0))
    write_scores(table, run / FILE)
    rows = [{"step": 1, "loss/response": 6.0}, {"step": 2, "valid/ppl": 50.0, "valid/acc_emo": 10.0}]
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def keep(folder, name, table, **facts):
    """A gathered file."""
    file = folder / "gathered" / f"{name}.csv"
    file.parent.mkdir(exist_ok=True)
    table.to_csv(file, index=False)
    file.with_suffix(".json").write_text(json.dumps(provenance(corpus="mini", **facts)))


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "paper"
    put(home, "transformer-s0")
    put(home, "transformer-s1", bleu_1=13.0)
    put(home, "transformer-long-s0", steps=13000)
    put(home, "reflectdiffu-s0", steps=8000, acc_emo=50.0)
    put(home, "reflectdiffu-short-s0")
    put(home, "reflectdiffu-emu-False-s0")
    return home


def shown(folder, name):
    told = json.loads((folder / "tables" / f"{name}.json").read_text())
    return pd.DataFrame(told["rows"], columns=told["columns"]), told["notes"]


def test_table_2_has_every_row_of_the_paper_in_its_order(folder):
    paper_tables(folder)
    table, notes = shown(folder, "table2")
    printed = printed_table()
    assert list(table[table["source"] == "paper"]["system"]) == list(printed["system"])
    ours = list(table[table["source"] == "ours"]["system"])
    assert ours[:2] == ["transformer", "transformer (13,000 steps)"]
    after = ours.index("ReflectDiffu")
    assert ours[after : after + 3] == ["ReflectDiffu", "ReflectDiffu (5,000 steps)", "ReflectDiffu w/o ERA"]
    moel = table[(table["system"] == "MoEL") & (table["source"] == "ours")].iloc[0]
    assert set(moel.drop(["system", "source"])) == {DASH}
    assert sum("rd train moel --preset paper" in note and "MoEL" in note for note in notes) == 1
    assert any("c0ffee" in note and note.startswith("reflectdiffu-emu-False seed 0") for note in notes)


def test_table_2_as_numbers_has_mean_and_sd_of_the_seeds(folder):
    paper_tables(folder)
    table = pd.read_csv(folder / "tables" / "table2.csv").set_index(["model", "source"])
    row = table.loc[("transformer", "ours")]
    assert (row["bleu_1"], row["seeds"]) == (11.5, 2)
    assert row["bleu_1_sd"] == pytest.approx(np.std([10, 13], ddof=1))
    assert table.loc[("moel", "ours")].drop(["system", "seeds"]).isna().all()
    printed = printed_table()
    for name in printed.index:
        assert table.loc[(name, "paper"), "bleu_4"] == printed.loc[name, "bleu_4"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("moel", "rd train moel --preset paper"),
        ("reflectdiffu-intent_twice-False", "rd train reflectdiffu --set model.intent_twice=false --preset paper"),
        ("qwen2-7b-cot", "rd tune, rd prompt"),
    ],
)
def test_what_makes_a_missing_row(tmp_path, name, told):
    assert told in missing(name, tmp_path / "paper")


def test_another_budget_stands_behind_the_plain_one_under_the_papers_name():
    paper = printed_table()
    assert system_name("reflectdiffu-short", paper, "5000") == "ReflectDiffu (5,000 steps)"
    assert system_name("mime-long", paper, "5000 / 6000") == "MIME (long)"
    assert system_name("reflectdiffu-era-False", paper, "5000") == "ReflectDiffu w/o ERA"


def test_table_1_and_figure_3_are_the_counts(folder):
    counts = np.random.default_rng(0).integers(1, 90, (len(EMOTIONS), len(INTENTS)))
    table = pd.DataFrame(counts, columns=list(INTENTS))
    table.insert(0, "emotion", EMOTIONS)
    keep(folder, "intents", table, turns=int(counts.sum()), gold=7, split="train")
    assert paper_tables(folder) == []
    rows, notes = shown(folder, "table1")
    for line, derived, printed in zip(counts, rows["derived"], rows["printed"], strict=True):
        best = sorted(INTENTS, key=lambda intent: -line[INTENTS.index(intent)])[:3]
        want = [f"{intent} ({100 * line[INTENTS.index(intent)] / line.sum():.0f} %)" for intent in best]
        assert sorted(derived.split(", ")) == sorted(want) or len(set(line)) < len(line)  # ties may go either way
        assert printed == "not printed" or set(printed.split(", ")) <= set(INTENTS)
    assert (rows["printed"] == "not printed").sum() == 5 and "7 with gold labels" in notes[0]
    drawn = pd.read_csv(folder / "figures" / "figure3.csv", index_col="emotion")
    np.testing.assert_allclose(drawn, 100 * counts / counts.sum(1, keepdims=True))


def test_what_is_not_gathered_is_said_and_the_rest_is_made(folder):
    left = paper_tables(folder) + run_figures(folder)
    assert [line.split(":")[0] for line in left] == [
        *("Table 1", "confusion matrix", "PCA of Q", "reverse-diffusion trajectories"),
    ]
    assert all("rd tables --preset paper --data DIR" in line for line in left)
    assert (folder / "figures" / "training.svg").is_file() and (folder / "tables" / "significance.md").is_file()


def test_the_last_stage_goes_on_from_the_first(folder):
    final = folder / "transformer-s0" / "final"
    final.mkdir()
    (final / "history.jsonl").write_text('{"step": 3, "valid/ppl": 40.0}\n')
    rows = history(folder / "transformer-s0")
    assert list(rows["step"]) == [1, 2, 5] and list(rows["stage"]) == ["first", "first", "final"]
    assert training(folder) == ""
    long = pd.read_csv(folder / "figures" / "training.csv")
    one = long[(long["run"] == "transformer-s0") & (long["measure"] == "valid/ppl")]
    assert one[["step", "value"]].to_numpy().tolist() == [[2, 50], [5, 40]]


def confused(right):
    """Counts of eight samples of which `right` are right."""
    counts = np.zeros((len(EMOTIONS), len(EMOTIONS)), dtype=int)
    counts[0, 0], counts[1, 2] = right, 8 - right
    table = pd.DataFrame(counts, columns=list(EMOTIONS))
    table.insert(0, "gold", EMOTIONS)
    return table


def test_the_confusion_is_that_of_the_metrics_or_refused(folder):
    keep(folder, "confusion-reflectdiffu-s0", confused(5), run="reflectdiffu-s0")
    assert "62.50" in confusions(folder) and "delete it" in confusions(folder)  # metrics.json says 50
    keep(folder, "confusion-reflectdiffu-s0", confused(4), run="reflectdiffu-s0")
    assert confusions(folder) == ""
    table, _ = shown(folder, "confusions")
    assert table.to_numpy().tolist() == [["reflectdiffu-s0", EMOTIONS[1], EMOTIONS[2], "4", "1.00"]]
    about = json.loads((folder / "figures" / "confusion.json").read_text())
    assert about["notes"][0].startswith("50.00 % on the diagonal")


def test_planes_are_drawn_from_their_points(folder):
    chance = np.random.default_rng(0)
    points = pd.DataFrame(chance.normal(size=(40, 2)), columns=["x", "y"])
    points.insert(0, "id", [f"d{i}:1" for i in range(40)])
    points["expert"], points["named"] = ["positive", "negative"] * 20, ["joyful", "sad"] * 20
    keep(folder, "q-plane", points, run="reflectdiffu-s0", explained=[0.5, 0.25])
    walks = [(side, "d0:1", step, step, -step) for side in ("positive", "negative") for step in range(-1, 4)]
    walks += [(side, "d1:1", -1, 1.0, 2.0) for side in ("positive", "negative")]
    table = pd.DataFrame(walks, columns=["polarity", "id", "step", "x", "y"])
    keep(folder, "trajectories", table, run="reflectdiffu-s0", explained_s=[[0.5, 0.25], [0.4, 0.2]])
    assert q_plane(folder) == trajectories(folder) == ""
    about = json.loads((folder / "figures" / "trajectories.json").read_text())
    assert about["notes"][0].startswith("1 test samples of 2") and "run reflectdiffu-s0" in about["notes"][1]


def test_the_readme_takes_the_whole_rows_and_keeps_its_words(folder, tmp_path):
    put(folder, "gemma-cot-s0", n=3)
    readme = tmp_path / "README.md"
    words = ("before\n<!-- table: results/paper/table.md -->\n", "<!-- /table -->\nafter\n")
    readme.write_text(words[0] + "| old |\n" + words[1])
    assert embed(readme, folder) and not embed(readme, folder)
    text = readme.read_text()
    assert text.startswith(words[0]) and text.endswith(words[1]) and "| old |" not in text
    assert "| ReflectDiffu (5,000 steps) |" in text and "gemma" not in text
    assert "gemma-cot" in set(table2(folder)["system"])
