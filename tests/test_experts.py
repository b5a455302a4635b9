"""Expert heads: who answers, and what the vote says."""

import pytest
import torch
from torch.testing import assert_close

from rd.blocks.experts import EmotionExperts, route


@pytest.fixture
def experts():
    torch.manual_seed(1)
    experts = EmotionExperts(width=6, emotions=4, temperature=0.5)
    for parameter in experts.parameters():
        parameter.data.normal_()
    return experts


def head(experts, linear, q):
    """softmax((W E q) + bias) for one example, with explicit sums."""
    scores = [sum(e * x for e, x in zip(row, q, strict=True)) / experts.temperature for row in experts.emotions]
    logits = [sum(w * s for w, s in zip(linear.weight[i], scores, strict=True)) + linear.bias[i] for i in range(4)]
    return torch.stack(logits).exp() / torch.stack(logits).exp().sum()


def test_each_example_goes_to_its_own_head(experts):
    q, sentiment = torch.randn(3, 6), torch.tensor([0.6, -0.3, 0.0])
    found = experts(q, sentiment).exp()
    assert_close(found[0], head(experts, experts.positive, q[0]))
    assert_close(found[1], head(experts, experts.negative, q[1]))
    vote = (head(experts, experts.positive, q[2]) + head(experts, experts.negative, q[2])) / 2
    assert_close(found[2], vote)
    assert_close(found.sum(-1), torch.ones(3))


def test_the_threshold_belongs_to_neutral():
    sentiment = torch.tensor([0.05, 0.0501, -0.05, -0.0501, 0.0, 1.0, -1.0])
    assert route(sentiment).tolist() == [0, 1, 0, -1, 0, 1, -1]


@pytest.mark.parametrize(
    ("sentiment", "way"),
    [
        ([0.9, 0.9, -0.9], 1),
        ([0.9, -0.1, -0.9], -1),
        ([0.9, 0.0, 0.01], 0),
        ([0.9, -0.9], 0),  # positive and negative tie: both vote
        ([0.9, 0.0], 0),  # positive and neutral tie
        ([-0.9, -0.9, 0.0, 0.0, 0.5], 0),
        ([-0.2], -1),
    ],
)
def test_batch_routing_is_the_majority(sentiment, way):
    assert route(torch.tensor(sentiment), "batch").tolist() == [way] * len(sentiment)


def test_neighbours_matter_under_batch_routing_only(experts):
    q, sentiment = torch.randn(3, 6), torch.tensor([0.5, -0.5, -0.5])
    assert_close(experts(q, sentiment)[:1], experts(q[:1], sentiment[:1]))
    alone, among = experts(q[:1], sentiment[:1], "batch"), experts(q, sentiment, "batch")[:1]
    assert not torch.allclose(alone, among)
    assert_close(among[0].exp(), head(experts, experts.negative, q[0]))


def test_unknown_routing_is_refused():
    with pytest.raises(ValueError, match="routing"):
        route(torch.zeros(2), "majority")


def test_every_weight_learns_from_a_mixed_batch_and_starts_near_the_identity():
    experts = EmotionExperts(width=8)
    assert_close(experts.positive.weight, torch.eye(32), rtol=0, atol=0.1)
    experts(torch.randn(3, 8), torch.tensor([0.5, -0.5, 0.0])).diagonal().sum().backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in experts.parameters())
