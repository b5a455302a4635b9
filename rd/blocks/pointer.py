r"""Pointer generator of the response decoder (eq. 11; See et al. 2017, eq. 8-9).

$$ P(y) = p_{gen} \,\mathrm{softmax}_V(y) + (1 - p_{gen}) \sum_{l: x_l = y} a_l, \qquad
   p_{gen} = \mathrm{sigmoid}(w \cdot [\text{state}; \text{context vector}; \text{input embedding}]) $$

Training needs P at the gold words only, so `log_prob_at` never builds the B x T x V mixture. "Extended" ids: below V a
vocabulary word, from V on a word that only the context has (it can be copied, not generated).
In the shapes, M is the valid target positions of a batch, flattened.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class GoldLogProbs(torch.autograd.Function):
    """log softmax of logits (M, V) at the gold ids (M,) -> float32 (M,), without a float32 copy of the logits.

    A few rows at a time, so that what is float32 stays in the processor's cache. The gradient has the logits' type;
    there is no second one (RuntimeError).
    """

    ROWS = 64

    @staticmethod
    def forward(ctx, logits: Tensor, gold: Tensor) -> Tensor:
        """The probabilities are not kept: the backward pass makes them again, which is cheaper than to write them."""
        ctx.save_for_backward(logits, gold)
        found = []
        for part, words in zip(logits.split(GoldLogProbs.ROWS), gold.split(GoldLogProbs.ROWS), strict=True):
            found.append(part.log_softmax(-1, dtype=torch.float32).gather(-1, words[:, None])[:, 0])
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """grad (M,) times (one at the gold id, less the softmax)."""
        logits, gold = ctx.saved_tensors
        found, rows = torch.empty_like(logits), GoldLogProbs.ROWS
        for target, part, words, weight in zip(
            *(t.split(rows) for t in (found, logits, gold, grad[:, None])), strict=True
        ):
            slope = part.softmax(-1, dtype=torch.float32).mul_(-weight)  # (rows, V)
            target.copy_(slope.scatter_add_(-1, words[:, None], weight))
        return found, None


class PointerGenerator(nn.Module):
    """Mixes "say a vocabulary word" with "copy a context word"; float32 inside."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(3 * width, 1)

    def gate(self, state: Tensor, context_vector: Tensor, input_embedding: Tensor) -> Tensor:
        """Logit of p_gen. (B, T, D) each -> (B, T), float32."""
        return self.linear(torch.cat([state, context_vector, input_embedding], dim=-1)).squeeze(-1).float()

    @staticmethod
    def log_prob_at(
        vocab_logits: Tensor, gate_logit: Tensor, attention: Tensor, source_ext: Tensor, gold_ext: Tensor
    ) -> Tensor:
        """vocab_logits (M, V), gate_logit (M,), attention (M, L), source_ext (M, L), gold_ext (M,) -> log P(gold) (M,).

        attention sums to 1 over the context and is 0 on padding. A gold word the context lacks must be below V. A word
        that can be neither said nor copied gets about log 1e-38: finite, and its gradient only asks for more copying.
        """
        gate_logit, attention = gate_logit.float(), attention.float()
        words = vocab_logits.size(-1)
        said = GoldLogProbs.apply(vocab_logits, gold_ext.clamp(max=words - 1))  # (M,)
        said = (F.logsigmoid(gate_logit) + said).masked_fill(gold_ext >= words, -1e9)  # (M,)
        mass = (attention * (source_ext == gold_ext[:, None])).sum(-1)  # (M,)
        copied = F.logsigmoid(-gate_logit) + mass.clamp(min=torch.finfo(mass.dtype).tiny).log()  # (M,)
        return torch.logaddexp(said, copied)

    @staticmethod
    def mixture(
        vocab_logits: Tensor, gate_logit: Tensor, attention: Tensor, source_ext: Tensor, extended: int | None = None
    ) -> Tensor:
        """P over the extended vocabulary, for decoding: shapes as in `log_prob_at` -> (M, X).

        X is `extended`, by default as large as the ids at hand need (and at least V).
        """
        words = vocab_logits.size(-1)
        if extended is None:
            extended = max(words, int(source_ext.max()) + 1)
        p_gen = torch.sigmoid(gate_logit.float())[:, None]  # (M, 1)
        said = vocab_logits.float().softmax(-1)
        if torch.is_grad_enabled():
            mixed = F.pad(p_gen * said, (0, extended - words))  # (M, X)
        else:  # the same in one pass: X is wide
            mixed = said.new_empty(len(said), extended)
            torch.mul(p_gen, said, out=mixed[:, :words])
            mixed[:, words:] = 0
        return mixed.scatter_add_(-1, source_ext, (1 - p_gen) * attention.float())
