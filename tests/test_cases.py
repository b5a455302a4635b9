"""Cases: the rule is the rule, nothing of a corpus under licence is written, and texts cannot break out of a page."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_up import dialogues

from rd.case_pages import shown, styled, with_text, write_cases
from rd.cases import CONTEXT, GOLD, PAPER, choose, find_runs, ranked, said, systems, table4, table5
from rd.data.corpus import Corpus, Dialogue, Turn, read_corpus, samples
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS

IDS = [f"d{i}:{turn}" for i in range(40) for turn in (2, 4)]
SPOKEN = "my cat sat on the old red roof of the barn all night"
PAPERS = tuple(
    Dialogue(name.rpartition(":")[0], "guilty", "", (Turn(f"{SPOKEN} and {i}"), Turn("poor cat", intent="consoling")))
    for i, name in enumerate(PAPER.values())
)


def corpus(name: str = "empathetic_dialogues") -> Corpus:
    """Made-up dialogues, each turn with words of its own, under the ids of a corpus that is under licence."""
    made = []
    for d in dialogues(50):
        turns = tuple(replace(t, text=f"{t.text} as told in {d.id} at {i}") for i, t in enumerate(d.turns))
        made.append(replace(d, turns=turns))
    return Corpus(name, {"test": (*PAPERS, *made)}, {}, {})


def records(given: Corpus, seed: int, twice: bool = False) -> list[dict]:
    """What a system said: to some nothing, to one what it has just heard, of one it is withheld."""
    chance, rows = random.Random(seed), []
    for i, sample in enumerate(samples(given.splits["test"])):
        row = {"id": sample.id, "reply": f"i see <b>{seed}</b>", "emotion": chance.choice(EMOTIONS[:4])}
        if twice:
            first, final = chance.choices(INTENTS[:3], k=2)
            row |= {"first": first, "final": final}
        if i % 3 == 0:
            row |= {"reply": f"you say {sample.context[-1].text}"}
        if i % 5 == 1:
            row |= {"reply": None, "withheld": "repeats 10 words in a row of the corpus"}
        rows.append(row)
    return rows


@pytest.fixture
def results(tmp_path: Path) -> Path:
    given = corpus()
    for seed, name in enumerate(("reflectdiffu", "transformer", "cab", "mtrs")):
        run = tmp_path / f"{name}-s0"
        run.mkdir()
        rows = records(given, seed, name == "reflectdiffu")
        rows = rows[::2] if name == "transformer" else rows[::-1]  # one answered half, the others in another order
        (run / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def by(results: Path, order: int = 1) -> dict:
    return systems(find_runs(results)[::order], samples(corpus().splits["test"]))


def grams(text: str, n: int = 6) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_the_order_depends_on_seed_and_id_alone():
    mixed = random.Random(1).sample(IDS, len(IDS))
    assert ranked(IDS) == ranked(mixed) != ranked(IDS, seed=1) and sorted(ranked(IDS)) == sorted(IDS)
    assert ranked(mixed[:20]) == [name for name in ranked(IDS) if name in mixed[:20]]
    assert ranked(IDS) != sorted(IDS)


def test_one_of_a_dialogue_and_none_of_those_shown_already():
    found = choose(IDS, 10, besides=["d3:2"])
    assert len({name.split(":")[0] for name in found}) == len(found) == 10
    assert not any(name.startswith("d3:") for name in choose(IDS, 99, besides=["d3:2"]))
    assert choose(IDS, 5, besides=["d3:2"]) == found[:5]


def test_runs_stand_in_the_papers_order(results):
    assert [run.name for run in find_runs(results)] == ["transformer-s0", "mtrs-s0", "cab-s0", "reflectdiffu-s0"]
    assert list(by(results)) == ["transformer", "MTRS", "CAB", "ReflectDiffu"]
    with pytest.raises(UserError, match="no run of seed 3"):
        find_runs(results, seed=3)


def test_table_4_is_the_papers_context_and_those_that_all_answered(results):
    given = corpus()
    table, notes = table4(by(results), given, count=3)
    assert table["sample"].iloc[0] == PAPER["the paper's Table 4"]
    answered = [
        {json.loads(line)["id"] for line in (run / "samples.jsonl").read_text().splitlines()}
        for run in find_runs(results)
    ]
    pool = {s.id for s in samples(given.splits["test"]) if all(s.id in ids for ids in answered)}
    asked = [name for name in ranked(pool) if name not in PAPER.values()]
    by_rule = list(dict.fromkeys(table.loc[table["why"] == "by the rule", "sample"]))
    assert by_rule == choose(asked, 3) and f"of the {len(pool)} samples" in notes[0]
    assert list(table.groupby("sample", sort=False).size()) == [6, 6, 6, 6]
    again, _ = table4(by(results, order=-1), given, count=3)
    assert set(again["sample"]) == set(table["sample"])


def test_table_5_shows_as_many_broken_as_corrected(results):
    given, every = corpus(), by(results)
    run = every["ReflectDiffu"]
    table, notes = table5(run, every, given, each=3)
    pools = {"corrected": [], "broken": []}
    wrong = 0
    for sample in samples(given.splits["test"]):
        row, gold = run[sample.id], sample.target.intent
        if row["emotion"] != sample.dialogue.emotion:
            wrong += 1
            if row["first"] != row["final"] and gold in (row["first"], row["final"]):
                pools["corrected" if row["final"] == gold else "broken"].append(sample.id)
    assert min(map(len, pools.values())) >= 3
    for fate, pool in pools.items():
        assert list(dict.fromkeys(table.loc[table["why"] == fate, "sample"])) == choose(pool, 3, 0, PAPER.values())
        assert f"{fate} {len(pool)} ({100 * len(pool) / wrong:.1f} %" in notes[0]
    fewer, _ = table5(run, every, given, each=99)
    shown_ = fewer.drop_duplicates("sample")["why"].value_counts()
    assert shown_["corrected"] == shown_["broken"]


def test_nothing_of_a_licensed_corpus_is_written(results):
    given = corpus()
    paths = write_cases(results, given)
    assert [path.name for path in paths] == ["table4.md", "table5.md"]
    texts = {turn.text for dialogue in given.splits["test"] for turn in dialogue.turns}
    held = set().union(*(grams(text) for text in texts))
    files = [path for path in (results / "tables").iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".csv", ".md", ".tex", ".json"}
    for path in files:
        assert held.isdisjoint(grams(path.read_text())), path.name
    said = paths[0].read_text()
    assert "6 words in a row of its own context" in said and "10 words in a row" in said
    assert "not among the samples" in paths[1].read_text()


def test_a_reply_that_copies_any_turn_of_its_context_is_not_shown():
    heard = [f"{SPOKEN} and {what}" for what in ("left", "came", "sat")]
    sample = samples([Dialogue("a", "sad", "", (*map(Turn, heard), Turn("oh")))])[1]
    for i, text in enumerate(heard):
        copied = " ".join(text.split()[-6:])
        by_two = {"x": {sample.id: {"reply": copied}}, "y": {sample.id: {"reply": copied.split(maxsplit=1)[1]}}}
        copying, five_words = said("", sample, by_two, "empathetic_dialogues")[1:3]
        assert copying["text"] is None and "own context" in copying["withheld"], i
        assert five_words["text"] and five_words["withheld"] is None
        assert said("", sample, by_two, "mini")[1]["text"] == copied


def test_the_mini_corpus_is_written_in_full(results):
    given = corpus("mini")
    write_cases(results, given)
    text = (results / "tables" / "table4.csv").read_text()
    assert SPOKEN in text and "own context" not in text and "poor cat" in text


def test_text_comes_back_by_id(results):
    given = corpus()
    write_cases(results, given)
    read = pd.read_csv(results / "tables" / "table5.csv")
    full = with_text(read, given)
    every = {sample.id: sample for sample in samples(given.splits["test"])}
    for row in full.to_dict("records"):
        if row["said by"] == CONTEXT:
            assert row["text"].split("\n") == [turn.text for turn in every[row["sample"]].context]
        if row["said by"] == GOLD:
            assert row["text"] == every[row["sample"]].target.text
    ours = ~read["said by"].isin((CONTEXT, GOLD))
    pd.testing.assert_series_equal(full.loc[ours, "text"], read.loc[ours, "text"].astype(object), check_dtype=False)
    with pytest.raises(UserError, match="not in this corpus"):
        with_text(read, read_corpus(None))


def test_a_gap_says_why_and_intents_are_judged(results):
    table, _ = table5(by(results)["ReflectDiffu"], by(results), corpus(), each=1)
    seen = shown(table)
    assert seen["text"].str.len().min() > 0 and not seen["text"].str.contains("None|nan").any()
    start = seen.index[seen["case"].str.endswith("corrected")][0]
    case = seen.iloc[start : start + 6].set_index("said by")
    assert re.fullmatch(r"\w+ \(wrong\) → \w+ \(right\)", case.loc["ReflectDiffu", "intent"])
    assert case.loc["ReflectDiffu", "intent"].split()[-2] == case.loc[GOLD, "intent"]
    assert case.loc["CAB", "intent"] == "–" and list(case["case"].iloc[1:]) == [""] * 5


def test_texts_are_escaped_and_reasons_marked():
    turns = (Turn("I <i>lost</i> my cat & cried", ((21, 28),)), Turn("<script>oh</script>", intent="consoling"))
    given = Corpus("empathetic_dialogues", {"test": (Dialogue("a", "sad", "", turns),)}, {}, {})
    said = {"<u>x</u>": {"a:2": {"id": "a:2", "reply": "so <b>sorry</b>"}}}
    page = styled(table4(said, given)[0], given).to_html()
    assert "&lt;i&gt;lost&lt;/i&gt;" in page and "so &lt;b&gt;sorry&lt;/b&gt;" in page and "&lt;u&gt;x" in page
    assert not re.search(r"<(script|i|b|u)>", page.replace("<b></b>", ""))
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", page) == ["&amp; cried"]


def test_a_run_that_answered_another_corpus_is_refused(results):
    with pytest.raises(UserError, match="the corpus it answered"):
        systems(find_runs(results), samples(read_corpus(None).splits["test"]))
