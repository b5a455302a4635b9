"""The CRF against the list of all tag paths."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from rd.blocks.crf import LinearChainCRF

LENGTHS = (5, 1, 0, 3)


@pytest.fixture
def case():
    """A CRF with three tags, and four sequences of which one is empty."""
    chance = torch.Generator().manual_seed(3)
    crf = LinearChainCRF(tags=3)
    for parameter in crf.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=chance))
    emissions = torch.randn(len(LENGTHS), 5, 3, generator=chance)
    tags = torch.randint(3, (len(LENGTHS), 5), generator=chance)
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    return crf, emissions, tags, mask


def score(crf, emissions, path):
    """The exponent of eq. 16, word by word, with the start and end scores. emissions (L, C), path L tags."""
    inner = crf.crf
    total = inner.start_transitions[path[0]] + inner.end_transitions[path[-1]]
    total = total + sum(emissions[i, tag] for i, tag in enumerate(path))
    return total + sum(inner.transitions[a, b] for a, b in zip(path, path[1:], strict=False))


def every_path(crf, emissions, length):
    paths = list(product(range(3), repeat=length))
    return paths, torch.stack([score(crf, emissions, path) for path in paths])


def test_loss_is_per_token_against_all_paths(case):
    crf, emissions, tags, mask = case
    total = 0.0
    for row, length in enumerate(LENGTHS):
        if length:
            _, scores = every_path(crf, emissions[row], length)
            total = total + scores.logsumexp(0) - score(crf, emissions[row], tags[row, :length].tolist())
    assert_close(crf.loss(emissions, tags.masked_fill(~mask, -100), mask), total / sum(LENGTHS))


def test_decode_is_the_best_of_all_paths(case):
    crf, emissions, _, mask = case
    found = crf.decode(emissions, mask)
    for row, length in enumerate(LENGTHS):
        best = []
        if length:
            paths, scores = every_path(crf, emissions[row], length)
            best = list(paths[int(scores.argmax())])
        assert found[row].tolist() == best + [0] * (5 - length)


def test_marginals_sum_over_all_paths(case):
    crf, emissions, _, mask = case
    wanted = torch.zeros_like(emissions)
    for row, length in enumerate(LENGTHS):
        if length:
            paths, scores = every_path(crf, emissions[row], length)
            for path, probability in zip(paths, scores.softmax(0), strict=True):
                for word, tag in enumerate(path):
                    wanted[row, word, tag] += probability.detach()
    assert_close(crf.marginals(emissions, mask), wanted)


def test_marginals_are_the_gradient_of_the_partition(case):
    """d log Z / d emission = marginal (Eisner 2016), and loss * tokens = log Z - score, whose gradient is one-hot."""
    crf, emissions, tags, mask = case
    emissions.requires_grad_()
    (crf.loss(emissions, tags, mask) * mask.sum()).backward()
    one_hot = torch.nn.functional.one_hot(tags, 3) * mask[..., None]
    assert_close(emissions.grad + one_hot, crf.marginals(emissions.detach(), mask).detach())


def test_only_empty_rows_cost_nothing_and_still_have_a_graph(case):
    crf, emissions, tags, mask = case
    nothing = torch.zeros_like(mask)
    loss = crf.loss(emissions, tags, nothing)
    loss.backward()
    assert loss.item() == 0 and all(bool((p.grad == 0).all()) for p in crf.parameters())
    assert crf.decode(emissions, nothing).sum() == 0 and crf.marginals(emissions, nothing).sum() == 0


@pytest.mark.parametrize("row", [[1, 0, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
def test_masks_with_holes_are_refused(case, row):
    crf, emissions, tags, mask = case
    mask[0] = torch.tensor(row, dtype=torch.bool)
    for use in (lambda: crf.loss(emissions, tags, mask), lambda: crf.decode(emissions, mask)):
        with pytest.raises(ValueError, match="hole"):
            use()
    with pytest.raises(ValueError, match="bool"):
        crf.marginals(emissions, mask.long())


def test_autocast_changes_nothing(case):
    """Emissions that arrive in bfloat16 are counted in float32."""
    crf, emissions, tags, mask = case
    half = emissions.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = crf.loss(half, tags, mask), crf.marginals(half, mask)
    outside = crf.loss(half.float(), tags, mask), crf.marginals(half.float(), mask)
    assert_close(inside, outside, rtol=0, atol=0)
