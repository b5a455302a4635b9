"""metrics.json of a language model's answers: the keys of the other runs, and what could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rd.annotation.annotations import Tagger
from rd.data.batch import UNLABELLED
from rd.data.corpus import Corpus, Sample, samples
from rd.data.text import normalise
from rd.evaluation import NEURAL, emotion_scores
from rd.intent_accuracy import next_intent, reply_intent
from rd.labels import EMOTIONS, INTENTS
from rd.llm.answers import Record
from rd.metrics import load_metric, perplexity


def measure(
    records: Sequence[Record],
    asked: Sequence[Sample],
    corpus: Corpus,
    split: str,
    seed: int,
    tagger: Tagger | None = None,
) -> dict[str, Any]:
    """metrics.json without its provenance: the keys of the other runs, and `unparsed`, answers in no form.

    Such an answer is never dropped: its reply is empty, its emotion and intent count as wrong.
    """
    local, whole = "nll" in records[0], len(samples(corpus.splits[split]))
    scores = load_metric().compute(
        predictions=[record["reply"] for record in records], references=[normalise(s.target.text) for s in asked]
    )
    notes = scores.pop("notes", {})
    if len(asked) < whole:
        notes["n"] = f"the first {len(asked)} of a permutation of the {whole} samples drawn with seed {seed}"
    found = {**scores, "unparsed": sum(record["emotion"] is None for record in records)}
    if local:
        found |= perplexity([r["nll"] for r in records], [r["words"] for r in records])
        found["unk_rate"] = 100 * sum(r["unknown"] for r in records) / sum(r["pieces"] for r in records)
        notes["ppl"] = "a word: subwords summed, the end mark counted; the reply in the protocol's form"
    else:
        found |= dict.fromkeys(("ppl", "ppl_micro", "unk_rate"))
        notes |= dict.fromkeys(("ppl", "ppl_micro", "unk_rate"), "a server tells no likelihood of the gold reply")
    rows = {"final": np.array([_intent_row(r, s) for r, s in zip(records, asked)])}
    replies = [record["reply"] for record in records]
    for values, reasons in (
        _emotion_scores(records, asked),
        next_intent(rows, corpus, split, asked),
        reply_intent(rows, replies, corpus, split, tagger, asked),
        (dict.fromkeys(NEURAL), {key: f"needs {name}; not computed for this run" for key, name in NEURAL.items()}),
    ):
        found |= values
        notes |= reasons
    if not local:
        found["acc_intent_top3"], notes["acc_intent_top3"] = None, "a server names one intent"
    return {**found, "notes": notes}


def _wrong(label: str | None, among: Sequence[str]) -> int:
    """A label that is not the gold one: what an answer in no form counts as."""
    return int(label == among[0])


def _intent_row(record: Record, sample: Sample) -> list[float]:
    """Scores (I,) of the nine intents: log-likelihoods where they are known, else one for the named intent."""
    if "intents" in record:
        return record["intents"]
    named = INTENTS.index(record["intent"]) if record["intent"] else _wrong(sample.target.intent, INTENTS)
    return [float(i == named) for i in range(len(INTENTS))]


def _emotion_scores(records: Sequence[Record], asked: Sequence[Sample]) -> tuple[dict[str, Any], dict[str, str]]:
    gold = [sample.dialogue.emotion for sample in asked]
    said = [EMOTIONS.index(r["emotion"]) if r["emotion"] else _wrong(g, EMOTIONS) for r, g in zip(records, gold)]
    return emotion_scores(np.array(said), np.array([EMOTIONS.index(g) if g else UNLABELLED for g in gold]))
