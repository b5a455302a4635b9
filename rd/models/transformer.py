"""The plain transformer of the same size, with the same decoder and pointer: a row of the table.

It reads no annotation: E^C = E^W + E^P, H = TRS_Enc(E^C) is the memory. An emotion head on CTX (the multitask
transformer of Rashkin et al. 2019) is off: this row says what the words alone give.
"""

import torch
from torch import Tensor

from rd.blocks.transformer import Encoder
from rd.config import ModelConfig
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.responder import Context, Responder


class Transformer(Responder):
    """Encoder and decoder, nothing else."""

    def __init__(self, config: ModelConfig, vectors: Tensor) -> None:
        super().__init__(config, vectors)
        self.encoder = Encoder(config.width, config.heads, config.ffn, config.layers, config.dropout)

    def encode(self, batch: Batch, generator: torch.Generator | None = None) -> Context:
        """CTX is prepended: memory H (B, L+1, D)."""
        source = torch.cat([batch.source.new_full((len(batch.ids), 1), Vocabulary.CTX), batch.source], 1)
        mask = source != Vocabulary.PAD
        return Context(self.encoder(self.dropout(self.embed(source)), mask), mask)
