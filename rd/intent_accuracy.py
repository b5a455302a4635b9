"""Acc_intent (protocol): the next intent from the context alone, and the intent that the reply itself carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rd.annotation.annotations import Tagger
from rd.data.batch import UNLABELLED
from rd.data.corpus import Corpus, Sample, Turn, samples
from rd.labels import EMOTIONS, INTENTS
from rd.metrics import accuracy, intent_scores

Scores = tuple[dict[str, Any], dict[str, str]]  # values, and a note where one is None or needs a word


def next_intent(
    rows: dict[str, np.ndarray], corpus: Corpus, split: str, chosen: Sequence[Sample] | None = None
) -> Scores:
    """Of `likelihoods`' rows: final and first intent against gold intents only; the tagger's labels never judge.

    chosen: the samples that the rows are of, if not the whole split's.
    """
    keys = ("acc_intent", "acc_intent_top3", "acc_intent_majority", "acc_intent_per_emotion", "acc_intent_first")
    gold, emotions = gold_intents(samples(corpus.splits[split]) if chosen is None else chosen)
    seen, felt = gold_intents(samples(corpus.splits.get("train", ())))
    known = gold != UNLABELLED
    if not known.any() or not len(seen) or not (seen != UNLABELLED).any():
        reason = "no gold intents for this split, or none on train to count the majority on"
        return dict.fromkeys(keys), dict.fromkeys(keys, reason)
    train = (seen[seen != UNLABELLED], felt[seen != UNLABELLED])
    guess = rows.get("final", np.zeros((len(gold), len(INTENTS))))[known]
    found = intent_scores(guess, gold[known], emotions[known], *train)
    notes = {"acc_intent": f"{int(known.sum())} samples with gold intents"}
    if "final" not in rows:
        found |= {"acc_intent": None, "acc_intent_top3": None, "acc_intent_first": None}
        return found, dict.fromkeys(("acc_intent", "acc_intent_top3", "acc_intent_first"), "the model names no intent")
    if "first" in rows:
        found["acc_intent_first"] = accuracy(rows["first"][known].argmax(-1), gold[known])
    else:
        found["acc_intent_first"], notes["acc_intent_first"] = None, "the model names its intent once"
    return found, notes


def gold_intents(chosen: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Gold intent and emotion of every sample, as indices; UNLABELLED where there is none."""
    intents = [INTENTS.index(s.target.intent) if s.target.intent else UNLABELLED for s in chosen]
    emotions = [EMOTIONS.index(s.dialogue.emotion) if s.dialogue.emotion else UNLABELLED for s in chosen]
    return np.array(intents), np.array(emotions)


def reply_intent(
    rows: dict[str, np.ndarray],
    replies: Sequence[str],
    corpus: Corpus,
    split: str,
    tagger: Tagger | None,
    chosen: Sequence[Sample] | None = None,
) -> Scores:
    """The intent that the frozen tagger reads off each reply: against the gold reply's, and the model's own final one.

    The second says how far the reply follows the plan. The tagger's own accuracy bounds both.
    """
    chosen = samples(corpus.splits[split]) if chosen is None else chosen
    keys, gold = ("acc_reply_intent", "acc_reply_final"), gold_intents(chosen)[0]
    known = gold != UNLABELLED
    if tagger is None or not known.any():
        reason = "no intent tagger lies beside this run" if tagger is None else "no gold intents for this split"
        return dict.fromkeys(keys), dict.fromkeys(keys, reason)
    read = np.array([INTENTS.index(name) for name in tagger.intents(_said(chosen, replies)).values()])
    found, notes = {keys[0]: accuracy(read[known], gold[known]), keys[1]: None}, {}
    if "final" in rows:
        found[keys[1]] = accuracy(read, rows["final"].argmax(-1))
    else:
        notes[keys[1]] = "the model names no intent"
    return found, notes


def _said(chosen: Sequence[Sample], replies: Sequence[str]) -> list[Sample]:
    """The samples with our replies in the place of the gold ones."""
    said = []
    for sample, reply in zip(chosen, replies, strict=True):
        turns = (*sample.context, Turn(reply))
        said.append(replace(sample, dialogue=replace(sample.dialogue, turns=turns)))
    return said
