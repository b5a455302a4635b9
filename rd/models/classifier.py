"""A BERT classifier of turns: intent tagger, intent predictor (p_intent of eq. 5), emotion classifier.

What a classifier may see is decided by the rows it is handed (`tagger_row`, `predictor_row`, `emotion_row`): the tagger
labels a given reply, so it reads it and the turn before; the predictor reads only the turns before the reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.data.batch import UNLABELLED
from rd.data.corpus import Sample
from rd.labels import EMOTIONS
from rd.models.bert import encode_segments, encode_words

LISTENER, SPEAKER = 0, 1  # BERT's token types
MAX_TURN = 15

Segments = tuple[tuple[str, int], ...]  # (text, token type) in reading order


@dataclass(frozen=True)
class Row:
    """What a classifier reads of one sample: segments and the turn number (1, 2, ...; 0: not told)."""

    id: str
    segments: Segments
    turn: int = 0

    @property
    def size(self) -> int:
        """Characters: rows of alike size go into one batch."""
        return sum(len(text) for text, _ in self.segments)


def tagger_row(sample: Sample, before: bool = True) -> Row:
    """The listener turn itself, after the speaker turn before it (`before`)."""
    earlier = ((sample.context[-1].text, SPEAKER),) if before and sample.turn else ()
    return Row(sample.id, (*earlier, (sample.target.text, LISTENER)))


def predictor_row(sample: Sample) -> Row:
    """All turns before the target and the target's number; never the target."""
    segments = tuple((turn.text, LISTENER if i % 2 else SPEAKER) for i, turn in enumerate(sample.context))
    return Row(sample.id, segments, min((sample.turn + 1) // 2, MAX_TURN))


def emotion_row(sample: Sample) -> Row:
    """The speaker's turns before the target."""
    return Row(sample.id, tuple((turn.text, LISTENER) for turn in sample.context[::2]))


@dataclass(frozen=True)
class TextBatch:
    """B rows as subwords, with labels (UNLABELLED where there is none)."""

    ids: list[str]
    pieces: Tensor  # (B, S)
    attention: Tensor  # (B, S)
    kinds: Tensor  # (B, S)
    turn: Tensor  # (B,)
    label: Tensor  # (B,)
    emotion: Tensor  # (B,)

    def to(self, device: torch.device | str) -> TextBatch:
        """The same batch with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return TextBatch(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})


class BertClassifier(nn.Module):
    """Mean of BERT's last states (+ a turn-number embedding) -> dropout -> linear."""

    def __init__(
        self, tokenizer: Any, bert: nn.Module, classes: int, emotion_weight: float = 0.0, max_subwords: int = 128
    ) -> None:
        """emotion_weight: weight of an auxiliary emotion loss on the same vector (training labels only)."""
        super().__init__()
        self.tokenizer, self.bert = tokenizer, bert
        self.emotion_weight, self.max_subwords = emotion_weight, max_subwords
        width = bert.config.hidden_size
        self.turn = nn.Embedding(MAX_TURN + 1, width, padding_idx=0)
        nn.init.zeros_(self.turn.weight)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(width, classes)
        self.emotion = nn.Linear(width, len(EMOTIONS)) if emotion_weight else None

    def collate(
        self, rows: Sequence[Row], labels: Sequence[int] | None = None, emotions: Sequence[int] | None = None
    ) -> TextBatch:
        """Rows, padded to the longest of them; the oldest subwords are cut beyond `max_subwords`."""
        pieces, attention, kinds = encode_segments(self.tokenizer, [r.segments for r in rows], self.max_subwords)
        blank = [UNLABELLED] * len(rows)
        turn, label, emotion = (torch.tensor(v) for v in ([r.turn for r in rows], labels or blank, emotions or blank))
        return TextBatch([r.id for r in rows], pieces, attention, kinds, turn, label, emotion)

    def hidden(self, batch: TextBatch) -> Tensor:
        """The vector (B, Db) that the heads read."""
        states = self.bert(
            input_ids=batch.pieces, attention_mask=batch.attention, token_type_ids=batch.kinds
        ).last_hidden_state  # (B, S, Db)
        return self.dropout(_mean(states, batch.attention) + self.turn(batch.turn))

    def loss(self, batch: TextBatch) -> dict[str, Tensor]:
        """Named terms: label and, where its weight is not 0, emotion."""
        hidden = self.hidden(batch)
        terms = {"label": _cross_entropy(self.output(hidden), batch.label)}
        if self.emotion is not None:
            terms["emotion"] = self.emotion_weight * _cross_entropy(self.emotion(hidden), batch.emotion)
        return terms

    forward = loss

    @torch.inference_mode()
    def predict(self, rows: Sequence[Row], batch: int = 128) -> np.ndarray:
        """Class probabilities float32 (n, C), batched by length."""
        self.eval()
        device = self.output.weight.device
        order = sorted(range(len(rows)), key=lambda i: rows[i].size)
        out = np.zeros((len(rows), self.output.out_features), dtype=np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            with torch.autocast(device.type, torch.bfloat16):
                scores = self.output(self.hidden(self.collate([rows[i] for i in chosen]).to(device)))
            out[chosen] = scores.float().softmax(-1).cpu().numpy()
        return out

    def saliency(self, word_lists: Sequence[Sequence[str]], batch: int = 64) -> list[np.ndarray]:
        """Gradient x input of the likeliest class's score for each word, float32 (n,); words cut off get 0.

        A word's value is the sum over its subwords and the embedding's width (Ancona et al. 2018).
        """
        self.eval()
        device = self.output.weight.device
        found = []
        for start in range(0, len(word_lists), batch):
            lists = word_lists[start : start + batch]
            pieces = encode_words(self.tokenizer, lists, self.max_subwords)
            attention, owner = pieces.attention.to(device), pieces.owner.to(device)
            vectors = self.bert.get_input_embeddings()(pieces.ids.to(device)).detach().requires_grad_()  # (B, S, Db)
            states = self.bert(inputs_embeds=vectors, attention_mask=attention).last_hidden_state
            best = self.output(_mean(states, attention)).max(-1).values.sum()
            (slope,) = torch.autograd.grad(best, vectors)
            share = (slope * vectors.detach()).sum(-1) * (owner >= 0)  # (B, S)
            words = torch.zeros(pieces.mask.shape, device=device, dtype=share.dtype)
            words = words.scatter_add(1, owner.clamp(min=0), share).cpu().numpy()  # (B, L)
            found += [row[: len(w)] for row, w in zip(words, lists)]
        return found


def _mean(states: Tensor, attention: Tensor) -> Tensor:
    """Mean (B, Db) of states (B, S, Db) where attention (B, S) is 1."""
    seen = attention.unsqueeze(-1).to(states.dtype)
    return (states * seen).sum(1) / seen.sum(1)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the rows with a label; 0 if none has one."""
    each = F.cross_entropy(scores.float(), labels, ignore_index=UNLABELLED, reduction="sum")
    return each / (labels != UNLABELLED).sum().clamp(min=1)
