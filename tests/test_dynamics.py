"""What the second guess did: counts by a loop, intervals by their equation, chance by dealing every deal."""

from __future__ import annotations

import json
import random
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from made_up import dialogues

from rd.data.corpus import Dialogue, Sample, Turn, samples
from rd.dynamics import (
    by_chance,
    by_emotion,
    counts,
    gain,
    group,
    outcomes,
    read_records,
    summary,
    transition_rows,
    transitions,
    wilson,
)
from rd.dynamics_figures import draw_chance, draw_emotions, draw_selection, draw_transitions, write_dynamics
from rd.errors import UserError
from rd.labels import EMOTIONS, INTENTS

LABELS = INTENTS[:3]  # few, so that guesses often meet


def made(count: int = 60, seed: int = 0) -> tuple[list[Sample], dict[str, dict]]:
    """Samples with gold intents out of three, and a run's records that guess at random."""
    chance = random.Random(seed)
    chosen = []
    for dialogue in dialogues(count, seed):
        turns = tuple(
            Turn(turn.text, intent=chance.choice(LABELS) if i % 2 else None) for i, turn in enumerate(dialogue.turns)
        )
        chosen += samples([Dialogue(dialogue.id, dialogue.emotion, "", turns)])
    records = {}
    for sample in chosen:
        first = chance.choice(LABELS)
        final = first if chance.random() < 0.5 else chance.choice(LABELS)
        named = {"emotion": chance.choice(EMOTIONS[:4]), "first": first, "final": final}
        records[sample.id] = {"id": sample.id, "reply": "oh", **named}
    return chosen, records


def frame_of(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    """(gold, first, final) of samples of one dialogue each, emotion always named wrongly."""
    chosen = [
        Sample(f"d{i}:2", Dialogue(f"d{i}", "sad", "", (Turn("a"), Turn("b", intent=gold))), 1)
        for i, (gold, _, _) in enumerate(rows)
    ]
    records = {
        f"d{i}:2": {"emotion": "proud", "first": first, "final": final} for i, (_, first, final) in enumerate(rows)
    }
    return outcomes(records, chosen)


def test_fates_against_a_loop():
    chosen, records = made()
    frame = outcomes(records, chosen)
    tally = dict.fromkeys(("kept right", "kept wrong", "corrected", "broken", "moved, wrong still"), 0)
    felt = {True: 0, False: 0}
    for sample in chosen:
        gold, record = sample.target.intent, records[sample.id]
        if record["first"] == record["final"]:
            tally["kept right" if record["first"] == gold else "kept wrong"] += 1
        elif record["final"] == gold:
            tally["corrected"] += 1
        else:
            tally["broken" if record["first"] == gold else "moved, wrong still"] += 1
        felt[record["emotion"] == sample.dialogue.emotion] += 1
    assert counts(frame) == tally and min(tally.values()) > 0
    assert (len(group(frame, "emotion right")), len(group(frame, "emotion wrong"))) == (felt[True], felt[False])
    assert len(group(frame, "all")) == len(chosen) == len(frame)


def test_each_emotion_and_each_transition_against_a_loop():
    chosen, records = made()
    frame = outcomes(records, chosen)
    table = by_emotion(frame).set_index("emotion")
    for emotion in {sample.dialogue.emotion for sample in chosen}:
        of = [s for s in chosen if s.dialogue.emotion == emotion]
        mended = [s for s in of if records[s.id]["first"] != s.target.intent == records[s.id]["final"]]
        row = table.loc[emotion]
        assert (row["n"], row["corrected"]) == (len(of), len(mended))
        assert row["corrected %"] == pytest.approx(100 * len(mended) / len(of))
        assert row["recognised"] == sum(records[s.id]["emotion"] == emotion for s in of)
    moves = transitions(frame)
    for first in INTENTS:
        for final in INTENTS:
            assert moves.loc[first, final] == sum((r["first"], r["final"]) == (first, final) for r in records.values())
    rows = transition_rows(frame)
    assert rows["n"].sum() == len(chosen)
    assert rows["final right"].sum() == sum(records[s.id]["final"] == s.target.intent for s in chosen)


@pytest.mark.parametrize(("hits", "n"), [(0, 9), (3, 7), (31, 2722), (5, 5)])
def test_wilson_solves_its_equation(hits: int, n: int):
    """The ends are where (share - x)^2 = z^2 x (1 - x) / n."""
    z, share = 1.959963984540054, hits / n
    roots = np.sort(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]).real)
    assert wilson(hits, n) == pytest.approx(tuple(100 * roots), abs=1e-6)
    assert np.isnan(wilson(0, 0)).all()


def test_chance_against_every_deal():
    q, a, c, e = INTENTS[0], INTENTS[1], INTENTS[2], INTENTS[4]
    rows = [(a, q, a), (c, q, a), (q, q, c), (a, q, c), (e, q, e), (c, a, c), (q, a, c), (q, q, q), (e, e, e)]
    found = by_chance(frame_of(rows), shuffles=20_000)
    from_q, from_a = ([row for row in rows if row[1] == first != row[2]] for first in (q, a))
    deals = [
        sum(gold == final for (gold, _, _), final in zip(from_q + from_a, (*one, *two), strict=True))
        for one in permutations([final for _, _, final in from_q])
        for two in permutations([final for _, _, final in from_a])
    ]
    assert found["shuffled"] == pytest.approx(np.mean(deals))
    assert (found["low"], found["high"]) == tuple(np.quantile(deals, [0.025, 0.975]))
    mended = sum(first != gold == final for gold, first, final in rows)
    assert found["p"] == pytest.approx(np.mean(np.array(deals) >= mended), abs=0.02)
    assert found["uniform"] == sum(first not in (gold, final) for gold, first, final in rows) / 8
    assert found["broken"] == pytest.approx(7 * 3 / 9)  # seven moved; three of nine were right at first


def test_the_gain_is_corrected_minus_broken():
    frame = outcomes(*reversed(made()))
    found = counts(frame)
    assert gain(frame)["difference"] == pytest.approx(100 * (found["corrected"] - found["broken"]) / len(frame))
    row = summary(frame).iloc[0]
    assert row["gain"] == pytest.approx(row["final right %"] - row["first right %"])
    assert row["gain low"] <= row["gain"] <= row["gain high"]
    assert row["corrected of both %"] == pytest.approx(
        100 * found["corrected"] / (found["corrected"] + found["broken"])
    )


def test_summary_speaks_of_the_groups_there_are():
    assert list(summary(frame_of([("neutral", "wishing", "neutral")]))["samples"]) == ["all", "emotion wrong"]
    chosen, records = made(8)
    bare = [Sample(s.id, Dialogue(s.dialogue.id, None, "", s.dialogue.turns), s.turn) for s in chosen]
    frame = outcomes(records, bare)
    assert list(summary(frame)["samples"]) == ["all"] and by_emotion(frame).empty
    assert transition_rows(frame)["n"].sum() == len(bare)
    assert len(draw_transitions(frame).axes) == 1


def test_figures_show_the_counts():
    frame = outcomes(*reversed(made()))
    right, wrong = draw_transitions(frame).axes
    moved = [part for part in (group(frame, "emotion right"), group(frame, "emotion wrong"))]
    for ax, part in zip((right, wrong), moved, strict=True):
        numbers = [int(text.get_text()) for text in ax.texts if text.get_text() not in ("", "·")]
        assert sum(numbers) == (part["first"] != part["final"]).sum()
    table = by_emotion(frame)
    bars = [patch.get_width() for patch in draw_emotions(table).axes[0].patches]
    assert sorted(bars) == pytest.approx(sorted([*(-table["broken %"]), *table["corrected %"]]))
    heights = [patch.get_height() for patch in draw_chance(frame).axes[0].patches]
    found, luck = counts(frame), by_chance(frame)
    assert heights == [found["corrected"], luck["shuffled"], luck["uniform"], found["broken"], luck["broken"]]
    change = [int(text.get_text() or 0) for text in draw_selection(frame).axes[0].texts]
    assert sum(change) == 0 and sum(map(abs, change)) > 0


def test_runs_that_cannot_be_judged_are_refused_in_one_line(tmp_path):
    chosen, records = made(4)
    with pytest.raises(UserError, match="no first and final intent"):
        outcomes({key: {"id": key, "reply": "oh", "final": "neutral"} for key in records}, chosen)
    with pytest.raises(UserError, match="its own corpus"):
        outcomes({f"other {key}": record for key, record in records.items()}, chosen)
    with pytest.raises(UserError, match="rd evaluate"):
        read_records(tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"samples.jsonl:1"):
        read_records(tmp_path)


def test_what_is_written_repeats_and_holds_no_text(tmp_path):
    chosen, records = made()
    run = tmp_path / "reflectdiffu-s0"
    run.mkdir()
    lines = [json.dumps(record) for record in records.values()]
    for folder, order in (("one", lines), ("two", lines[::-1])):
        (run / "samples.jsonl").write_text("\n".join(order) + "\n")
        paths = write_dynamics(tmp_path / folder, run, chosen)
    assert {path.name for path in paths} >= {"dynamics.md", "dynamics_emotions.md", "dynamics_transitions.md"}
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / side).rglob("*.*") if path.is_file()}
        for side in ("one", "two")
    )
    assert first == second and {name.split(".")[1] for name in first} == {"csv", "md", "tex", "json", "svg"}
    words = [turn.text for sample in chosen for turn in sample.context if len(turn.text.split()) > 3]
    assert not any(text.encode() in data for text in words for data in first.values())
