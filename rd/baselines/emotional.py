"""What the baselines share: an encoder over the words of the context, and an emotion that is named and trained."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import UNLABELLED, Batch
from rd.data.text import Vocabulary
from rd.responder import Context, Responder, label_loss


class EmotionalResponder(Responder):
    """A model whose `encode` notes "emotion", log-probabilities (B, E); its cross entropy joins the loss."""

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        self.encoder = Encoder(config.width, config.heads, config.ffn, config.layers, config.dropout)

    def context_words(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """CTX and the words, embedded with dropout: (B, L+1, D), and where they stand (B, L+1)."""
        source = F.pad(batch.source, (1, 0), value=Vocabulary.CTX)
        return self.dropout(self.embed(source)), source != Vocabulary.PAD

    def extra_losses(
        self, batch: Batch, context: Context, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the emotion, samples without a label left out."""
        return {"emotion": self.config.emotion_weight * label_loss(context.notes["emotion"], batch.emotion)}

    def hits(self, batch: Batch, context: Context) -> dict[str, Tensor]:
        """Whether the emotion was named right, for each labelled sample."""
        right = context.notes["emotion"].argmax(-1) == batch.emotion
        return {"acc_emo": right[batch.emotion != UNLABELLED]}
