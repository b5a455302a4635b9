r"""CAB (Gao et al., DASFAA 2023, "CAB: Empathetic Dialogue Generation with Cognition, Affection and Behavior").

$$ H' = g H + (1 - g) \tanh(W [H; r]), \qquad z_s \sim N(u_s), \quad z_l \sim N(u_l, z_s), \qquad
   plan = \sum_i \gamma_i m_i, \quad m = (H'_{CTX},\; W_z [w z_s; (1 - w) z_l],\; p_{act} E_{act}) $$

r is what the words recall of the paths of knowledge, u the state of an interlocutor, w = |cos| of their two emotions,
and the gates gamma of the three parts sum to 1. In the shapes Z is latent, K paths.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.baselines.emotional import EmotionalResponder
from rd.blocks.attention import Attention
from rd.blocks.latent import StackedLinear
from rd.blocks.parts import mean
from rd.blocks.recognition import Annealing, LatentVariable
from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import UNLABELLED, Batch
from rd.data.known import Known
from rd.data.text import Vocabulary
from rd.labels import EMOTIONS, INTENTS
from rd.responder import Context, label_loss

RELATIONS = 5  # R of `Known.commonsense`
FULL_KL = 3000  # steps until the KL term has weight 1; ours, for runs of 4,000 of 32; authors' code: 15,000 of 16
BAG = 0.1  # weight of the bag of words; authors' code


class CAB(EmotionalResponder):
    """Cognition: recalled knowledge. Affection: two latent variables. Behaviour: the dialogue act of the reply."""

    reads_knowledge = reads_commonsense = True
    learns_intents = True

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        width, scale = config.width, config.width**-0.5
        latent = 2 * width // 3  # Z   authors' code: 200 at D = 300
        self.roles = nn.Parameter(torch.randn(2, width) * scale)  # of the speaker's and the listener's words
        self.relations = nn.Parameter(torch.randn(RELATIONS, width) * scale)
        self.path = nn.Linear(2 * width, width)
        self.recall = Attention(width, config.heads, config.dropout)
        self.blend = nn.Linear(2 * width, 2 * width)
        self.side = Attention(width, config.heads, config.dropout)
        self.felt = StackedLinear(2, width, len(EMOTIONS))
        self.emotions = nn.Parameter(torch.randn(len(EMOTIONS), width) * scale)  # (E, D)
        self.reply = Encoder(width, config.heads, config.ffn, config.layers, config.dropout)
        self.speaker = LatentVariable(width, width, width, latent)
        self.listener = LatentVariable(width + latent, width, width, latent)
        self.annealing = Annealing(FULL_KL)
        self.affect = nn.Linear(2 * latent, width)
        self.bag = nn.Sequential(nn.Linear(2 * latent, width), nn.ReLU(), nn.Linear(width, width))
        self.act = nn.Linear(width, len(INTENTS))
        self.acts = nn.Parameter(torch.randn(len(INTENTS), width) * scale)  # (I, D)
        self.gate = nn.Linear(3 * width, 3 * width)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory H' (B, L+1, D), CTX first; the plan is the three parts fused, z the means of the priors."""
        words, mask = self.context_words(batch)
        spoken = torch.where(batch.speaker[..., None], self.roles[0], self.roles[1])  # (B, L, D)
        h = self.encoder(words + F.pad(spoken, (0, 0, 1, 0)), mask)
        memory, recalled = self.cognition(h, batch.known)
        notes = {"recalled": recalled, "cognition": memory[:, 0]} | self.affection(h, mask, batch.speaker)
        notes["final"] = self.act(memory[:, 0]).float().log_softmax(-1)  # (B, I)
        return self.fuse(Context(memory, mask, notes), *self.latents(notes))

    def cognition(self, h: Tensor, known: Known) -> tuple[Tensor, Tensor]:
        """h (B, L+1, D), known -> H' (B, L+1, D), h itself where nothing is known; what CTX recalls (B, K).

        A path leads from a word to the concept that it calls up, or along a relation to what commonsense says.
        """
        concepts, said = known.concepts != 0, known.commonsense != 0  # (B, C), (B, R, P)
        heads = (known.heads + 1) * concepts  # a path that is none starts at CTX
        heads = h.gather(1, heads[..., None].expand(-1, -1, h.size(-1)))  # (B, C, D)
        phrases = (self.words(known.commonsense) * said[..., None]).sum(2) / said.sum(2).clamp_min(1)[..., None]
        first = torch.cat([heads, self.relations.expand(len(h), -1, -1)], 1)
        last = torch.cat([self.words(known.concepts), phrases], 1)
        paths = torch.tanh(self.path(torch.cat([first, last], -1)))  # (B, K, D), K = C + R
        there = torch.cat([concepts, said.any(2)], 1)  # (B, K)
        read, weights = self.recall(h, self.recall.keys(paths), there[:, None])
        keep, new = self.blend(torch.cat([h, read], -1)).chunk(2, -1)
        keep = torch.sigmoid(keep).masked_fill(~there.any(1)[:, None, None], 1.0)
        return keep * h + (1 - keep) * torch.tanh(new), weights[:, 0]

    def affection(self, h: Tensor, mask: Tensor, speaker: Tensor) -> dict[str, Tensor]:
        """h (B, L+1, D), mask (B, L+1), speaker (B, L) -> notes of the two interlocutors.

        "sides" (B, 2, D): what CTX reads in each one's own words, speaker first, then again with the emotion felt;
        "emotion" and "emotion_listener" (B, E), log-probabilities; "bond" (B,): how alike the two emotions are.
        """
        own = F.pad(torch.stack([speaker, ~speaker], 1), (1, 0), value=True) & mask[:, None]  # (B, 2, L+1)
        keys = self.side.keys(h)
        asks = h[:, :1] + self.roles  # (B, 2, D)
        read = asks + self.side(asks, keys, own)[0]
        felt = self.felt(read.transpose(0, 1)).float().log_softmax(-1)  # (2, B, E)
        feeling = (felt.exp() @ self.emotions).transpose(0, 1)  # (B, 2, D)
        sides = read + self.side(read + feeling, keys, own)[0]
        bond = F.cosine_similarity(*feeling.float().unbind(1), dim=-1).abs()
        return {"sides": sides, "emotion": felt[0], "emotion_listener": felt[1], "bond": bond}

    def latents(
        self, notes: dict[str, Tensor], seen: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """[w z_s; (1-w) z_l] (B, 2Z), KL (B,): means of the priors, or drawn where the reply (B, D) is seen."""
        one, other = notes["sides"].unbind(1)
        speaker, kl_speaker = self.speaker(one, seen, generator)
        listener, kl_listener = self.listener(torch.cat([other, speaker], -1), seen, generator)  # stands on the first
        bond = notes["bond"][:, None]
        return torch.cat([bond * speaker, (1 - bond) * listener], -1), kl_speaker + kl_listener

    def fuse(self, context: Context, z: Tensor, kl: Tensor) -> Context:
        """The context with z (B, 2Z), kl (B,), the "shares" of the parts (B, 3) and the plan (B, D) that they make."""
        notes = context.notes
        parts = [notes["cognition"], self.affect(z), notes["final"].exp() @ self.acts]
        parts = torch.stack([part.float() for part in parts], 1)  # (B, 3, D)
        gates = self.gate(parts.flatten(1)).float().unflatten(-1, (3, -1)).softmax(1)  # (B, 3, D)
        return replace(context, plan=(gates * parts).sum(1), notes=notes | {"z": z, "kl": kl, "shares": gates.mean(-1)})

    def learned_from(self, batch: Batch, context: Context, generator: torch.Generator | None = None) -> Context:
        """The decoder learns from z drawn with the reply in sight; `nll` and answering never do."""
        reply = F.pad(batch.target, (1, 0), value=Vocabulary.CTX)  # (B, T+1)
        seen = self.reply(self.dropout(self.embed(reply)), reply != Vocabulary.PAD)[:, 0]  # (B, D)
        return self.fuse(context, *self.latents(context.notes, seen, generator))

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Emotion, intent, annealed KL; bag of words (Zhao et al., ACL 2017): -log p(word | z) summed over a reply."""
        notes = context.notes
        matrix = self.words if self.config.tied else self.out
        words = matrix.weight.detach(), self.bias.detach()  # the decoder's: the bag moves none of them
        said = F.linear(self.bag(notes["z"]), *words).float().log_softmax(-1)  # (B, V)
        bag = -(said.gather(1, batch.target) * (batch.target != Vocabulary.PAD)).sum(1)  # (B,)
        return super().extra_losses(batch, context, generator) | {
            "intent": label_loss(notes["final"], batch.intent),
            "kl": self.annealing() * mean(notes["kl"]),
            "bag": BAG * mean(bag),
        }

    def hits(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Whether emotion and intent were named right, for each labelled sample."""
        right = context.notes["final"].argmax(-1) == batch.intent
        return super().hits(batch, context) | {"acc_intent": right[batch.intent != UNLABELLED]}
