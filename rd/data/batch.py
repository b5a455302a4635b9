"""From samples to padded batches of tensors: word ids, tags, features, labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rd.data.corpus import Sample, Turn
from rd.data.known import Known, Knows, look_up, together
from rd.data.records import MOST_LETTERS
from rd.data.text import Vocabulary, tokenize
from rd.labels import EMOTIONS, INTENTS

UNLABELLED = -100  # index that cross entropy ignores
STRIDE = 16  # batches to train on are padded to a multiple: products of few shapes, whose kernels are kept (rd.memory)


class Turns(NamedTuple):
    """The N context turns of a batch as subwords, for a model that runs BERT itself, and where each word stands."""

    pieces: tuple[Tensor, ...]  # what the model's own `pieces` made of the turns
    row: Tensor  # (B, L) the turn of a word, 0..N-1
    place: Tensor  # (B, L) its place in that turn


@dataclass(frozen=True)
class Batch:
    """B padded samples. Labels (`target` to the end) are None where a model answers."""

    ids: list[str]
    source: Tensor  # (B, L) word ids, 0 = pad
    source_ext: Tensor  # (B, L) extended ids: words outside V are V, V+1, ...
    oov: list[list[str]]  # the words behind V, V+1, ... of each sample
    speaker: Tensor  # (B, L) True at the speaker's words
    reason: Tensor  # (B, L) ERA's tags, 1 = <em>
    features: Tensor | None  # (B, L, Db) h~ of eq. 15
    intent_prior: Tensor | None  # (B, I) p_intent of eq. 5
    sentiment: Tensor  # (B,) VADER compound of the speaker's turns
    turns: Turns | None = None  # only where the model runs BERT itself (joint)
    known: Known | None = None  # only where the model reads knowledge
    target: Tensor | None = None  # (B, T) word ids with EOS
    target_ext: Tensor | None = None  # (B, T) extended ids with EOS
    emotion: Tensor | None = None  # (B,)
    intent: Tensor | None = None  # (B,)
    after: Tensor | None = None  # (B, F) the speaker's turn after the reply, all 0 where there is none

    @property
    def mask(self) -> Tensor:
        """(B, L) True at words."""
        return self.source != Vocabulary.PAD

    @cached_property
    def said(self) -> tuple[Tensor, Tensor]:
        """Rows and places (M,) of the words of the gold replies."""
        with torch.inference_mode(False):  # it is kept, and may be trained with after it was scored
            return (self.target != Vocabulary.PAD).nonzero(as_tuple=True)

    def unlabelled(self) -> Batch:
        """What a model may see when it answers: no gold reply or what it led to, no gold emotion, no gold intent."""
        return replace(self, target=None, target_ext=None, emotion=None, intent=None, after=None)

    def pin_memory(self) -> Batch:
        """The same batch where a GPU can fetch it by itself; what makes batches ahead asks for it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`. `said` comes along: there it would have to be waited for."""
        if torch.device(device).type == "cuda" and self.source.is_cpu:
            return self.pin_memory()._each(lambda tensor: tensor.to(device, non_blocking=True))  # so nobody waits
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        made = Batch(**{f.name: _changed(getattr(self, f.name), change) for f in fields(self)})
        if self.target is not None:
            made.__dict__["said"] = tuple(map(change, self.said))
        return made


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A tensor, or each of a named tuple of them, changed; anything else as it is."""
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(*(_changed(v, change) for v in value)) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Example:
    """One sample as ids; `texts` are its context turns, for the look-up of tags and features."""

    id: str
    texts: tuple[str, ...]
    words: tuple[str, ...]  # the last L context words
    source: np.ndarray  # (L,)
    speaker: np.ndarray  # (L,)
    target_words: tuple[str, ...]
    emotion: int
    intent: int
    sentiment: float
    after: np.ndarray  # (F,) the speaker's next turn, else one PAD
    intent_prior: np.ndarray | None = None
    known: Known | None = None


def encode(
    samples: Sequence[Sample],
    vocab: Vocabulary,
    max_context: int,
    sentiment: Callable[[str], float],
    intents: dict[str, str] | None = None,
    priors: dict[str, np.ndarray] | None = None,
    knowledge: Knows | None = None,
    most: int = 10,
) -> list[Example]:
    """Samples to examples. `intents`, `priors`: by sample id; gold intents stand where `intents` has none.

    most: concepts of a context at most, where there is knowledge.
    """
    examples = []
    tokens = {turn.text: tokenize(turn.text) for sample in samples for turn in sample.dialogue.turns}
    for sample in samples:
        turns = sample.context
        heard = " ".join(turn.text for turn in turns[::2])[-MOST_LETTERS:]
        turns = _latest(turns, tokens, max_context)
        words = [word for turn in turns for word in tokens[turn.text]]
        speaker = [i % 2 == 0 for i, turn in enumerate(turns) for _ in tokens[turn.text]]
        label = (intents or {}).get(sample.id) or sample.target.intent
        emotion = sample.dialogue.emotion
        after = next(iter(sample.dialogue.turns[sample.turn + 1 :]), None)
        examples.append(
            Example(
                id=sample.id,
                texts=tuple(turn.text for turn in turns),
                words=tuple(words[-max_context:]),
                source=np.asarray(vocab.encode(words[-max_context:]), dtype=np.int64),
                speaker=np.asarray(speaker[-max_context:], dtype=bool),
                target_words=tuple(tokens[sample.target.text]),
                emotion=EMOTIONS.index(emotion) if emotion else UNLABELLED,
                intent=INTENTS.index(label) if label else UNLABELLED,
                sentiment=sentiment(heard),
                after=np.asarray(vocab.encode(tokens[after.text]) if after else [Vocabulary.PAD], dtype=np.int64),
                intent_prior=None if priors is None else priors[sample.id],
            )
        )
    if knowledge is not None:
        known = look_up(samples, [e.words for e in examples], vocab, knowledge, most)
        examples = [replace(e, known=k) for e, k in zip(examples, known, strict=True)]
    return examples


def _latest(turns: Sequence[Turn], tokens: dict[str, list[str]], most: int) -> Sequence[Turn]:
    """The last turns that hold `most` words, an even number of older ones left out: the speaker's still come first.

    What lies before them no model reads, and a sample that kept all of it would make long dialogues cost by the square.
    """
    first, left = len(turns), most
    while first > 0 and (left > 0 or first % 2):
        first -= 1
        left -= len(tokens[turns[first].text])
    return turns[first:]


Annotate = Callable[[str, str], tuple[np.ndarray, np.ndarray]]  # (sample id, turn text) -> tags (n,), h~ (n, Db)
Pieces = Callable[[list[list[str]]], tuple[Tensor, ...]]  # the words of N turns -> their subwords


class Collate:
    """Examples to a Batch. `annotate` gives ERA's tags and vectors of a turn; without it tags are 0, features None.

    pieces: the subwords of the turns too (`Batch.turns`), for a model that runs BERT itself.
    """

    def __init__(self, vocab: Vocabulary, annotate: Annotate | None = None, pieces: Pieces | None = None) -> None:
        self.vocab, self.annotate, self.pieces = vocab, annotate, pieces

    def __call__(self, examples: Sequence[Example], stride: int = 1) -> Batch:
        """Pads to the longest of these examples, context and reply to a multiple of `stride` words."""
        oov = [self._oov(e) for e in examples]
        reason, features = zip(*(self._annotations(e) for e in examples), strict=True)
        target_words = [self._extended(e.target_words, o) for e, o in zip(examples, oov, strict=True)]
        target_ext = _pad([np.append(ids, Vocabulary.EOS) for ids in target_words], stride)
        priors = [e.intent_prior for e in examples]
        source = _pad([e.source for e in examples], stride)
        return Batch(
            ids=[e.id for e in examples],
            source=source,
            source_ext=_pad([self._extended(e.words, o) for e, o in zip(examples, oov, strict=True)], stride),
            oov=oov,
            speaker=_pad([e.speaker for e in examples], stride),
            reason=_pad(reason, stride),
            features=None if features[0] is None else _pad(features, stride).float(),
            intent_prior=None if priors[0] is None else torch.as_tensor(np.stack(priors), dtype=torch.float32),
            sentiment=torch.tensor([e.sentiment for e in examples], dtype=torch.float32),
            turns=self.pieces and self._turns(examples, stride),
            known=examples[0].known and together([e.known for e in examples], source.size(1)),
            target=target_ext.masked_fill(target_ext >= len(self.vocab), Vocabulary.UNK),
            target_ext=target_ext,
            emotion=torch.tensor([e.emotion for e in examples]),
            intent=torch.tensor([e.intent for e in examples]),
            after=_pad([e.after for e in examples]),
        )

    def _oov(self, example: Example) -> list[str]:
        return list(dict.fromkeys(w for w, i in zip(example.words, example.source, strict=True) if i == Vocabulary.UNK))

    def _extended(self, words: Sequence[str], oov: list[str]) -> np.ndarray:
        ids = self.vocab.encode(words)
        extended = [
            len(self.vocab) + oov.index(w) if i == Vocabulary.UNK and w in oov else i
            for w, i in zip(words, ids, strict=True)
        ]
        return np.asarray(extended, dtype=np.int64)  # said, as an empty list would become floats

    def _turns(self, examples: Sequence[Example], stride: int) -> Turns:
        texts = list(dict.fromkeys(text for example in examples for text in example.texts))
        words, number = [tokenize(text) for text in texts], {text: i for i, text in enumerate(texts)}
        own = [[number[text] for text in example.texts] for example in examples]
        rows = [np.concatenate([np.full(len(words[i]), i) for i in mine]) for mine in own]
        places = [np.concatenate([np.arange(len(words[i])) for i in mine]) for mine in own]
        rows, places = ([a[-len(e.words) :] for a, e in zip(each, examples, strict=True)] for each in (rows, places))
        return Turns(self.pieces(words), _pad(rows, stride), _pad(places, stride))

    def _annotations(self, example: Example) -> tuple[np.ndarray, np.ndarray | None]:
        if self.annotate is None:
            return np.zeros(len(example.words), dtype=np.int64), None
        found = [self.annotate(example.id, text) for text in example.texts]
        last = len(example.words)
        # a listener's words are always <noem> (Sec. 3.2)
        tags = np.concatenate([t if i % 2 == 0 else np.zeros_like(t) for i, (t, _) in enumerate(found)])[-last:]
        return tags.astype(np.int64), np.concatenate([v for _, v in found])[-last:]


def _pad(rows: Sequence[np.ndarray], stride: int = 1) -> Tensor:
    length = -(-max(len(r) for r in rows) // stride) * stride
    out = np.zeros((len(rows), length, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


class Batches(Sequence):
    """The batches of one pass, made as they are asked for. Same (examples, size, seed, epoch): same batches."""

    def __init__(
        self, examples: Sequence[Example], collate: Collate, size: int, order: list[list[int]], stride: int = 1
    ) -> None:
        self.examples, self.collate, self.size, self.order, self.stride = examples, collate, size, order, stride

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Batch:
        return self.part(i, 0, 1)

    def part(self, i: int, index: int, count: int) -> Batch:
        """Rows index, index + count, ... of batch i: what one of `count` processes has of it."""
        return self.collate([self.examples[j] for j in self.order[i][index::count]], self.stride)


def in_order(examples: Sequence[Example], collate: Collate, size: int) -> Batches:
    """Batches by falling context length (padding is then small); ids tell which is which."""
    by_length = sorted(range(len(examples)), key=lambda i: -len(examples[i].source))
    return Batches(examples, collate, size, [by_length[i : i + size] for i in range(0, len(by_length), size)])


def shuffled(examples: Sequence[Example], collate: Collate, size: int, seed: int, epoch: int) -> Batches:
    """Length-bucketed batches in random order: shuffle, sort within 50 batches, cut, shuffle the batches."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(examples))
    cut = []
    for start in range(0, len(order), 50 * size):
        chunk = sorted(order[start : start + 50 * size], key=lambda i: (len(examples[i].source), i))
        cut += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    rng.shuffle(cut)
    return Batches(examples, collate, size, cut, STRIDE)
