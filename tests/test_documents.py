"""The documents: links lead somewhere, marked numbers are those of the bundled data, CONTRIBUTING's baseline is one."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import made_up
import nbformat
import pytest
import test_contract
from test_floors import faults

from rd.data.corpus import SPLITS, bundled, read_corpus
from rd.data.join import Label, read_labels
from rd.labels import INTENTS
from rd.run import MODELS
from rd.tables import COLUMNS, cell, printed_table

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("papers", "rd", "results", "benchmarks", "tests", "notebooks", "workflow")
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.md"))})
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PAPER = ROOT / "results" / "paper"


# --- links ------------------------------------------------------------------------------------------------------------


def prose(path: Path) -> str:
    """A document's text, or a notebook's prose cells, without code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text("utf-8")
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in found}


def dead_links(path: Path, text: str) -> list[str]:
    """Links of `text`, written in the file `path`, that lead to no file or to no heading of a document."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):  # https:, mailto:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    assert dead_links(path, prose(path)) == []


def test_dead_links_are_found() -> None:
    text = "[a](README.md) [b](papers/none.md) [c](papers/errata.md#tables-and-claims) [d](papers/errata.md#no) <x>"
    assert dead_links(ROOT / "README.md", text) == ["papers/none.md", "papers/errata.md#no"]


# --- numbers ----------------------------------------------------------------------------------------------------------

Table = list[list[str]]


def share(part: float, whole: float) -> str:
    """Per cent, one digit."""
    return f"{100 * part / whole:.1f}"


def labels() -> dict[str, list[list[Label]]]:
    """The bundled label files, conversation by conversation."""
    return {split: list(read_labels(bundled("annotations") / f"{split}.jsonl").values()) for split in SPLITS}


def label_files() -> Table:
    rows = [["file", "conversations", "speaker turns", "of them without a reason", "phrases", "listener turns"]]
    for split, conversations in labels().items():
        turns = [turn for turns in conversations for turn in turns]
        reasons = [turn.reasons for turn in turns if turn.reasons is not None]
        counts = len(conversations), len(reasons), sum(not spans for spans in reasons), sum(map(len, reasons))
        rows.append([f"{split}.jsonl", *(f"{n:,}" for n in (*counts, len(turns) - len(reasons)))])
    return rows


def intents(counts: dict[str, Counter[str]]) -> Table:
    rows = [["intent", *(f"{name}, %" for name in counts)]]
    return rows + [[intent, *(share(c[intent], c.total()) for c in counts.values())] for intent in INTENTS]


def label_intents() -> Table:
    return intents({s: Counter(t.intent for turns in c for t in turns if t.intent) for s, c in labels().items()})


def mini() -> Table:
    rows = [["split", "dialogues", "per emotion", "turns", "words", "reason phrases", "listener turns with an intent"]]
    splits = read_corpus().splits
    for name, dialogues in [*splits.items(), ("all", [d for part in splits.values() for d in part])]:
        turns = [turn for dialogue in dialogues for turn in dialogue.turns]
        (per_emotion,) = set(Counter(dialogue.emotion for dialogue in dialogues).values())
        words = sum(len(turn.text.split()) for turn in turns)
        phrases = sum(len(turn.reasons or ()) for turn in turns)
        named = sum(turn.intent is not None for turn in turns)
        rows.append([name, *(f"{n:,}" for n in (len(dialogues), per_emotion, len(turns), words, phrases, named))])
    return rows


def mini_intents() -> Table:
    turns = [turn for dialogues in read_corpus().splits.values() for d in dialogues for turn in d.turns]
    return intents({"mini": Counter(turn.intent for turn in turns if turn.intent)})


def measured() -> Table:
    names = {"ReflectDiffu": "reflectdiffu-s0", "plain transformer": "transformer-long-s0"}
    found = [json.loads((PAPER / run / "metrics.json").read_text()) for run in names.values()]
    steps = [json.loads((PAPER / run / "machine.json").read_text())["steps"] for run in names.values()]
    heads = [f"{name}, {count:,} steps" for name, count in zip(names, steps, strict=True)]
    rows = [[f"on {found[0]['n']:,} test samples", *heads, "the paper's ReflectDiffu"]]
    printed = printed_table().loc["reflectdiffu"]
    for key, (heading, column) in COLUMNS.items():
        if key != "bertscore_f1":
            rows.append([heading, *(cell([run.get(key)]) for run in found), cell([printed[column]])])
    for heading, key in (("first guess", "acc_intent_first"), ("commonest intent", "acc_intent_majority")):
        rows.append([f"Acc intent, {heading} alone", cell([found[0][key]]), "–", "–"])
    return rows


def annotators() -> Table:
    rows = [["on gold test turns", "turns", "measure", "value"]]
    era, tagger, predictor = (
        json.loads((PAPER / "annotators" / name / "metrics.json").read_text())["test"]
        for name in ("era", "tagger", "predictor")
    )
    for key in ("precision", "recall", "f1", "phrase_f1"):
        rows.append(["ERA: reason words", f"{era['n']:,}", key.replace("_", " "), f"{era[key]:.3f}"])
    for name, found in (("intent of a given reply", tagger), ("intent of the reply to come", predictor)):
        rows += [[name, f"{found['n']:,}", key, f"{found[key]:.3f}"] for key in ("accuracy", "kappa")]
    return rows


def second_guess() -> Table:
    """How the second guess fared on test, from the committed samples and gold labels."""
    files = read_labels(bundled("annotations") / "test.jsonl")
    gold = {f"{key}:{turn.index}": turn.intent for key, turns in files.items() for turn in turns}
    lines = (PAPER / "reflectdiffu-s0" / "samples.jsonl").read_text("utf-8").splitlines()
    right = [(row["first"] == gold[row["id"]], row["final"] == gold[row["id"]]) for row in map(json.loads, lines)]
    kept = sum(row["first"] == row["final"] for row in map(json.loads, lines))
    rows = {
        "the first guess is kept": kept,
        "the first guess is right": sum(a for a, _ in right),
        "the final intent is right": sum(b for _, b in right),
        "mended: first wrong, final right": sum(b and not a for a, b in right),
        "broken: first right, final wrong": sum(a and not b for a, b in right),
    }
    found = [[what, f"{n:,}", share(n, len(right))] for what, n in rows.items()]
    return [[f"of {len(right):,} test samples", "samples", "%"], *found]


def gains() -> Table:
    """The gains that Sec. 5 states, computed from the paper's own Table 2."""
    table = printed_table()
    rows = [["column", "over CAB, %", "the paper says", "over Llama-3.1-8B, %", "the paper says"]]
    said = {
        "bleu_1": ("16.6", "–"),
        "bleu_2": ("20", "–"),
        "bleu_3": ("8.1", "1.90"),
        "bleu_4": ("20.3", "4.32"),
        "bartscore_column": ("4.6", "2.73"),
        "acc_emo": ("20.3", "130.54"),
        "acc_intent": ("–", "150.94"),
        "ppl": ("30.1", "–"),
        "dist_1": ('10.1 ("Distinct-2")', "6.52"),
        "dist_2": ("47.4", "5.32"),
    }
    for key, (cab, llama) in said.items():
        ours, sign = table.loc["reflectdiffu", key], -1 if key == "ppl" else 1
        gain = {name: sign * 100 * (ours / table.loc[name, key] - 1) for name in ("cab", "llama-3.1-8b-cot")}
        cells = [f"{value:.2f}" if value == value else "–" for value in gain.values()]
        rows.append([key.replace("_column", ""), cells[0], cab, cells[1], llama])
    return rows


COUNTED = {
    "label files": ("datasheet.md", label_files),
    "label intents": ("datasheet.md", label_intents),
    "mini": ("datasheet.md", mini),
    "mini intents": ("datasheet.md", mini_intents),
    "measured": ("model_card.md", measured),
    "annotators": ("model_card.md", annotators),
    "second guess": ("replication.md", second_guess),
    "gains": ("replication.md", gains),
}


def counted(text: str) -> Iterator[tuple[str, str]]:
    """(name, table) of each block <!-- counted: name --> ... <!-- /counted -->."""
    yield from re.findall(r"<!-- counted: (.+?) -->\n(.*?)\n<!-- /counted -->", text, re.S)


def markdown(rows: Sequence[Iterable[str]]) -> str:
    """A GitHub table."""
    head, *body = [list(row) for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body))


@pytest.mark.parametrize("name", COUNTED)
def test_marked_numbers_are_those_of_the_data(name: str) -> None:
    file, count = COUNTED[name]
    assert dict(counted((ROOT / "papers" / file).read_text("utf-8")))[name] == markdown(count())


def test_every_marked_table_is_checked() -> None:
    found = [(name, path.name) for path in DOCUMENTS for name, _ in counted(path.read_text("utf-8"))]
    assert sorted(found) == sorted((name, file) for name, (file, _) in COUNTED.items())


# --- the example of CONTRIBUTING --------------------------------------------------------------------------------------

EXAMPLES = dict(re.findall(r"<!-- example: (.+?) -->\n```python\n(.*?)```", CONTRIBUTING, re.S))
SOURCE = EXAMPLES["rd/baselines/bag.py"]
RULES = [
    rule
    for name, rule in vars(test_contract).items()
    if name.startswith("test_") and test_contract.EVERY.mark in getattr(rule, "pytestmark", ())
]


def enter(monkeypatch: pytest.MonkeyPatch, source: str = SOURCE) -> None:
    """The example's lines of code and of both tables, as if they stood in the project."""
    module: dict = {"__name__": "rd.baselines.bag"}
    exec(compile(source, "rd/baselines/bag.py", "exec"), module)
    for name, table in (("MODELS", MODELS), ("CASES", made_up.CASES)):
        for key, value in eval("{" + EXAMPLES[name] + "}", module).items():
            monkeypatch.setitem(table, key, value)


def test_the_example_is_in_form(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults("baselines", SOURCE) == []
    assert max(map(len, SOURCE.splitlines())) <= 120
    enter(monkeypatch)
    test_contract.test_every_model_is_under_contract()
    assert len(RULES) >= 9, "the contract is empty: this test would see nothing"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_example_keeps_the_contract(rule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    enter(monkeypatch)
    given = {"case": "bag", "tied": True, "monkeypatch": monkeypatch, "tmp_path": tmp_path}
    rule(**{name: given[name] for name in inspect.signature(rule).parameters})


def test_a_mean_over_padding_breaks_the_contract_as_contributing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    masked = "(words * there).sum(1) / there.sum(1).clamp_min(1.0)"
    assert SOURCE.count(masked) == 1
    enter(monkeypatch, SOURCE.replace(masked, "words.mean(1)"))
    with pytest.raises(AssertionError):
        test_contract.test_padding_changes_nothing("bag")
