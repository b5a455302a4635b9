r"""ERA, the emotion reason annotator (Sec. 3.2, App. C.1).

$$ h = \mathrm{BERT}(w) \quad(13) \qquad \alpha_{im} = \mathrm{softmax}_m\,\mathrm{Attention}(h_i, h_m) \quad(14) $$
$$ \tilde h_i = \sum_m \alpha_{im} h_m \quad(15) $$
$$ P(r|\tilde h) \propto \exp\sum_i (A_{r_{i-1} r_i} + W_{r_i}\tilde h_i) \quad(16) $$

BERT reads one turn at a time, never a later one. Attention is a scaled dot product of two projections of h; they start
as twice the identity, so that each word first looks at itself (at once the identity, mostly at the others). The values
are h itself, as eq. 15 says.
Beyond the paper: an emotion head on the mean of h~, so that h~ carries the emotion that Q needs (eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.crf import LinearChainCRF
from rd.data.batch import UNLABELLED
from rd.labels import EMOTIONS
from rd.models.bert import WordPieces, encode_words

PADDED = 128 * 128  # words of a batch with padding: more than people say, so only attention (B, L, L) feels it


@dataclass(frozen=True)
class TurnBatch:
    """B turns. Rows of one dialogue share `dialogue`; `turn` orders them (scope "context" only)."""

    ids: list[str]
    pieces: WordPieces
    tags: Tensor  # (B, L) 1 = em
    tagged: Tensor  # (B,) True where the turn has reason labels
    emotion: Tensor  # (B,) UNLABELLED where unknown
    dialogue: Tensor  # (B,)
    turn: Tensor  # (B,)

    def to(self, device: torch.device | str) -> TurnBatch:
        """The same batch with its tensors on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved["pieces"] = WordPieces(*(t.to(device) for t in self.pieces))
        return TurnBatch(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})


class ERA(nn.Module):
    """BERT -> attention over words -> CRF. Switches: attention, crf (off: softmax), residual (h + h~), scope."""

    def __init__(
        self,
        tokenizer: Any,
        bert: nn.Module,
        attention: bool = True,
        crf: bool = True,
        residual: bool = False,
        scope: str = "turn",
        emotion_weight: float = 0.5,
        max_subwords: int = 128,
    ) -> None:
        super().__init__()
        if scope not in ("turn", "context"):
            raise ValueError(f'scope must be "turn" or "context", not {scope!r}')
        self.tokenizer, self.bert, self.scope = tokenizer, bert, scope
        self.residual, self.emotion_weight, self.max_subwords = residual, emotion_weight, max_subwords
        self.width = bert.config.hidden_size
        self.query = nn.Linear(self.width, self.width) if attention else None
        self.key = nn.Linear(self.width, self.width) if attention else None
        for layer in (self.query, self.key) if attention else ():
            layer.weight.data.copy_(2 * torch.eye(self.width))
            nn.init.zeros_(layer.bias)
        self.emission = nn.Linear(self.width, 2)
        self.crf = LinearChainCRF(2) if crf else None
        self.emotion = nn.Linear(self.width, len(EMOTIONS))
        self.register_buffer("threshold", torch.tensor(0.5))  # chosen on valid; kept with the weights

    def pieces(self, word_lists: Sequence[Sequence[str]]) -> WordPieces:
        """The words of B turns as subwords; at most `max_subwords` of each."""
        return encode_words(self.tokenizer, word_lists, self.max_subwords)

    def encode(self, pieces: WordPieces, dialogue: Tensor | None = None, turn: Tensor | None = None) -> Tensor:
        """h~ of eq. 15, (B, L, Db); zeros at padding and at words cut off. dialogue, turn (B,): for scope "context"."""
        hidden = self.bert(input_ids=pieces.ids, attention_mask=pieces.attention).last_hidden_state  # (B, S, Db)
        known = pieces.first > 0  # (B, L)
        h = hidden.gather(1, pieces.first[..., None].expand(-1, -1, self.width)) * known[..., None]  # (B, L, Db)
        if self.query is None:
            return h
        if self.scope == "turn" or dialogue is None:
            mixed = self._attend(h, known[:, None].expand(-1, h.size(1), -1))
        else:
            sees = (dialogue[:, None] == dialogue) & (turn[:, None] >= turn)  # (B, B): row may look at column
            sees = sees[:, None, :, None] & known  # (B, 1, B, L)
            sees = sees.expand(-1, h.size(1), -1, -1).flatten(2).flatten(0, 1)  # (B L, B L)
            mixed = self._attend(h.flatten(0, 1)[None], sees[None])[0].unflatten(0, h.shape[:2])
        return (h + mixed if self.residual else mixed) * known[..., None]

    def encode_by_length(self, pieces: WordPieces, size: int = 16) -> Tensor:
        """`encode` of turns in groups of like length, each padded to its own longest only: (B, L, Db).

        On a GPU all in one: it would have to be waited for to know their lengths.
        """
        if not pieces.ids.is_cpu:
            return self.encode(pieces)
        lengths, words = pieces.attention.sum(1), pieces.mask.sum(1)
        order, found = lengths.argsort(), []
        for rows in order.split(size):
            s, n = int(lengths[rows].max()), max(1, int(words[rows].max()))
            widths = (s, s, n, n, s)  # ids, attention, first, mask, owner
            part = WordPieces(*(t[rows, :width] for t, width in zip(pieces, widths, strict=True)))
            found.append(F.pad(self.encode(part), (0, 0, 0, pieces.mask.size(1) - n)))
        return torch.cat(found)[order.argsort()]

    def _attend(self, h: Tensor, sees: Tensor) -> Tensor:
        """Eq. 14-15. h (B, L, Db), sees (B, L, L) -> (B, L, Db)."""
        scores = (self.query(h) @ self.key(h).transpose(1, 2)).float() / math.sqrt(self.width)
        weights = scores.masked_fill(~sees, torch.finfo(scores.dtype).min).softmax(-1)
        return weights.to(h.dtype) @ h

    def pooled(self, h: Tensor, pieces: WordPieces) -> Tensor:
        """Emotion logits (B, E) from the mean of h~ (B, L, Db) over the words."""
        known = (pieces.first > 0).unsqueeze(-1)
        return self.emotion((h * known).sum(1) / known.sum(1).clamp(min=1))

    def marginals(self, h: Tensor, mask: Tensor) -> Tensor:
        """P(em) of each word (B, L), 0 outside the mask: of the CRF or, without it, of the softmax."""
        scores = self.emission(h).float()
        return self.crf.marginals(scores, mask)[..., 1] if self.crf else scores.softmax(-1)[..., 1] * mask

    def tags(self, h: Tensor, mask: Tensor) -> Tensor:
        """1 where P(em) exceeds the threshold (B, L): better word F1 than the likeliest path, which tags too little."""
        return (self.marginals(h, mask) > self.threshold).long()

    def loss(self, batch: TurnBatch) -> dict[str, Tensor]:
        """Named terms: reason (per word, turns with labels only) and, where its weight is not 0, emotion."""
        h = self.encode(batch.pieces, batch.dialogue, batch.turn)
        scores, mask = self.emission(h).float(), batch.pieces.mask & batch.tagged[:, None]
        if self.crf:
            terms = {"reason": self.crf.loss(scores, batch.tags, mask)}
        else:
            each = F.cross_entropy(scores.transpose(1, 2), batch.tags, reduction="none")
            terms = {"reason": (each * mask).sum() / mask.sum().clamp(min=1)}
        if self.emotion_weight:
            each = F.cross_entropy(
                self.pooled(h, batch.pieces).float(), batch.emotion, ignore_index=UNLABELLED, reduction="sum"
            )
            terms["emotion"] = self.emotion_weight * each / (batch.emotion != UNLABELLED).sum().clamp(min=1)
        return terms

    forward = loss

    @torch.inference_mode()
    def annotate(
        self, word_lists: Sequence[Sequence[str]], batch: int = 128, dialogue: bool = False
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tags uint8 (n,), h~ float16 (n, Db)) of each turn.

        dialogue: the lists are the turns of ONE dialogue, in order, as scope "context" needs them.
        """
        found = self._map(word_lists, batch, dialogue, lambda h, p: (self.tags(h, p.mask), h))
        return [
            (tags[: len(w)].astype(np.uint8), h[: len(w)].astype(np.float16)) for w, (tags, h) in zip(word_lists, found)
        ]

    @torch.inference_mode()
    def predict(self, word_lists: Sequence[Sequence[str]], batch: int = 128) -> tuple[list[np.ndarray], np.ndarray]:
        """P(em) of each turn's words, float32 (n,), and emotion probabilities (turns, E)."""
        found = self._map(
            word_lists, batch, False, lambda h, p: (self.marginals(h, p.mask), self.pooled(h, p).float().softmax(-1))
        )
        return [t[: len(w)] for w, (t, _) in zip(word_lists, found)], np.stack([e for _, e in found])

    def _map(self, word_lists, batch, dialogue, use) -> list[tuple[np.ndarray, np.ndarray]]:
        """use(h~, pieces) -> two tensors, row by row, in batches of like length: `batch` rows, PADDED words at most."""
        self.eval()
        device = self.emission.weight.device
        out: list[Any] = [None] * len(word_lists)
        for chosen in [range(len(out))] if dialogue and out else _batches(word_lists, batch):
            pieces = self.pieces([word_lists[i] for i in chosen])
            pieces = WordPieces(*(t.to(device) for t in pieces))
            turn = torch.arange(len(chosen), device=device)
            with torch.autocast(device.type, torch.bfloat16):
                h = self.encode(pieces, turn * 0 if dialogue else None, turn)
                both = [t.float().cpu().numpy() for t in use(h, pieces)]
            for i, first, second in zip(chosen, *both):
                out[i] = (first, second)
        return out


def _batches(word_lists: Sequence[Sequence[str]], rows: int) -> Iterator[list[int]]:
    """Indices by length, in batches of at most `rows`, and of at most PADDED words with padding or one row alone."""
    chosen: list[int] = []
    for i in sorted(range(len(word_lists)), key=lambda i: len(word_lists[i])):
        if chosen and (len(chosen) == rows or (len(chosen) + 1) * len(word_lists[i]) > PADDED):
            yield chosen
            chosen = []
        chosen.append(i)
    yield from [chosen] if chosen else ()
