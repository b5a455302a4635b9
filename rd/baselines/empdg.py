r"""EmpDG (Li et al., COLING 2020, "EmpDG: Multi-resolution Interactive Empathetic Dialogue Generation").

Two resolutions: the words of the dialogue and, apart, its emotional words; the decoder attends to both. Two critics,
semantic and emotional, read the reply together with the user's next turn and tell gold replies from the model's.

$$ L = L_{res} + L_{emo} + \sum_{c \in \{sem, emo\}} (w\, L_G^c + v\, L_D^c) $$

The generator learns words first, as in the authors' pre-training, while the critics learn from what it says; after
PRETRAIN steps it plays. The game is played inside one step: the gradient of L_D reaches the critics alone, that of L_G
the generator alone (`rd.blocks.critic`). Adam keeps its moments per weight, so this equals two optimisers that step at
once; only the clip of the gradient's norm sees both sides, and v keeps the critics' share of it small.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.emotional import EmotionalResponder
from rd.blocks.critic import Critic, Exchange, wasserstein
from rd.blocks.parts import largest, parts
from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import STRIDE, Batch
from rd.data.text import Vocabulary
from rd.labels import EMOTIONS
from rd.responder import Context

THRESHOLD = 0.25  # intensity of an emotional word; ours: one of VADER's four degrees (the paper: NRC's lexicon)
PLAYERS = 8  # samples of a batch that play: ours, for the cost; a quarter of a batch of 32
PRETRAIN = 4000  # steps; ours: the first stage of training. The authors train the generator to convergence first
ADVERSARIAL = 1e-3  # w; ours: at .01 the critics are pleased by one word in every reply (papers/baselines.md)
CRITIC_WEIGHT = 1e-3  # v; ours: Adam's steps do not depend on it, but the clip of the gradient's norm sees both sides
CRITIC_RATE = 0.1  # the critics' learning rate / the model's; the authors' code: 1e-4, where Noam's peak is about 1e-3


class EmpDG(EmotionalResponder):
    """Semantic and emotion encoder, one memory; two interactive critics in training."""

    reads_knowledge = True

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width = config.width
        self.emotion_encoder = Encoder(width, config.heads, config.ffn, config.layers, config.dropout)
        self.emotion = nn.Linear(2 * width, len(EMOTIONS))
        self.signal = nn.Linear(len(EMOTIONS), width)
        self.critics = nn.ModuleDict({"semantic": Critic(width), "emotional": Critic(width)})
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # of training, so far
        self.register_buffer("intensity", torch.zeros(len(vectors)))  # (V,) as contexts have shown it

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory [CTX, emotional words; CTX, words] (B, 2L+2, D); the emotion joins every word the decoder reads."""
        words, mask = self.context_words(batch)
        felt = F.pad(emotional(batch), (1, 0), value=True)  # (B, L+1)
        e, h = self.emotion_encoder(words, felt), self.encoder(words, mask)
        emotion = self.emotion(torch.cat([e[:, 0], h[:, 0]], -1)).float().log_softmax(-1)
        notes = {"emotion": emotion, "semantic": h[:, 0], "emotional": e[:, 0]}
        return Context(torch.cat([e, h], 1), torch.cat([felt, mask], 1), notes, self.signal(emotion.exp()))

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The emotion, and both sides of the two games."""
        terms = super().extra_losses(batch, context, generator)
        plays = (batch.after != Vocabulary.PAD).any(1)
        rows = self.players(plays, generator)
        target, after, felt = cut(batch.target[rows]), cut(batch.after[rows]), self.lexicon(batch)
        playing = bool(self.steps >= PRETRAIN)  # before, only the critics learn: no gradient to the model is made
        self.steps += self.training
        with torch.set_grad_enabled(playing and torch.is_grad_enabled()):
            said = self.expected(batch, context, rows, felt)[:, :, : target.size(1)]
        vectors = self.words.weight.detach()
        for (name, critic), spoken, kept in zip(self.critics.items(), said, (torch.ones_like(felt), felt)):
            gold, heard = (vectors[ids] * kept[ids][..., None] for ids in (target, after))
            exchange = Exchange(target != Vocabulary.PAD, heard, after != Vocabulary.PAD, context.notes[name][rows])
            losses = wasserstein(critic, spoken, gold, exchange, plays[rows], generator, fool=playing)
            terms |= {f"critic_{name}": CRITIC_WEIGHT * losses[0], f"adversarial_{name}": ADVERSARIAL * losses[1]}
        return terms

    @staticmethod
    def players(plays: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """plays (B,) True where a next turn is -> PLAYERS of those samples at random (P,), others where they are few.

        At random, as batches are sorted by length: else the longest would never play. Where a batch lies on several
        processes, each chooses its share of them.
        """
        device = plays.device if generator is None else generator.device
        drawn = torch.rand(len(plays), device=device, generator=generator).to(plays.device)
        return (plays + drawn).argsort(descending=True)[: -(-PLAYERS // parts())]

    def expected(self, batch: Batch, context: Context, rows: Tensor, felt: Tensor) -> Tensor:
        """The words that the model expects after the gold ones before, of samples rows (P,), felt (V,) -> (2, P, T, D).

        sum_w P(w) E(w) under the pointer mixture; then over emotional words alone. E is held still: P is what plays.
        context.told: P is that of the response's own loss, not made twice. Said and copied words are summed apart, so
        that nothing but the softmax is as wide as the vocabulary.
        """
        told = context.told
        player = told.rows[: told.words, None] == rows  # (M, P)
        theirs = player.any(1).nonzero()[:, 0]  # of the M words, the N of these samples
        found = self.made_up(theirs)
        vectors, some, source = self.words.weight.detach(), felt.nonzero()[:, 0], batch.source[told.rows[found]]
        said, gate = told.logits[found].softmax(-1, dtype=torch.float32), told.gate[found].sigmoid()[:, None, None]
        said = torch.stack([said @ vectors, said[:, some] @ vectors[some]], 1)  # (N, 2, D)
        copied = told.copied[found][:, None] * torch.stack([torch.ones_like(felt), felt])[:, source].movedim(0, 1)
        expected = (gate * said.float() + (1 - gate) * (copied @ vectors[source]).float())[: len(theirs)]
        spoken = expected.new_zeros(len(rows), batch.target.size(1), *expected.shape[1:])  # (P, T, 2, D)
        spoken = spoken.index_put((player[theirs].int().argmax(1), told.places[theirs]), expected)
        return spoken.movedim(2, 0)

    def lexicon(self, batch: Batch) -> Tensor:
        """(V,) True at emotional words, as far as contexts have shown them: replies come without intensities."""
        shown = batch.known.intensity.masked_fill(batch.source == Vocabulary.UNK, 0.0)
        found = largest(self.intensity.scatter_reduce(0, batch.source.flatten(), shown.flatten(), "amax"))
        if self.training:
            self.intensity.copy_(found)
        return found >= THRESHOLD

    def groups(self) -> list[dict]:
        """The critics learn at their own rate."""
        critics, learned = set(self.critics.parameters()), [p for p in self.parameters() if p.requires_grad]
        own, theirs = ([p for p in learned if (p in critics) == side] for side in (False, True))
        return [{"params": own}, {"params": theirs, "scale": CRITIC_RATE}]


def cut(ids: Tensor) -> Tensor:
    """ids (P, L) without columns of padding at the end, but for those that make their number a multiple of STRIDE.

    On a GPU as they are: it would have to be waited for to know their lengths.
    """
    if not ids.is_cpu:
        return ids
    words = max(1, int((ids != Vocabulary.PAD).any(0).sum()))
    return ids[:, : words + -words % STRIDE]


def emotional(batch: Batch) -> Tensor:
    """(B, L) True at the emotional words of the context."""
    return batch.known.intensity >= THRESHOLD
