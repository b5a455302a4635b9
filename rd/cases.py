"""Case studies (Tables 4 and 5): what every system says to contexts that a rule chooses, never a hand.

A table of cases holds ids, labels and our own replies. Of a corpus under licence the text of a context or of a gold
reply is looked up when the table is read: `rd.case_pages.with_text`, where the corpus lies on this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rd.answering import shareable
from rd.data.corpus import Corpus, Sample, samples
from rd.dynamics import by_chance, group, outcomes, read_records, wilson
from rd.errors import UserError
from rd.tables import in_order, printed_table, split_name

# The paper's own contexts in the test split. That of Table 4 is printed; of Table 5 (an image) App. B.2 says "hopeful
# after applying for graduate school", which one dialogue of the split is.
PAPER = {"the paper's Table 4": "hit:0_conv:0:2", "the paper's Table 5": "hit:4912_conv:9824:2"}
CONTEXT, GOLD = "Context", "Golden"
LICENSED = "the corpus' own text is not ours to pass on"
FREE = "mini"  # the corpus whose text may be passed on
COPIED = 6  # words in a row of its own context: no such reply is shown of a corpus under licence
COLUMNS = ["sample", "why", "said by", "emotion", "first", "final", "text", "withheld"]
RULE = "in the order of SHA-256 of 'seed:sample id', one of a dialogue"


def ranked(ids: Iterable[str], seed: int = 0) -> list[str]:
    """A shuffle that depends on seed and ids alone: not on their order, nor on which others there are."""
    return sorted(set(ids), key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name))


def choose(ids: Iterable[str], count: int, seed: int = 0, besides: Collection[str] = ()) -> list[str]:
    """The first `count` of `ranked`, one of a dialogue, and none of a dialogue of `besides`."""
    taken, found = {_dialogue(name) for name in besides}, []
    for name in ranked(ids, seed):
        if len(found) < count and _dialogue(name) not in taken:
            taken.add(_dialogue(name))
            found.append(name)
    return found


def _dialogue(sample: str) -> str:
    return sample.rpartition(":")[0]


def find_runs(folder: str | Path, seed: int = 0) -> list[Path]:
    """The run folders of a seed with replies, in the order of Table 2. Raises UserError where there is none."""
    found = {_model(path.parent): path.parent for path in Path(folder).glob(f"*-s{seed}/samples.jsonl")}
    if not found:
        raise UserError(f"{folder}: no run of seed {seed} with samples.jsonl; rd evaluate one first")
    return [found[name] for name in in_order(found, printed_table())]


def _model(run: Path) -> str:
    return split_name(run.name)[0]


def systems(runs: Sequence[Path], chosen: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """The records of each run under its name in the paper. Raises UserError for a run that answered another corpus."""
    names, found = printed_table()["system"], {}
    for run in runs:
        records = read_records(run)
        if records.keys().isdisjoint(sample.id for sample in chosen):
            raise UserError(f"{run}: none of its replies is to a sample of this corpus; give the corpus it answered")
        found[names.get(_model(run), _model(run))] = records
    return found


def said(why: str, sample: Sample, by: Mapping[str, Mapping[str, Any]], corpus: str) -> list[dict[str, Any]]:
    """The rows of one case: its context, every system's reply, the gold one; text None with a reason under withheld."""
    gold = {"emotion": sample.dialogue.emotion, "first": None, "final": None}
    texts = {CONTEXT: spoken(sample), GOLD: sample.target.text} if corpus == FREE else {}
    rows = [{"said by": CONTEXT, **gold, "text": texts.get(CONTEXT)}]
    for name, records in by.items():
        record = records.get(sample.id, {"withheld": "not among the samples that this run answered"})
        if record.get("reply") and corpus != FREE:
            record = _guarded(record, sample, corpus)
        named = {key: record.get(key) for key in ("emotion", "first", "final")}
        why_not = record.get("withheld") or "the reply is empty"
        rows.append({"said by": name, **named, "text": record.get("reply") or None, "withheld": why_not})
    rows.append({"said by": GOLD, **gold, "final": sample.target.intent, "text": texts.get(GOLD)})
    head = {"sample": sample.id, "why": why}
    return [head | {"withheld": LICENSED} | row | ({"withheld": None} if row["text"] else {}) for row in rows]


def spoken(sample: Sample) -> str:
    """A sample's context, a turn a line."""
    return "\n".join(turn.text for turn in sample.context)


def _guarded(record: Mapping[str, Any], sample: Sample, corpus: str) -> dict[str, Any]:
    """The record, without a reply that copies its own context."""
    heard = Corpus(corpus, {"heard": (replace(sample.dialogue, turns=sample.context),)}, {}, {})
    (kept,) = shareable([dict(record)], heard, COPIED)
    return kept if kept["reply"] else kept | {"withheld": f"repeats {COPIED} words in a row of its own context"}


def table4(
    by: Mapping[str, Mapping[str, Any]], corpus: Corpus, split: str = "test", seed: int = 0, count: int = 4
) -> tuple[pd.DataFrame, list[str]]:
    """The paper's context, where the split has it, and `count` more by the rule; and the notes that say so."""
    every = {sample.id: sample for sample in samples(corpus.splits[split])}
    own = {why: name for why, name in PAPER.items() if "4" in why and name in every}
    pool = set(every).intersection(*by.values())
    chosen = choose(pool, count, seed, PAPER.values())
    cases = [*own.items(), *(("by the rule", name) for name in chosen)]
    notes = [
        f"By the rule: the first {len(chosen)} of the {len(pool)} samples that every system answered, {RULE}, "
        f"seed {seed}; the paper's own contexts left out."
    ]
    if own:
        notes.append("The paper calls the emotion of its context 'terrified'; the corpus' label is the one shown.")
    rows = [row for why, name in cases for row in said(why, every[name], by, corpus.name)]
    return pd.DataFrame(rows, columns=COLUMNS), notes


def table5(
    run: Mapping[str, Any],
    by: Mapping[str, Mapping[str, Any]],
    corpus: Corpus,
    split: str = "test",
    seed: int = 0,
    each: int = 2,
) -> tuple[pd.DataFrame, list[str]]:
    """Emotion wrong: `each` samples that the second guess corrected, and as many that it broke; all of them counted.

    run: the records of the system that guesses twice. The paper's context comes first, where the split has it.
    """
    chosen = samples(corpus.splits[split])
    every = {sample.id: sample for sample in chosen}
    wrong = group(outcomes(run, chosen), "emotion wrong")
    pools = {fate: wrong.loc[wrong["fate"] == fate, "sample"].tolist() for fate in ("corrected", "broken")}
    shown = min(each, *map(len, pools.values()))
    cases = [(why, name) for why, name in PAPER.items() if "5" in why and name in every]
    for fate, pool in pools.items():
        cases += [(fate, name) for name in choose(pool, shown, seed, PAPER.values())]
    counted = "; ".join(f"{fate} {_share(len(pool), len(wrong))}" for fate, pool in pools.items())
    chance = by_chance(wrong, seed)
    notes = [
        f"Of {len(wrong)} samples whose emotion is named wrongly: {counted} (95 % Wilson). By chance "
        f"{chance['uniform']:.1f} would be corrected if the new intent were any of the other eight, "
        f"{chance['shuffled']:.1f} [{chance['low']:.0f}, {chance['high']:.0f}] if the new intents were dealt anew.",
        "corrected: first intent wrong, final right by the gold label; broken: the opposite. Shown of each: the first "
        f"{shown}, {RULE}, seed {seed}. As many of both, or the table would deceive.",
    ]
    if len(cases) > 2 * shown:
        notes.append("In the paper's context its model named 'joyful' and mended 'acknowledging' to 'encouraging'.")
    rows = [row for why, name in cases for row in said(why, every[name], by, corpus.name)]
    return pd.DataFrame(rows, columns=COLUMNS), notes


def _share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{hits} ({100 * hits / n:.1f} % [{low:.1f}, {high:.1f}])" if n else f"{hits}"
