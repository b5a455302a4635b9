"""All that a model reads of a corpus, made once: vocabulary, examples of each split, and how they become batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from rd.config import Config
from rd.data.batch import UNLABELLED, Collate, Example, Pieces, encode
from rd.data.corpus import Corpus, samples
from rd.data.text import Vocabulary, tokenize
from rd.knowledge.knowledge import Knowledge


@dataclass(frozen=True)
class Inputs:
    """All that a model reads of a corpus: vocabulary, examples of each split, and how to batch them."""

    corpus: Corpus
    vocab: Vocabulary
    examples: dict[str, list[Example]]
    collate: Collate


def sentiment() -> Callable[[str], float]:
    """VADER's compound score of a text, -1 to 1 (Hutto and Gilbert 2014)."""
    analyzer = SentimentIntensityAnalyzer()
    return lambda text: analyzer.polarity_scores(text)["compound"]


def build_vocabulary(corpus: Corpus, config: Config) -> Vocabulary:
    """Words of the train split; of all splits where config.data.vocabulary is "all" (the peers')."""
    wanted = corpus.splits if config.data.vocabulary == "all" else ["train"]
    texts = (turn.text for split in wanted for dialogue in corpus.splits[split] for turn in dialogue.turns)
    return Vocabulary.build((tokenize(text) for text in texts), config.data.min_count)


def prepare(
    corpus: Corpus,
    config: Config,
    vocab: Vocabulary | None = None,
    annotations: Any = None,
    splits: tuple = (),
    pieces: Pieces | None = None,
    knowledge: Knowledge | None = None,
    intents: dict[str, str] | None = None,
) -> Inputs:
    """Examples of the named splits (all by default). `annotations` gives tags, h~, p_intent and intent labels.

    pieces: `Responder.pieces` of the model that will read them. knowledge: where the model reads it.
    intents: labels of train replies by sample id, where there are no annotations to give them.
    """
    vocab = vocab or build_vocabulary(corpus, config)
    priors = None if annotations is None else annotations.priors
    intents = intents if annotations is None else annotations.intents
    score, known = sentiment(), {}

    def compound(text: str) -> float:
        if text not in known:
            known[text] = score(text)
        return known[text]

    examples = {
        split: encode(
            samples(corpus.splits[split]),
            vocab,
            config.data.max_context,
            compound,
            intents if split == "train" else None,  # elsewhere gold alone judges
            priors,
            knowledge,
            config.knowledge.most,
        )
        for split in splits or corpus.splits
    }
    seen = annotations.seen if annotations is not None and config.model.era else frozenset()
    for rows in examples.values():
        rows[:] = [replace(e, emotion=UNLABELLED) if e.id.rpartition(":")[0] in seen else e for e in rows]
    return Inputs(corpus, vocab, examples, Collate(vocab, None if annotations is None else annotations.lookup, pieces))
