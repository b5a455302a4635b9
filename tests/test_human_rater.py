"""The notebook's rater without a browser, Label Studio's form, and the command line from outside."""

import json
from xml.etree import ElementTree

import ipywidgets as widgets
import pytest
from human_study import OTHERS, OURS, corpus, run, study

from rd.cli import main
from rd.errors import UserError
from rd.human.export import TIE, export, label_config, tasks
from rd.human.filled import read_sheet
from rd.human.guidelines import ASPECTS, CHOICES, folded
from rd.human.rater import pair_html, rater
from rd.human.session import Session, given, take_seat
from rd.human.sheets import COLUMNS
from rd.human.store import Pair, Store


def parts(box, kind):
    """All widgets of a kind below `box`, in order."""
    found = [box] if isinstance(box, kind) else []
    return found + [part for child in getattr(box, "children", ()) for part in parts(child, kind)]


def button(box, name):
    return next(part for part in parts(box, widgets.Button) if part.tooltip == name or part.description == name)


def test_every_press_is_saved_and_the_next_pair_comes(tmp_path):
    folder = study(tmp_path)
    box = rater(folder, "Ann")
    with Store(folder) as store:
        sheet = store.sheet("r1")
        assert pair_html(sheet[0]) in [part.value for part in parts(box, widgets.HTML)]
        for done, aspect in enumerate(ASPECTS):
            button(box, f"{aspect}: B").click()
            assert len(given(store, "r1")) == done + 1
        assert pair_html(sheet[1]) in [part.value for part in parts(box, widgets.HTML)]
        assert parts(box, widgets.IntProgress)[0].value == 1 and parts(box, widgets.IntProgress)[0].max == 20
        button(box, "back").click()
        assert {b.tooltip for b in parts(box, widgets.Button) if b.button_style} == {f"{a}: B" for a in ASPECTS}
        box = rater(folder, "Ann")  # another day
        assert pair_html(sheet[1]) in [part.value for part in parts(box, widgets.HTML)]
    assert len(parts(box, widgets.Button)) == len(ASPECTS) * len(CHOICES) + 1 and folded() == box.children[0].value


def test_by_keyboard(tmp_path):
    folder = study(tmp_path, count=1)
    box = rater(folder, "Ann")
    keys = parts(box, widgets.Text)[0]
    assert keys.continuous_update is False
    keys.value = "abc"
    note = parts(box, widgets.HTML)[-1]
    assert "three letters" in note.value and keys.value == ""
    keys.value = "abt"
    keys.value = "abt"  # the same again, of the next pair
    assert "Thank you" in parts(box, widgets.HTML)[1].value and "2 of 2" in note.value
    assert all(b.disabled for b in parts(box, widgets.Button)[:-1])
    with Store(folder) as store:
        assert sorted(given(store, "r1").values()) == ["A", "A", "B", "B", "tie", "tie"]
    keys.value = "back"
    keys.value = "ttt"
    with Store(folder) as store:
        assert sorted(given(store, "r1").values()) == ["A", "B", "tie", "tie", "tie", "tie"]


def test_the_name_is_asked_and_kept_inside(tmp_path):
    folder = study(tmp_path, raters=1)
    box = rater(folder)
    field = parts(box, widgets.Text)[0]
    button(box, "start").click()
    assert "needs a name" in parts(box, widgets.HTML)[-1].value
    field.value = "Ann Example"
    button(box, "start").click()
    assert field.value == "" and len(parts(box, widgets.Button)) == 10
    button(box, "empathy: A").click()
    assert not [part for part in parts(box, widgets.HTML) if "Ann" in part.value]
    box = rater(folder)
    parts(box, widgets.Text)[0].value = "Bob"
    button(box, "start").click()
    assert "taken" in parts(box, widgets.HTML)[-1].value
    with pytest.raises(UserError):
        rater(tmp_path)


def test_texts_are_escaped():
    text = pair_html(Pair(0, "p1", "Speaker: <script>x</script>\nListener: &", "<b>a</b>", ""))
    assert "<script>" not in text and "<b>a</b>" not in text and "&lt;b&gt;a&lt;/b&gt;" in text and "(no words)" in text
    assert "x&lt;/script&gt;<br>Listener: &amp;" in text


def test_export_is_label_studios_form(tmp_path):
    folder = study(tmp_path)
    with Store(folder) as store:
        take_seat(store, "Ann Example", "r2")
        Session(store, "r2").typed("abt")
        files = export(store, tmp_path / "out")
        sheet = store.sheet("r2")
    assert [path.name for path in files] == ["label_config.xml", *(f"tasks-r{i}.json" for i in (1, 2, 3))]
    root = ElementTree.fromstring(files[0].read_text())
    names = [part.get("name") for part in root.iter() if part.get("name")]
    assert len(set(names)) == len(names)
    claimed = [name for part in root.iter("Pairwise") for name in part.get("toName").split(",")]
    assert len(claimed) == len(set(claimed)) == 6 and set(claimed) < set(names)  # no two comparisons share a text
    loaded = json.loads(files[2].read_text())
    values = {part.get("value")[1:] for part in root.iter("Text")}
    assert all(values <= set(task["data"]) for task in loaded) and len(loaded) == 20
    assert [(t["data"]["pair"], t["data"]["reply_a"], t["data"]["reply_b"]) for t in loaded] == [
        (pair.pair, pair.a, pair.b) for pair in sheet
    ]
    (result,) = (task["annotations"][0]["result"] for task in loaded if "annotations" in task)
    assert [(r["type"], r["from_name"], *r["value"].values()) for r in result] == [
        ("pairwise", "empathy", "left"),
        ("pairwise", "relevance", "right"),
        ("choices", "fluency_tie", ["neither is better"]),
    ]
    kinds = {part.get("name"): part.tag.lower() for part in root.iter()}
    assert all(kinds[r["from_name"]] == r["type"] and r["to_name"] in names for r in result)
    box = next(part for part in root.iter("Choices") if part.get("name") == "fluency_tie")
    assert [choice.get("value") for choice in box] == result[2]["value"]["choices"]
    text = "".join(path.read_text() for path in files)
    assert not [word for word in ("Ann", OURS, *OTHERS, "mtrs", "ours", "theirs") if word in text]


def test_guidelines_are_escaped_in_xml(monkeypatch):
    monkeypatch.setattr("rd.human.export.guidelines", lambda: {"empathy": 'is a < b & "c"?'})
    header = ElementTree.fromstring(label_config()).findall("Header")[1]  # after what is to be done
    assert header.get("value") == 'empathy: is a < b & "c"?'


def test_nothing_rated_is_a_plain_task(tmp_path):
    with Store(study(tmp_path, count=2)) as store:
        assert all(set(task) == {"data"} for task in tasks(store, "r1"))


def labelled_study(tmp_path, change=lambda tasks: None):
    """(study, file as Label Studio exports it: r2 has rated one pair abt and skipped another)."""
    folder = study(tmp_path)
    with Store(folder) as store:
        exported = tasks(store, "r2")
    first = [
        {"type": "pairwise", "from_name": "empathy", "to_name": "empathy", "value": {"selected": "left"}},
        {"type": "pairwise", "from_name": "relevance", "to_name": "relevance", "value": {"selected": "right"}},
        {"type": "choices", "from_name": "fluency_tie", "to_name": "context", "value": {"choices": [TIE]}},
    ]
    results = [{"was_cancelled": False, "result": first}, {"was_cancelled": True, "result": first[:1]}]
    exported = [{"id": i, "annotations": results[i : i + 1], **task} for i, task in enumerate(exported)]
    change(exported)
    (tmp_path / "back.json").write_text(json.dumps(exported))
    return folder, tmp_path / "back.json"


def test_what_label_studio_exports_is_read(tmp_path):
    folder, file = labelled_study(tmp_path)
    with Store(folder) as store:
        first = store.sheet("r2")[0].pair
        assert read_sheet(file, store, "Ann") == {"new": 3, "known": 0, "empty": 57}
        assert given(store, "r2") == dict(zip([(first, aspect) for aspect in ASPECTS], CHOICES))
        assert read_sheet(file, store, "Ann")["known"] == 3


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t[0]["annotations"][0]["result"][2].update(from_name="empathy_tie"), "A and tie are both marked"),
        (lambda t: t[0]["annotations"].append(t[0]["annotations"][0]), "annotated 2 times"),
        (lambda t: t[0].pop("annotations"), "not JSON-MIN"),
        (lambda t: t[0]["data"].update(rater=1), "no string"),
        (lambda t: t[0]["annotations"][0]["result"][0]["value"].update(selected="up"), "not a task of rd human export"),
        (lambda t: t[0]["annotations"][0]["result"][2].update(from_name="tone_tie"), "'tone_tie'"),
        (lambda t: t[1]["data"].update(t[0]["data"]), "task 2: pair p.. stands in .*task 1 already"),
        (lambda t: t[0]["data"].update(reply_a="other"), "reply A is not the one"),
        (lambda t: t.clear(), "no list of tasks"),
    ],
)
def test_a_wrong_export_changes_nothing(tmp_path, change, what):
    folder, file = labelled_study(tmp_path, change)
    with Store(folder) as store:
        with pytest.raises(UserError, match=what):
            read_sheet(file, store, "Ann")
        assert not given(store, "r2")


def test_a_pair_rated_in_part_is_not_taken_for_done(tmp_path):
    with Store(study(tmp_path)) as store:
        Session(store, "r1").rate("empathy", "B")
        first = tasks(store, "r1")[0]
    assert "annotations" not in first and len(first["predictions"][0]["result"]) == 1


def test_the_command_line(tmp_path, capsys):
    data = corpus(tmp_path)
    runs = [str(run(tmp_path, name, data)) for name in (OURS, *OTHERS)]
    made = ["human", "make", *runs, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "s"), "--count", "5"]
    assert main(made) == 0 and "10 pairs" in capsys.readouterr().out
    for arguments, what in (
        (made, "lies here already"),
        (["human", "table", str(tmp_path / "s")], "nobody has rated"),
        (["human", "table", str(tmp_path / "nothing")], "no such file"),
        (["human", "export", str(tmp_path / "data" / "test.jsonl")], "not a database"),
        (["human", "read", str(tmp_path / "no.csv"), "--into", str(tmp_path / "s"), "--name", "Ann"], "no such file"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("rd: ") and told.count("\n") == 1 and what in told, told
    sheet = tmp_path / "s" / "sheet-r1.csv"
    sheet.write_text(sheet.read_text("utf-8-sig").replace(",,,\n", ",A,b,tie\n").replace(",,,\r\n", ",A,b,tie\r\n"))
    assert main(["human", "read", str(sheet), "--into", str(tmp_path / "s"), "--name", "Ann"]) == 0
    assert "new        30" in capsys.readouterr().out and len(COLUMNS) == 8
    assert main(["human", "table", str(tmp_path / "s")]) == 0
    assert "| mtrs-s0 | fluency | 0 |" in capsys.readouterr().out  # one of three has spoken: nothing is decided
    assert main(["human", "export", str(tmp_path / "s"), "--out", str(tmp_path / "x")]) == 0
    assert len(list((tmp_path / "x").iterdir())) == 4
