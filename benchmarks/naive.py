"""The same model computed the usual way, as the reference of every ratio of speed.

Everything padded goes through the output product, the mixture is materialised (B, T, X), and answers are decoded one
word at a time without a cache, the whole prefix again each time. Values and replies are the same: a test says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.generate import SILENT
from rd.responder import Context, Responder, copy_weights


def naive_taught(model: Responder, batch: Batch, context: Context) -> tuple[Tensor, Tensor, None]:
    """`Responder.taught` with everything materialised: padded places, softmax, mixture (B, T, X)."""
    target, source = batch.target, batch.source_ext
    shifted = torch.cat([torch.full_like(target[:, :1], Vocabulary.BOS), target[:, :-1]], 1)
    embedded = model.embed_response(shifted, plan=context.plan)
    states, read, weights, _ = model.decode(
        embedded, model.decoder.memory_keys(context.memory), context.mask, experts=context.experts
    )
    gate = torch.sigmoid(model.pointer.gate(states, read, embedded))[..., None]  # (B, T, 1)
    said = gate * model.vocab_logits(states).softmax(-1)  # (B, T, V)
    extra = max(0, int(source.max()) + 1 - said.size(-1))
    copied = (1 - gate) * copy_weights(weights.flatten(0, 1), source.size(1)).view(*gate.shape[:2], -1)
    where = source[:, None].expand_as(copied)
    mixed = torch.nn.functional.pad(said, (0, extra)).scatter_add(-1, where, copied)  # (B, T, X)
    log_probs = mixed.clamp_min(1e-30).log().gather(-1, batch.target_ext[..., None])[..., 0]  # (B, T)
    rows, places = (target != Vocabulary.PAD).nonzero(as_tuple=True)
    return log_probs[rows, places], rows, None


@torch.inference_mode()
def naive_greedy(model: Responder, batch: Batch, steps: int) -> list[list[int]]:
    """The whole prefix again at every step, its mixture at every place, as the peers' code does; finished rows kept."""
    context = model.encode(batch.unlabelled())
    said = torch.full((len(batch.ids), 1), Vocabulary.BOS)
    ended = torch.zeros(len(batch.ids), dtype=torch.bool)
    for _ in range(steps):
        known = said.masked_fill(said >= model.words.num_embeddings, Vocabulary.UNK)
        embedded = model.embed_response(known, plan=context.plan)
        states, read, weights, _ = model.decode(
            embedded, model.decoder.memory_keys(context.memory), context.mask, experts=context.experts
        )
        gate, logits = model.pointer.gate(states, read, embedded), model.vocab_logits(states)  # (B, T, V)
        copied = copy_weights(weights.flatten(0, 1), batch.source.size(1))  # (B T, L)
        every = batch.source_ext.repeat_interleave(said.size(1), 0)
        mixed = model.pointer.mixture(logits.flatten(0, 1), gate.flatten(), copied, every)  # (B T, X)
        probs = mixed.log().unflatten(0, said.shape)[:, -1].exp()
        probs[:, SILENT] = 0
        said = torch.cat([said, probs.argmax(-1, keepdim=True)], 1)
        ended |= said[:, -1] == Vocabulary.EOS
        if ended.all():
            break
    rows = said[:, 1:].tolist()
    return [row[: row.index(Vocabulary.EOS)] if Vocabulary.EOS in row else row for row in rows]
