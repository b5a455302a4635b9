"""The chain of thought as text: emotion -> cause -> intent -> reply (Sec. A.1; Wei et al. 2022 for the shots).

The paper does not print its prompt: this one is ours. Every word of a dialogue stands in the protocol's form, the one
that all models of the tables read. Shots are looked up in the train split when a run begins; none is stored here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from rd.data.corpus import Dialogue, Sample, samples
from rd.data.text import normalise
from rd.labels import EMOTIONS, INTENTS

HEADS = {"emotion": "Emotion:", "cause": "Cause:", "intent": "Intent:", "reply": "Reply:"}
WORDS = 50  # of a reply at most (protocol)
CONTEXT = 200  # words of a dialogue at most, as for the other models (rd.config.DataConfig); older turns are left out
INSTRUCTION = f"""A speaker tells of a situation, and a listener answers with empathy. \
Each dialogue is followed by four lines: the speaker's emotion, its cause in a few of the speaker's words, the intent \
of the listener's next turn, and that turn itself, the reply, in at most {WORDS} words.
Emotions: {", ".join(EMOTIONS)}
Intents: {", ".join(INTENTS)}

"""
AS_JSON = """Think in four steps: name the emotion, its cause, the intent, then write the reply. Answer with one JSON \
object and nothing else: {"emotion": "...", "cause": "...", "intent": "...", "reply": "..."}

"""
DIALOGUE, ANSWER = "<<dialogue>>", "<<answer>>"  # where a chat template puts them


@dataclass(frozen=True)
class Chain:
    """One answer, in the order in which it is thought."""

    emotion: str
    cause: str
    intent: str
    reply: str


def gold_chain(sample: Sample) -> Chain | None:
    """The chain of a sample's gold labels; None where emotion, intent or reasons are unlabelled.

    Cause: the reason phrases of the context's speaker turns, "not told" where none is marked.
    """
    told = [turn for turn in sample.context[::2] if turn.reasons is not None]
    if not (sample.dialogue.emotion and sample.target.intent and told):
        return None
    phrases = [normalise(turn.text[start:end]) for turn in told for start, end in turn.reasons]
    cause = "; ".join(phrases) or "not told"
    return Chain(sample.dialogue.emotion, cause, sample.target.intent, normalise(sample.target.text))


def choose_shots(train: Sequence[Dialogue], count: int, seed: int) -> list[Sample]:
    """`count` train samples to show: the first of a permutation drawn with the seed that qualify.

    One qualifies with a whole gold chain whose cause is told, at most three turns of context, and an emotion and an
    intent that no earlier shot has; emotions start anew after 32 shots, intents after nine.
    """
    every, chosen = samples(train), []
    emotions: list[str] = []
    intents: list[str] = []
    for place in np.random.default_rng(seed).permutation(len(every)):
        if len(chosen) == count:
            break
        sample = every[place]
        chain = gold_chain(sample)
        if chain is None or chain.cause == "not told" or len(sample.context) > 3:
            continue
        if chain.emotion not in emotions and chain.intent not in intents:
            chosen.append(sample)
            emotions = [*emotions, chain.emotion] if len(emotions) < len(EMOTIONS) - 1 else []
            intents = [*intents, chain.intent] if len(intents) < len(INTENTS) - 1 else []
    return chosen


def choose_asked(every: Sequence[Sample], seed: int, shown: Sequence[Sample], count: int | None = None) -> list[Sample]:
    """The first `count` (None: all) of a permutation of the samples drawn with the seed; none of a shown dialogue."""
    known = {sample.dialogue.id for sample in shown}
    order = [every[place] for place in np.random.default_rng(seed).permutation(len(every))]
    return [sample for sample in order if sample.dialogue.id not in known][:count]


def transcript(sample: Sample) -> str:
    """The turns before the target, one a line; the last is the speaker's."""
    turns: list[str] = []
    left = CONTEXT
    for turn in reversed(sample.context):
        words = normalise(turn.text).split()
        if turns and len(words) > left:
            break
        turns.insert(0, " ".join(words[-CONTEXT:]))
        left -= len(words)
    names = [("Listener", "Speaker")[(len(turns) - i) % 2] for i in range(len(turns))]
    return "".join(f"{name}: {turn}\n" for name, turn in zip(names, turns))


def steps(chain: Chain) -> list[str]:
    """The text of an answer in the pieces in which it is read and tokenised; the first follows "Emotion:"."""
    pieces = []
    for name, value in asdict(chain).items():
        pieces += [f"\n{HEADS[name]}"] * (name != "emotion") + [f" {value}"]
    return pieces


class Prompt(NamedTuple):
    """The text around a dialogue: `before` is the same for all, `after` leads to the answer, `end` closes it."""

    before: str
    after: str
    end: str
    begin: bool  # whether the tokenizer's begin mark is still to be put in front

    def ask(self, sample: Sample) -> str:
        """What follows `before`, up to the place of the emotion."""
        return transcript(sample) + self.after + HEADS["emotion"]


def prompt(shown: Sequence[Sample], tokenizer: Any) -> Prompt:
    """Plain text for a base model; the tokenizer's chat template, with the shots in the user's turn, where it has one.

    Raises ValueError where a template does not keep the dialogue or the answer as they are.
    """
    head = INSTRUCTION + "".join(_shot(sample) for sample in shown)
    if not tokenizer.chat_template:
        return Prompt(head, "", "\n\n", True)
    user = {"role": "user", "content": head + DIALOGUE}
    asked = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    turns = [user, {"role": "assistant", "content": ANSWER}]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    before, found, after = asked.partition(DIALOGUE)
    _, kept, end = whole.partition(ANSWER)
    if not (found and kept):
        raise ValueError("its chat template changes what stands in a turn")
    return Prompt(before, after, end or "\n\n", False)


def text_hash(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of a prompt: of all but the dialogue, shots included."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _shot(sample: Sample) -> str:
    return transcript(sample) + HEADS["emotion"] + "".join(steps(gold_chain(sample))) + "\n\n"


def served_prompt(sample: Sample | None, shown: Sequence[Sample]) -> str:
    """One message for a server, with answers as JSON; None: without a dialogue, for the hash."""
    shots = "".join(transcript(s) + json.dumps(asdict(gold_chain(s)), ensure_ascii=False) + "\n\n" for s in shown)
    return INSTRUCTION + AS_JSON + shots + (transcript(sample) if sample else "")
