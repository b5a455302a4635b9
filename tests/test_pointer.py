"""The pointer's loss at gold words against the whole mixture."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from rd.blocks.pointer import GoldLogProbs, PointerGenerator

WORDS, SOURCE = 7, 5  # V, L; ids 7 and 8 are words of the context that the vocabulary lacks
SOURCES = torch.tensor([[4, 7, 4, 2, 0], [8, 5, 7, 8, 6]])


@pytest.fixture
def case():
    """Two examples of four target positions: said or copied, copied twice, only said, only copied."""
    chance = torch.Generator().manual_seed(9)
    vocab = torch.randn(2, 4, WORDS, generator=chance).requires_grad_()
    gate = torch.randn(2, 4, generator=chance).requires_grad_()
    scores = torch.randn(2, 4, SOURCE, generator=chance).requires_grad_()
    padding = torch.tensor([[False] * 4 + [True], [False] * 5])
    attention = scores.masked_fill(padding[:, None], -torch.inf).softmax(-1)
    gold = torch.tensor([[2, 4, 1, 7], [5, 6, 3, 8]])
    return (vocab, gate, scores), attention, gold


def materialised(vocab, gate, attention):
    """See et al.'s mixture (B, T, X), word by word."""
    p_gen = gate.sigmoid()
    rows = []
    for b in range(2):
        for t in range(4):
            said = p_gen[b, t] * vocab[b, t].softmax(-1)
            row = list(said.unbind()) + [torch.zeros(())] * 2
            for place, word in enumerate(SOURCES[b].tolist()):
                row[word] = row[word] + (1 - p_gen[b, t]) * attention[b, t, place]
            rows.append(torch.stack(row))
    return torch.stack(rows).view(2, 4, WORDS + 2)


def flat(vocab, gate, attention, gold):
    source = SOURCES[:, None].expand(-1, 4, -1)
    return vocab.flatten(0, 1), gate.flatten(), attention.flatten(0, 1), source.flatten(0, 1), gold.flatten()


def test_loss_and_gradient_equal_the_materialised_form(case):
    leaves, attention, gold = case
    vocab, gate, _ = leaves
    ours = -PointerGenerator.log_prob_at(*flat(vocab, gate, attention, gold)).mean()
    theirs = F.nll_loss(materialised(vocab, gate, attention).log().flatten(0, 1), gold.flatten())
    assert_close(ours, theirs)
    found = torch.autograd.grad(ours, leaves, retain_graph=True)
    assert_close(found, torch.autograd.grad(theirs, leaves), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "dtype"), [(150, torch.float32), (150, torch.bfloat16), (64, torch.float32), (0, torch.float32)]
)
def test_gold_log_probs_equal_cross_entropy(rows, dtype):
    chance = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(rows, WORDS, generator=chance)).to(dtype).requires_grad_()
    gold, weight = torch.randint(WORDS, (rows,), generator=chance), torch.randn(rows, generator=chance)
    ours = GoldLogProbs.apply(logits, gold)
    theirs = -F.cross_entropy(logits.float(), gold, reduction="none")
    assert ours.dtype == torch.float32
    assert_close(ours, theirs)
    (found,) = torch.autograd.grad((ours * weight).sum(), logits)
    (wanted,) = torch.autograd.grad((theirs * weight).sum(), logits)
    assert found.dtype == dtype
    assert_close(found, wanted)


def test_mixture_equals_the_materialised_form_and_sums_to_one(case):
    (vocab, gate, _), attention, gold = case
    found = PointerGenerator.mixture(*flat(vocab, gate, attention, gold)[:4])
    assert_close(found, materialised(vocab, gate, attention).flatten(0, 1))
    assert_close(found.sum(-1), torch.ones(8))
    wide = PointerGenerator.mixture(*flat(vocab, gate, attention, gold)[:4], extended=12)
    assert wide.shape == (8, 12) and bool((wide[:, 9:] == 0).all())


def test_unknown_words_come_from_the_context_only(case):
    (vocab, gate, _), attention, gold = case
    *inputs, source, _ = flat(vocab, gate, attention, gold)
    found = PointerGenerator.log_prob_at(*inputs, source, torch.full((8,), 8))
    copied = ((1 - gate.sigmoid())[1] * (attention[1, :, 0] + attention[1, :, 3])).log()
    assert_close(found[4:], copied)  # the second context holds word 8 twice
    assert bool((found[:4] < -80).all())  # the first lacks it


def test_extreme_logits_have_finite_losses_and_gradients():
    vocab = torch.tensor([[200.0, -200.0, 0.0], [0.0, 0.0, 0.0], [0.0, 300.0, 0.0]], requires_grad=True)
    gate = torch.tensor([150.0, -150.0, 150.0], requires_grad=True)
    scores = torch.tensor([[0.0, -400.0], [-400.0, 0.0], [0.0, -400.0]], requires_grad=True)
    source = torch.tensor([[3, 2], [2, 3], [2, 3]])
    loss = -PointerGenerator.log_prob_at(vocab, gate, scores.softmax(-1), source, torch.tensor([1, 2, 3])).sum()
    loss.backward()
    assert bool(loss.isfinite()) and all(bool(leaf.grad.isfinite().all()) for leaf in (vocab, gate, scores))


def test_gate_is_one_linear_layer_over_the_three():
    torch.manual_seed(0)
    pointer = PointerGenerator(3)
    state, read, word = torch.randn(3, 2, 4, 3).unbind(0)
    a, b, c = pointer.linear.weight[0].split(3)
    assert_close(pointer.gate(state, read, word), state @ a + read @ b + word @ c + pointer.linear.bias)
