"""Sheets: blinded, balanced, drawn by the seed; filled ones are checked line by line."""

import csv
import io
import itertools
import json
import os
from collections import Counter
from errno import ENOSPC

import pytest
from human_study import OTHERS, OURS, corpus, lines, run, study

from rd.data.corpus import samples
from rd.data.jsonl import write_jsonl, write_lines
from rd.data.records import Dialogue, Turn
from rd.errors import UserError
from rd.human.filled import read_sheet
from rd.human.guidelines import ASPECTS
from rd.human.session import given
from rd.human.sheets import COLUMNS, MOST_CONTEXT, make, plain, said
from rd.human.store import Store, outcome
from rd.locks import locked


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))


def written(path, table, mark=","):
    """A sheet as a spreadsheet saves it."""
    out = io.StringIO()
    lines = csv.writer(out, delimiter=mark)
    lines.writerows([COLUMNS, *([row[name] for name in COLUMNS] for row in table)])
    path.write_text(out.getvalue(), "utf-8")
    return path


def test_a_sheet_tells_no_system(tmp_path):
    folder = study(tmp_path)
    systems = {part for name in (OURS, *OTHERS) for part in (name, name.rsplit("-", 1)[0])}
    for path in folder.glob("sheet-*.csv"):
        text = path.read_text("utf-8-sig")
        assert not [name for name in systems if name in text] and "ours" not in text and "theirs" not in text
        assert tuple(text.splitlines()[0].split(",")) == COLUMNS
    assert sorted(path.name for path in folder.iterdir() if "sqlite" not in path.name) == [
        "sheet-r1.csv", "sheet-r2.csv", "sheet-r3.csv"
    ]  # fmt: skip


def test_replies_are_those_of_the_runs_and_sides_are_balanced(tmp_path):
    folder = study(tmp_path, count=9)
    asked = {sample.id: sample for sample in samples(corpus(tmp_path).splits["test"])}
    replies = {
        name: {r["id"]: r["reply"] for r in lines(tmp_path / name / "samples.jsonl")} for name in (OURS, *OTHERS)
    }
    with Store(folder) as store:
        key = {row["pair"]: row for row in store.rows("SELECT * FROM key JOIN pairs USING (pair)")}
        for rater in store.raters:
            shown = {row["pair"]: row["ours_first"] for row in store.rows("SELECT * FROM shown WHERE rater = ?", rater)}
            sides = Counter()
            for row in rows(folder / f"sheet-{rater}.csv"):
                fact = key[row["pair"]]
                pair = [replies[OURS][fact["sample"]], replies[fact["opponent"]][fact["sample"]]]
                assert [row["reply A"], row["reply B"]] == (pair if shown[row["pair"]] else pair[::-1])
                assert row["context"] == said(asked[fact["sample"]])
                sides[fact["opponent"], shown[row["pair"]]] += 1
            assert sorted(sides.values()) == [4, 4, 5, 5]
        turns = [asked[fact["sample"]].dialogue.id for fact in key.values()]
        assert len(set(turns)) == len(turns) == 18  # no dialogue twice in a study
        places = [[(p.pair, p.a) for p in store.sheet(rater)] for rater in store.raters]
        assert places[0] != places[1] != places[2]


def test_the_seed_decides(tmp_path):
    a, b, c = (study(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    sheets = [(folder / "sheet-r2.csv").read_bytes() for folder in (a, b, c)]
    assert sheets[0] == sheets[1] != sheets[2]


def test_withheld_replies_are_skipped_and_counted(tmp_path):
    data = corpus(tmp_path)
    every = samples(data.splits["test"])
    runs = [run(tmp_path, OURS, data), run(tmp_path, "cab-s0", data, missing=len(every) - 20)]
    left = {sample.dialogue.id for sample in every[-20:]}
    report = make(runs, data, tmp_path / "study", count=len(left))
    assert report["withheld"] == {OURS: 0, "cab-s0": len(every) - 20} and report["pairs"] == len(left)
    with Store(tmp_path / "study") as store:
        assert {row["sample"] for row in store.rows("SELECT sample FROM pairs")} <= {s.id for s in every[-20:]}
    with pytest.raises(UserError, match=f"only {len(left)} dialogues"):
        make(runs, data, tmp_path / "more", count=len(left) + 1)
    assert not (tmp_path / "more").exists()


def test_mistakes_of_the_user(tmp_path):
    folder = study(tmp_path)
    data, runs = corpus(tmp_path), [tmp_path / name for name in (OURS, *OTHERS)]
    for given_runs, more, what in (
        (runs[:1], {}, "two or more"),
        ([runs[0], runs[0]], {}, "different names"),
        ([runs[0], tmp_path], {}, "no samples.jsonl"),
        (runs, {"count": 0}, "--count 0"),
        (runs, {"raters": 0}, "--raters 0"),
        (runs, {"seed": -1}, "--seed -1"),
    ):
        with pytest.raises(UserError, match=what):
            make(given_runs, data, tmp_path / "new", **more)
    with pytest.raises(UserError, match="lies here already"):
        make(runs, data, folder, 10)
    (runs[1] / "samples.jsonl").write_text('{"id": "elsewhere:2", "reply": "x"}\n')
    with pytest.raises(UserError, match=r"samples.jsonl:1: sample elsewhere:2"):
        make(runs, data, tmp_path / "new", 10)
    assert not (tmp_path / "new").exists()


def test_no_cell_is_a_formula():
    assert [plain(text) for text in ("=1+1", "-oh", "@x", "oh - no")] == ["'=1+1", "'-oh", "'@x", "oh - no"]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_filled_sheet_is_read(tmp_path, mark):
    folder = study(tmp_path)
    table = rows(folder / "sheet-r2.csv")
    words = ["A", " b ", "TIE", "=", "t", ""]
    for i, row in enumerate(table):
        for j, aspect in enumerate(ASPECTS):
            row[aspect] = words[(i + j) % len(words)]
    sheet = written(tmp_path / "back.csv", table[::-1], mark)  # a spreadsheet may have sorted it
    with Store(folder) as store:
        found = read_sheet(sheet, store, "Ann")
        empty = sum(not row[aspect] for row in table for aspect in ASPECTS)
        assert found == {"new": 60 - empty, "known": 0, "empty": empty} and empty > 5
        meant = {"A": "A", " b ": "B", "TIE": "tie", "=": "tie", "t": "tie"}
        said = {(r["pair"], a): meant[r[a]] for r in table for a in ASPECTS if r[a]}
        assert given(store, "r2") == said and not given(store, "r1")
        assert read_sheet(sheet, store, "Ann") == {"new": 0, "known": 60 - empty, "empty": empty}
        ours = {row["pair"]: row["ours"] for row in store.rows("SELECT * FROM pairs")}
        for row in store.votes():  # the key: a win is a vote for our reply, wherever it stood
            line = next(r for r in table if r["pair"] == row["pair"])
            if row["choice"] != "tie":
                chosen = line[f"reply {row['choice']}"]
                assert (outcome(row["choice"], row["ours_first"]) == "win") == (chosen == ours[row["pair"]])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t[2].update(empathy="C"), r"back.csv:{line}: empathy is 'C'"),
        (lambda t: t[2].update({"reply A": "another"}), r"back.csv:{line}: reply A is not the one"),
        (lambda t: t[2].update({"reply A": t[2]["reply B"], "reply B": t[2]["reply A"]}), "reply A is not the one"),
        (lambda t: t[2].update(pair="p99"), r"back.csv:{line}: pair 'p99' is not"),
        (lambda t: t[2].update(t[1]), r"back.csv:{line}: pair .* already"),
        (lambda t: [row.update(rater="r7") for row in t], "a sheet of r7"),
        (lambda t: t[2].update(rater="r1"), "a sheet of r1, r2"),
    ],
)
def test_a_wrong_sheet_changes_nothing(tmp_path, change, what):
    folder = study(tmp_path)
    table = rows(folder / "sheet-r2.csv")
    for row in table:
        row.update(dict.fromkeys(ASPECTS, "A"))
    line = 2 + sum(row["context"].count("\n") + 1 for row in table[:2])
    change(table)
    with Store(folder) as store, pytest.raises(UserError, match=what.format(line=line)):
        read_sheet(written(tmp_path / "back.csv", table), store, "Ann")
    with Store(folder) as store:
        assert not store.votes() and not store.rows("SELECT * FROM raters WHERE name IS NOT NULL")


def test_a_sheet_may_not_contradict_the_database(tmp_path):
    folder = study(tmp_path)
    table = rows(folder / "sheet-r1.csv")
    table[0]["fluency"] = "A"
    with Store(folder) as store:
        read_sheet(written(tmp_path / "one.csv", table), store, "Ann")
        table[0]["fluency"] = "B"
        with pytest.raises(UserError, match=r"two.csv:2: fluency is B here and A in"):
            read_sheet(written(tmp_path / "two.csv", table), store, "Ann")
        with pytest.raises(UserError, match="taken by another"):
            read_sheet(tmp_path / "one.csv", store, "Bob")
        assert [row["choice"] for row in store.votes()] == ["A"]


def test_no_csv_is_named(tmp_path):
    folder = study(tmp_path)
    sheet = folder / "sheet-r1.csv"
    text = sheet.read_text("utf-8-sig")
    for changed, what in (
        (text.replace("fluency", "beauty", 1), r":1: no column 'fluency'"),
        (text + "r1,p01\n", r"2 cells, and the header has 8"),
        (text.replace(",,,", ',,,"', 1), "not a CSV line"),
        ("", "empty"),
    ):
        sheet.write_text(changed, "utf-8")
        with Store(folder) as store, pytest.raises(UserError, match=what):
            read_sheet(sheet, store, "Ann")
    sheet.write_bytes(text.encode().replace(b"p1", b"\xff", 1))
    with Store(folder) as store, pytest.raises(UserError, match="UTF-8"):
        read_sheet(sheet, store, "Ann")


def test_what_was_drawn_is_noted(tmp_path):
    with Store(study(tmp_path, seed=4)) as store:
        facts = store.facts
        assert facts["seed"] == 4 and facts["runs"] == [OURS, *OTHERS] and facts["withheld"][OURS] == 3
        assert {"code", "date", "libraries", "data"} <= set(facts) and json.dumps(facts)


def breaks_at(place, broken):
    """An os.replace that ends in `broken` where the file number `place` would get its name."""
    renamed, replace = itertools.count(), os.replace
    return lambda *names: broken() if next(renamed) == place else replace(*names)


def left(folder):
    """Name and text of each file, of the database the name only: it holds a date."""
    return {path.name: path.suffix == ".csv" and path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def ready(tmp_path):
    """(runs, corpus): what `make` needs."""
    data = corpus(tmp_path)
    return [run(tmp_path, name, data) for name in (OURS, *OTHERS)], data


@pytest.mark.parametrize("place", range(4))  # three sheets, then the database
def test_what_a_kill_leaves_is_no_study_and_is_made_again(tmp_path, ready, monkeypatch, place):
    out = tmp_path / "study"
    child = os.fork()
    if not child:
        monkeypatch.setattr(os, "replace", breaks_at(place, lambda: os._exit(9)))
        try:
            make(*ready, out, 5)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(UserError, match="no such file"):
        Store(out)
    (out / ".ratings.sqlite.part-journal").write_text("of a make that was killed earlier")
    make(*ready, out, 5, raters=2)
    make(*ready, tmp_path / "whole", 5, raters=2)
    assert left(out) == left(tmp_path / "whole") and len(left(out)) == 3


@pytest.mark.parametrize(("place", "name"), enumerate(["sheet-r1.csv", "sheet-r2.csv", "ratings.sqlite"]))
def test_a_full_disk_leaves_nothing_of_a_study(tmp_path, ready, monkeypatch, place, name):
    def full():
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(os, "replace", breaks_at(place, full))
    with pytest.raises(OSError, match=name):
        make(*ready, tmp_path / "study", 5, raters=2)
    assert not (tmp_path / "study").exists()


def test_sheets_that_lost_their_database_are_kept(tmp_path, ready):
    out = tmp_path / "study"
    make(*ready, out, 5)
    (out / "ratings.sqlite").unlink()
    before = left(out)
    with pytest.raises(UserError, match="sheets without their database"):
        make(*ready, out, 5)
    assert left(out) == before


def test_of_two_that_make_a_study_the_second_is_refused(tmp_path, ready):
    with locked(tmp_path / "study"), pytest.raises(UserError, match=f"process {os.getpid()} .* is writing here"):
        make(*ready, tmp_path / "study", 5)


def test_the_longest_texts_come_back(tmp_path, caplog):
    """A dialogue and a reply as long as a corpus may hold, and longer."""
    turns = tuple(Turn(f"turn {number} " + "word " * 750) for number in range(200))
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "test.jsonl", [Dialogue("long", "proud", "", turns)])
    data = corpus(tmp_path)
    last = samples(data.splits["test"])[-1]
    runs = [tmp_path / name for name in (OURS, OTHERS[0])]
    for folder, word in zip(runs, ("yes ", "no ")):
        folder.mkdir()
        write_lines(folder / "samples.jsonl", [{"id": last.id, "reply": word * 100_000}])
    make(runs, data, tmp_path / "study", 1, raters=1)
    assert caplog.text.count("samples.jsonl:1: reply: ") == 2 and f"{last.id}: 199 turns before it" in caplog.text
    (row,) = table = rows(tmp_path / "study" / "sheet-r1.csv")
    assert row["context"].endswith(f"\nSpeaker: {' '.join(turns[198].text.split())}")
    assert MOST_CONTEXT - 4000 < len(row["context"]) < 32_767 and row["context"].startswith("(191 earlier turns)\n")
    row["fluency"] = "A"
    with Store(tmp_path / "study") as store:
        assert read_sheet(written(tmp_path / "back.csv", table), store, "Ann") == {"new": 1, "known": 0, "empty": 2}
