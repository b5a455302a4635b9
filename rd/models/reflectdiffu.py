"""ReflectDiffu (Yuan et al.): contagion encoder, contrastive experts, intent twice, pointer decoder (eq. 1-12)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rd.blocks.contrastive import nt_xent
from rd.blocks.experts import EmotionExperts
from rd.blocks.parts import everyone
from rd.blocks.policy import policy_loss, reward
from rd.config import ModelConfig
from rd.data.batch import UNLABELLED, Batch, Pieces
from rd.data.text import Vocabulary
from rd.labels import EMOTIONS, INTENTS, POSITIVE
from rd.models.annotator import ERA
from rd.models.contagion import ContagionEncoder, mean_words
from rd.models.intent import Correcting, Exploring, MimicryUnit, Sampled, Sampling
from rd.responder import Context, Responder, label_loss


class ReflectDiffu(Responder):
    """The whole model. Ablations are switches of the config (Table 2): era, experts, intent_twice, emu."""

    reads_annotations = True

    def __init__(
        self, config: ModelConfig, vectors: Tensor, reference: Tensor | None = None, era: ERA | None = None
    ) -> None:
        """reference (E, I) bool: the derived Table 1. Without: all intents (before loading weights).

        era: the annotator that trains along where config.joint is set (it is changed); else it is not looked at. It
        does so while `joined`: a first stage of training turns that off, and reads cached vectors.
        Raises ValueError where config.joint is set and there is none.
        """
        super().__init__(config, vectors)
        self.joined = config.joint and config.era  # without ERA nothing reads h~
        if self.joined:
            if era is None:
                raise ValueError("joint training needs the annotator ERA")
            self.annotator = era
            # the tags stay those of the frozen ERA; word embeddings hardly move; nobody reads a pooler
            words, pooler = era.bert.get_input_embeddings(), getattr(era.bert, "pooler", None)
            for part in (era.emission, era.crf, era.emotion, words, pooler):
                for weight in () if part is None else part.parameters():
                    weight.requires_grad_(False)
        width = config.width
        if reference is None:
            reference = torch.ones(len(EMOTIONS), len(INTENTS), dtype=torch.bool)
        self.contagion = ContagionEncoder(config)
        if config.experts:
            self.experts = EmotionExperts(width, len(EMOTIONS))
        else:
            self.emotion_head = nn.Linear(width, len(EMOTIONS))
        self.intents = nn.Parameter(torch.randn(len(INTENTS), width) * width**-0.5)  # (I, D)
        self.exploring = Exploring(config)
        if config.emu:
            self.emu = MimicryUnit(config)
        if config.intent_twice:
            self.sampling = Sampling(config, reference)
            self.correcting = Correcting(config)
        self.intent_slot = nn.Linear(width, width)
        positive = torch.tensor([name in POSITIVE for name in EMOTIONS])
        self.register_buffer("positive", positive, persistent=False)  # (E,)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """Memory = [final intent; Emofused] (B, L+3, D), or Emofused with the intent as plan."""
        ctx = self.words(batch.source.new_full((len(batch.ids), 1), Vocabulary.CTX))
        features = self._vectors(batch) if self.joined else batch.features
        h, q = self.contagion(self.embed(batch.source), ctx, batch.reason, batch.mask, features)
        emotion = self._emotion(q, batch.sentiment)  # (B, E) log-probabilities
        first = self.exploring(q, self.intents, batch.intent_prior)
        notes = {"q": q, "emotion": emotion, "first": first}
        mask = F.pad(batch.mask, (1, 0), value=True)
        fused, fused_mask = h, mask
        if self.config.emu:
            notes["split"] = self.emu.split(q, self._emotion_embeddings())
            notes["mimicked"] = self.emu.mimic(notes["split"], first, generator)
            fused, fused_mask = self.emu(notes["mimicked"], h, mask)
        final = first.clamp_min(1e-6).log()
        if self.config.intent_twice:
            # the policy's noisy gradient stops at its own layers
            state = mean_words(fused, fused_mask).detach()
            sampled = self.sampling(state, emotion.argmax(-1), first, generator)
            notes |= vars(sampled)
            final = self.correcting(first, sampled.action, self.intents)
        notes["final"] = final  # (B, I) log-probabilities
        plan = self.intent_slot(final.exp() @ self.intents)  # (B, D)
        if self.config.intent_place == "input":
            return Context(fused, fused_mask, notes, plan)
        memory = torch.cat([plan[:, None].to(fused.dtype), fused], 1)
        return Context(memory, F.pad(fused_mask, (1, 0), value=True), notes)

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """L_em (eq. 20) and L_twice (eq. 10, with the noise and policy terms: papers/errata.md), each by its weight."""
        notes, config = context.notes, self.config
        q, felt = everyone(notes["q"]), everyone(batch.emotion)
        emotion = {
            "contrast": nt_xent(q, felt, config.temperature, known=felt != UNLABELLED),
            "emotion": label_loss(notes["emotion"], batch.emotion),
        }
        twice = {"intent": label_loss(notes["final"], batch.intent)}
        if config.emu:
            both, noise = self.emu.loss(notes["split"], notes["first"], generator)
            twice |= {"kl_pos": both[0], "kl_neg": both[1]}
            notes["noise_error"] = noise
        if config.intent_twice:
            # its own: through the correction alone, p_semantic learned to name one intent for everyone
            twice["intent_first"] = label_loss(notes["first"].clamp_min(1e-6).log(), batch.intent)
            twice["policy"] = self._policy_loss(notes)
        return {k: config.emotion_weight * v for k, v in emotion.items()} | {
            k: config.twice_weight * v for k, v in twice.items()
        }

    def hits(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Right or wrong per labelled sample, from a context that saw no label: emotion, final and first intent."""
        notes = context.notes
        known, felt = batch.intent != UNLABELLED, batch.emotion != UNLABELLED
        return {
            "acc_emo": (notes["emotion"].argmax(-1) == batch.emotion)[felt],
            "acc_intent": (notes["final"].argmax(-1) == batch.intent)[known],
            "acc_intent_first": (notes["first"].argmax(-1) == batch.intent)[known],
        }

    def groups(self) -> list[dict]:
        """The optimiser's groups: BERT, while it trains along, learns at joint_rate of the rate."""
        learned = [(name.startswith("annotator."), p) for name, p in self.named_parameters() if p.requires_grad]
        own, bert = ([p for inside, p in learned if inside == side] for side in (False, True))
        return [{"params": own}, *([{"params": bert, "scale": self.config.joint_rate}] if self.joined else [])]

    @property
    def pieces(self) -> Pieces | None:
        """How BERT wants the turns, while it is run here."""
        return self.annotator.pieces if self.joined else None

    def _vectors(self, batch: Batch) -> Tensor:
        """h~ of the context words (B, L, Db) from BERT, with its gradient."""
        vectors = self.annotator.encode_by_length(batch.turns.pieces)  # (N, words of a turn, Db)
        return vectors[batch.turns.row, batch.turns.place] * batch.mask[..., None]

    def _emotion(self, q: Tensor, sentiment: Tensor) -> Tensor:
        if self.config.experts:
            return self.experts(q, sentiment, self.config.routing)
        return self.emotion_head(q).float().log_softmax(-1)

    def _emotion_embeddings(self) -> Tensor:
        return self.experts.emotions if self.config.experts else self.emotion_head.weight

    def _policy_loss(self, notes: dict[str, Tensor]) -> Tensor:
        """REINFORCE with the clipped ratio pi/mu; the reward of eq. 9 has no gradient."""
        sampled = Sampled(notes["action"], notes["log_pi"], notes["mu"])
        emo = notes.get("mimicked", notes["q"].expand(2, -1, -1))
        felt_positive = self.positive[notes["emotion"].argmax(-1)]  # (B,)
        gained = reward(torch.where(felt_positive[:, None], emo[0], emo[1]), self.intents[sampled.action])
        notes["reward"] = gained
        baseline = self.sampling.baseline(gained)
        return policy_loss(sampled.log_pi, sampled.mu, sampled.action, gained, baseline, self.config.clip_ratio)
