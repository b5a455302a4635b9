"""The judge and the supervisor against the fake server of the annotators' tests: both orders, misfortunes, refusals."""

import json
import re
from math import comb

import pytest
from human_study import study
from test_human_agreement import cast
from test_llm import client, fake  # noqa: F401
from test_llm import tiny as tiny_language_model  # noqa: F401

from rd.annotation.llm import Client, client_from_environment
from rd.cli import main
from rd.errors import UserError
from rd.human import judge
from rd.human.agreement import decisions, splits
from rd.human.guidelines import ASPECTS, filled, guidelines, judge_prompt
from rd.human.store import Store
from rd.human.verdict import verdict, write


def said(choice):
    return json.dumps({"choice": choice})


def shown(prompt):
    """The two replies of a question, first and second."""
    return re.findall(r"^Reply [AB]: (.*)$", prompt, re.M)


class Scripted:
    """A judge that follows a rule on the two replies it sees."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def __call__(self, prompt, schema):
        self.asked.append(prompt)
        return said(self.rule(*shown(prompt)))


def longer(a, b):
    return "tie" if len(a) == len(b) else "AB"[len(b) > len(a)]


def test_survives_the_swap():
    table = {"AB": "win", "BA": "lose", "AA": "tie", "BB": "tie", "At": "tie", "tA": "tie", "tt": "tie", "Bt": "tie"}
    names = {"A": "A", "B": "B", "t": "tie"}
    assert {pair: judge.survives(*(names[letter] for letter in pair)) for pair in table} == table
    assert judge.survives(None, "A") is None and judge.survives("A", None) is None


def test_both_orders_are_asked_and_a_real_preference_survives(tmp_path):
    with Store(study(tmp_path, count=4)) as store:
        rule = Scripted(longer)
        found = judge.ask(store, Client(rule, "m", None), judge.all_questions(store))
        assert len(rule.asked) == 2 * len(found) == 2 * 8 * len(ASPECTS)
        texts = {row["pair"]: row for row in store.rows("SELECT * FROM pairs")}
        for (pair, _), outcome in found.items():
            ours, theirs = len(texts[pair]["ours"]), len(texts[pair]["theirs"])
            assert outcome == ("tie" if ours == theirs else "win" if ours > theirs else "lose")
        for first, second in zip(rule.asked[::2], rule.asked[1::2]):
            assert shown(first) == shown(second)[::-1]
        for row in judge.measure(store, "m"):
            assert row["position"]["first"] == 0.5 and row["n"] == 4  # a preference for texts names each place once
        assert judge.combined(judge.answers(store, "nobody")).empty


def test_a_preference_for_a_place_is_no_win(tmp_path):
    folder = study(tmp_path, count=4, others=("mtrs-s0",))
    with Store(folder) as store:
        found = judge.ask(store, Client(Scripted(lambda a, b: "A"), "m", None), judge.all_questions(store))
        assert set(found.values()) == {"tie"}
        for row in judge.measure(store, "m"):
            assert row["position"]["first"] == 1 and row["position"]["p"] == pytest.approx(2 / 2**8)
            assert verdict(row) == "at chance, nothing survives the swap; names the first reply too often"
        text = write(store, "m", folder, {"asked": 24}, code="abc").read_text()
        assert text.count("swap; names the first reply too often") == 3
        held = json.loads((folder / "judge.json").read_text())
        assert held["provenance"]["judge"] == "m" and held["provenance"]["code"] == "abc" and len(held["rows"]) == 3


def test_position_by_counting():
    found = judge.position(["A"] * 7 + ["B"] * 2 + ["tie"] * 5 + [None])
    assert found["n"] == 9 and found["first"] == 7 / 9
    assert found["p"] == pytest.approx(2 * sum(comb(9, k) for k in (7, 8, 9)) / 2**9)
    assert judge.position(["tie", None]) == {"n": 0, "first": None, "p": None}


def test_verdicts():
    clear = {"share": 0.9, "p": 0.001}
    fair, lost = {"first": 0.5, "p": 1.0}, "at chance, nothing survives the swap"
    assert verdict({"sign_test": clear, "position": fair}) == "prefers ours"
    assert verdict({"sign_test": clear | {"share": 0.1}, "position": {"first": 0.2, "p": 0.01}}) == (
        "prefers theirs; names the second reply too often"
    )
    assert verdict({"sign_test": {"share": None, "p": None}, "position": {"first": None, "p": None}}) == lost
    assert verdict({"sign_test": {"share": 0.6, "p": 0.3}, "position": fair}) == "at chance"


def test_every_misfortune_is_outlived(fake, tmp_path):  # noqa: F811
    cache = tmp_path / "cache.jsonl"
    with Store(study(tmp_path)) as store:
        (question,) = judge.all_questions(store, 1)[:1]
        script = ("hang", (500, {}), (429, {"Retry-After": "7"}), '{"choice": "A', said("C"), said("A"), said("B"))
        one = client(fake, *script, cache=cache, timeout=2.0, tries=6)
        assert judge.ask(store, one, [question]) == {question: "win"}
        assert fake.slept == [1, 2, 7, 8, 16] and one.report["retried"] == 5
        again = client(fake, cache=cache)
        assert judge.ask(store, again, [question]) == {question: "win"} and again.report["cached"] == 2
        row = store.rows("SELECT * FROM pairs WHERE pair = ?", question[0])[0]
        held = cache.read_text()
        assert row["ours"] not in held and row["context"] not in held  # hashes and choices, no text


def test_refusals_are_recorded_and_no_vote(fake, tmp_path):  # noqa: F811
    cache = tmp_path / "cache.jsonl"
    with Store(study(tmp_path)) as store:
        questions = judge.all_questions(store, 1)[:2]
        script = ({"content": None, "refusal": "I would rather not."}, said("B"), (400, {}), said("B"))
        one = client(fake, *script, cache=cache)
        assert judge.ask(store, one, questions) == dict.fromkeys(questions)
        assert one.report["refused"] == one.report["gave_up"] == 1
        rows = judge.measure(store, "m")
        assert [(row["n"], row["unanswered"]) for row in rows] == [(0, 1), (0, 1)]
        outcomes = [json.loads(line)["outcome"] for line in cache.read_text().splitlines()]
        assert outcomes == ["refused", "answered", "gave_up", "answered"]
        later = client(fake, said("A"), cache=cache)  # what was given up is asked anew, a refusal is final
        assert judge.ask(store, later, questions) == {questions[0]: None, questions[1]: "win"}


def test_the_supervisor_settles_splits_and_nothing_else(tmp_path):
    with Store(study(tmp_path, count=4, others=("mtrs-s0",))) as store:
        cast(store, {"p1": "wwl", "p2": "wlt", "p3": "tlw", "p4": "lll"})
        rule = Scripted(longer)
        one = Client(rule, "m", None)
        assert judge.supervise(store, one) == {"splits": 6, "settled": 6} and len(rule.asked) == 12
        texts = {row["pair"]: row for row in store.rows("SELECT * FROM pairs")}
        asked = {frozenset(shown(prompt)) for prompt in rule.asked}
        assert asked == {frozenset((texts[p]["ours"], texts[p]["theirs"])) for p in ("p2", "p3")}
        assert judge.answers(store, "m").empty  # splits are no fair sample: they stay out of the judge's table
        assert not splits(store) and judge.supervise(store, one) == {"splits": 0, "settled": 0}
        assert list(decisions(store).query("aspect == 'empathy'")["by"]) == [
            "raters",
            "supervisor",
            "supervisor",
            "raters",
        ]


def test_agreement_with_people(tmp_path):
    with Store(study(tmp_path, count=6, others=("mtrs-s0",))) as store:
        found = judge.ask(store, Client(Scripted(longer), "m", None), judge.all_questions(store))
        letters = {"win": "w", "lose": "l", "tie": "t"}
        people = {pair: 3 * letters[outcome] for (pair, aspect), outcome in found.items() if aspect == "empathy"}
        people["p1"], people["p2"] = "wlt", "w"  # a split and an open one are nobody's decision
        cast(store, people)
        for row in judge.measure(store, "m"):
            assert row["human"] == {"n": 4, "agreement": 1.0, "kappa": 1.0}


def test_a_prompt_keeps_what_a_dialogue_says():
    prompt = judge_prompt("fluency", "Speaker: {a} {guideline} {x}", "{b}", "{context}")
    assert "Speaker: {a} {guideline} {x}" in prompt and shown(prompt) == ["{b}", "{context}"]
    assert guidelines()["fluency"] in prompt and guidelines()["empathy"] not in prompt and '{"choice": "A"}' in prompt
    with pytest.raises(KeyError):
        filled("{nobody}", {})


def test_a_local_model_judges(tiny_language_model, fake, monkeypatch, tmp_path, capsys):  # noqa: F811
    """Its weights are chance; constrained to the three choices it always answers."""
    monkeypatch.setenv("RD_LLM_MODEL", str(tiny_language_model))
    folder = study(tmp_path, count=3)
    assert main(["human", "judge", str(folder), "--count", "2", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert re.search(r"gave_up +0", told) and not fake.asked
    table = (tmp_path / "out" / "judge.csv").read_text().splitlines()
    assert table[0] == "pair,sample,opponent,aspect,ours_first,choice" and len(table) == 1 + 2 * 3 * 2
    assert all(line.rsplit(",", 1)[1] in ("A", "B", "tie") for line in table[1:])
    assert str(tmp_path) not in (tmp_path / "out" / "judge.json").read_text()  # no folder of this machine
    with Store(folder) as store:
        judge.ask(store, client_from_environment(folder / "cache.jsonl"), judge.all_questions(store, 2))
    assert main(["human", "judge", str(folder), "--count", "0"]) == 2
    monkeypatch.delenv("RD_LLM_MODEL")
    assert main(["human", "supervise", str(folder)]) == 2
    assert "RD_LLM_MODEL" in capsys.readouterr().err
    with pytest.raises(UserError, match="no such file"):
        Store(tmp_path / "out")
