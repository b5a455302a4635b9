"""The shell of every model: context -> next word -> loss, and cached decoding steps (eq. 11, 12).

A model gives `encode` (what it makes of the context) and perhaps `extra_losses`; all else is written once, here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.dropout import Dropout
from rd.blocks.output import Columns
from rd.blocks.parts import mean, ratio
from rd.blocks.pointer import PointerGenerator
from rd.blocks.transformer import Decoder, Keys, Places, positions
from rd.config import ModelConfig
from rd.data.batch import UNLABELLED, Batch, Pieces
from rd.data.text import Vocabulary

MULTIPLE = 64  # of the number of words that a step of training learns from
PLACES = 512  # E^P is kept for so many


@dataclass(frozen=True)
class Told:
    """A gold reply word by word: M words of all T places, the last ones perhaps made up (`Responder.places_of`)."""

    rows: Tensor  # (M,)
    places: Tensor  # (M,)
    words: int  # so many of the M count
    logits: Tensor  # (M, V)
    gate: Tensor  # (M,)
    copied: Tensor  # (M, L)
    looked: Tensor  # (B, T, S) attention to the memory


@dataclass(frozen=True)
class Context:
    """What a model made of the dialogue so far."""

    memory: Tensor  # (B, S, D) key/value of the decoder; the L context words are its last slots
    mask: Tensor  # (B, S)
    notes: dict[str, Tensor] = field(default_factory=dict)  # what extra losses and reports read
    plan: Tensor | None = None  # (B, D) joins every word that the decoder reads
    experts: Tensor | None = None  # (B, K) how much each of K decoders has to say, for a model that has several
    told: Told | None = None  # what became of the gold reply; only `extra_losses` sees it


@dataclass
class Decoding:
    """The state of cached decoding: one row a hypothesis."""

    keys: list[Keys]
    mask: Tensor  # (B, S)
    source_ext: Tensor  # (B, L)
    extra: int  # X - V
    columns: Columns | None = None  # the output weight, where another form of it pays
    plan: Tensor | None = None  # (B, D)
    experts: Tensor | None = None  # (B, K)
    past: list[Keys] | None = None
    length: int = 0

    def rows(self, index: Tensor) -> Decoding:
        """The same state with rows picked, dropped or repeated: index (B',)."""
        pick = [(k[index], v[index]) for k, v in self.keys]
        past = None if self.past is None else [(k[index], v[index]) for k, v in self.past]
        plan, experts = (None if x is None else x[index] for x in (self.plan, self.experts))
        rest = {"mask": self.mask[index], "source_ext": self.source_ext[index], "plan": plan, "experts": experts}
        return replace(self, keys=pick, past=past, **rest)


class Responder(nn.Module):
    """Word embeddings, decoder, pointer generator; subclasses add the context."""

    reads_annotations = False  # tags r, vectors h~, p_intent: such a model cannot run without the annotators
    learns_intents = False  # the intent labels of train replies, the tagger's too; nothing else of the annotators
    reads_knowledge = False  # `Batch.known`: concepts and intensity
    reads_commonsense = False  # and the relations of commonsense
    joined = False  # whether the model runs BERT itself now
    pieces: Pieces | None = None  # such a model: how it wants its turns (`Batch.turns`)

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        """vectors (V, D): initial word embeddings E^W."""
        super().__init__()
        self.config = config
        width = config.width
        self.words = nn.Embedding.from_pretrained(vectors.clone(), freeze=False, padding_idx=Vocabulary.PAD)
        self.decoder = Decoder(width, config.heads, config.ffn, config.layers, config.dropout)
        self.pointer = PointerGenerator(width)
        self.project = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(len(vectors)))
        self.dropout = Dropout(config.dropout)
        self.register_buffer("places", positions(PLACES, width), persistent=False)
        if not config.tied:
            self.out = nn.Linear(width, len(vectors), bias=False)

    # --- what a model defines ------------------------------------------------------------------------------------

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """The context of a batch. Raises TypeError on the shell itself: a model must define it."""
        raise TypeError(f"{type(self).__name__} does not say what it makes of the context: define encode")

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named scalar losses beside the response's; none by default."""
        return {}

    def learned_from(self, batch: Batch, context: Context, generator: torch.Generator | None = None) -> Context:
        """The context for the decoder of `loss` alone: labels may enter it; scoring and answering never come here."""
        return context

    def decode(
        self,
        x: Tensor,
        keys: list[Keys],
        mask: Tensor,
        past: list[Keys] | None = None,
        experts: Tensor | None = None,
        spoken: Places | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Keys]]:
        """x (B, T, D), mask (B, S), experts (B, K) or None -> as `Decoder.forward`.

        spoken: where words are (`places_of`); nobody reads the states of padding after them. A decoder of several
        (MoEL's) is 33 times as wide as others: it is told, and leaves the padding out.
        """
        if experts is None:
            return self.decoder(x, keys, mask, past)
        return self.decoder(x, keys, mask, past, experts, spoken)

    def hits(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Right or wrong per labelled sample for what the model names (emotion, intent); nothing by default."""
        return {}

    def groups(self) -> list[dict]:
        """Groups of weights for the optimiser; "scale" multiplies the learning rate of one."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    # --- embedding and words -------------------------------------------------------------------------------------

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """E^W + E^P (eq. 1): ids (B, L) -> (B, L, D)."""
        return self.words(ids) + self.position(start, ids.size(1))

    def position(self, start: int, length: int) -> Tensor:
        """E^P of `length` places from `start` on (L, D)."""
        if start + length <= len(self.places):
            return self.places[start : start + length]
        return positions(length, self.config.width, start, self.places.device)

    def embed_response(self, ids: Tensor, start: int = 0, plan: Tensor | None = None) -> Tensor:
        """E^C of the response, ids (B, T), plan (B, D) or None -> (B, T, D)."""
        embedded = self.embed(ids, start)
        return self.dropout(embedded if plan is None else embedded + plan[:, None])

    @property
    def output(self) -> Tensor:
        """The weight of the output product (V, D)."""
        return self.words.weight if self.config.tied else self.out.weight

    def vocab_logits(self, states: Tensor, columns: Columns | None = None) -> Tensor:
        """(..., D) -> (..., V); by the columns, if given, where states (B, D) are few."""
        projected = self.project(states)
        if columns is not None and len(states) < columns.FEW:
            return columns(projected)
        return F.linear(projected, self.output, self.bias)

    def columns(self) -> Columns | None:
        """The output weight for decoding: None where the weight as it lies does well (a GPU, low precision)."""
        kind = self.bias.device.type
        return Columns(self.output, self.bias) if kind == "cpu" and not torch.is_autocast_enabled(kind) else None

    # --- training ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loop's and `accelerate`'s entry: the same as `loss`."""
        return self.loss(batch)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Named scalar terms; their sum is L of eq. 12. The response term is nats per word, EOS counted."""
        context = self.learned_from(batch, self.encode(batch.unlabelled(), generator), generator)
        words, _, told = self.taught(batch, context)
        terms = {"response": -mean(words) * self.config.response_weight}
        return terms | self.extra_losses(batch, replace(context, told=told), generator)

    def word_log_probs(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor]:
        """log p of each gold word under the pointer mixture, padding dropped: (M,), and its row in the batch (M,)."""
        return self.taught(batch, context)[:2]

    def places_of(self, batch: Batch) -> Places:
        """Where words of the replies are: rows and places (M,) as `made_up`, and how many of the M are so."""
        rows, places = batch.said
        return self.made_up(rows), self.made_up(places), len(rows)

    def made_up(self, index: Tensor) -> Tensor:
        """index (M,), in training with zeros up to a multiple, to be dropped again: few shapes (`rd.memory`)."""
        return F.pad(index, (0, -len(index) % MULTIPLE)) if self.training else index

    def taught(self, batch: Batch, context: Context) -> tuple[Tensor, Tensor, Told]:
        """The gold reply, word by word: as `word_log_probs`, and all that they were made of."""
        target, source = batch.target, batch.source_ext
        rows, places, words = spoken = self.places_of(batch)  # padding never meets the V columns
        shifted = torch.cat([torch.full_like(target[:, :1], Vocabulary.BOS), target[:, :-1]], 1)
        embedded = self.embed_response(shifted, plan=context.plan)
        keys = self.decoder.memory_keys(context.memory)
        states, read, looked, _ = self.decode(embedded, keys, context.mask, None, context.experts, spoken)
        gate = self.pointer.gate(states, read, embedded)
        copied = copy_weights(looked[rows, places], source.size(1))
        told = Told(rows, places, words, self.vocab_logits(states[rows, places]), gate[rows, places], copied, looked)
        gold = batch.target_ext[rows, places]
        log_probs = self.pointer.log_prob_at(told.logits, told.gate, copied, source[rows], gold)
        return log_probs[:words], rows[:words], told

    @torch.inference_mode()
    def nll(self, batch: Batch) -> tuple[Tensor, Tensor, Context]:
        """Sum of -log p over the words and EOS of each reply (B,), their number (B,), the context (saw no label)."""
        context = self.encode(batch.unlabelled())
        log_probs, rows = self.word_log_probs(batch, context)
        sums = torch.zeros(len(batch.ids), dtype=torch.float64, device=rows.device)
        return -sums.index_add(0, rows, log_probs.double()), torch.bincount(rows, minlength=len(batch.ids)), context

    # --- decoding ------------------------------------------------------------------------------------------------

    def start(self, batch: Batch, context: Context, columns: Columns | None = None) -> Decoding:
        """The state before the first word. columns: of this model, made once for many batches."""
        extra = max(len(words) for words in batch.oov)
        # read at every step: a product of what does not lie in one piece would copy it first, each time
        keys = [(k.contiguous(), v.contiguous()) for k, v in self.decoder.memory_keys(context.memory)]
        return Decoding(keys, context.mask, batch.source_ext, extra, columns, context.plan, context.experts)

    def step(self, words: Tensor, state: Decoding) -> Tensor:
        """One more word: words (B,) ids (extended ids read as UNK) -> p of the next (B, X); advances state."""
        known = words.masked_fill(words >= self.words.num_embeddings, Vocabulary.UNK)
        embedded = self.embed_response(known[:, None], state.length, state.plan)
        decoded = self.decode(embedded, state.keys, state.mask, state.past, state.experts)
        states, read, weights, state.past = decoded
        state.length += 1
        gate = self.pointer.gate(states, read, embedded)[:, 0]
        copied = copy_weights(weights[:, 0], state.source_ext.size(1))
        extended = self.words.num_embeddings + state.extra
        logits = self.vocab_logits(states[:, 0], state.columns)
        return self.pointer.mixture(logits, gate, copied, state.source_ext, extended)


def copy_weights(weights: Tensor, words: int) -> Tensor:
    """Attention over the memory (M, S) -> the copy distribution over its last L slots, the context words (M, L)."""
    copied = weights[:, weights.size(1) - words :].float()  # not -words: that takes all where L is 0
    return copied / copied.sum(-1, keepdim=True).clamp_min(1e-6)


def label_loss(log_probs: Tensor, gold: Tensor) -> Tensor:
    """Mean -log p of the gold labels (B,), log_probs (B, C); unlabelled left out; zero where a batch has none."""
    total = F.nll_loss(log_probs, gold, ignore_index=UNLABELLED, reduction="sum")
    return ratio(total, (gold != UNLABELLED).sum())
