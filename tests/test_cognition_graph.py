"""The cognition graph: every edge against the sentence that defines it, attention against its neighbours alone."""

import pytest
import torch
from made_up import batch, model_config
from torch.testing import assert_close

from rd.baselines.cognition_graph import CognitionGraph, adjacency


def spoken(count=6):
    """Where the made-up commonsense has words: some relations of some samples have none."""
    said = batch(count).known.commonsense != 0
    assert said.any(-1).any() and not said.any(-1).all()
    return said


def graph(relations, layers=1):
    torch.manual_seed(0)
    return CognitionGraph(model_config(layers=layers), relations).eval()


def test_edges_against_a_loop():
    said = spoken()
    found = adjacency(said)
    _, relations, length = said.shape
    for b in range(len(said)):
        linked = {(0, 0)}
        for r in range(relations):
            words = [1 + relations + r * length + p for p in range(length) if said[b, r, p]]
            if words:
                linked |= {(0, 1 + r), (1 + r, 0)}
                linked |= {(i, j) for i in [1 + r, *words] for j in [1 + r, *words]}
        assert set(map(tuple, found[b].nonzero().tolist())) == linked


def test_a_phrase_is_what_its_neighbours_alone_make_of_it():
    """A dense loop: the layer on CTX, the phrase and its words, and nothing else."""
    said = spoken()
    batches, relations, _ = said.shape
    net = graph(relations)
    ctx, words = torch.randn(batches, 12), torch.randn(*said.shape, 12)
    found, there = net(ctx, words, said)
    for b in range(batches):
        for r in range(relations):
            if not said[b, r].any():
                assert not there[b, r] and not found[b, r].any()
                continue
            near = torch.cat([net.relations[r][None], ctx[b][None], words[b, r][said[b, r]]])[None]
            alone = net.encoder(near, torch.ones(1, near.size(1), dtype=torch.bool))[0, 0]
            assert_close(found[b, r], alone)


@pytest.mark.parametrize("gone", range(5))
def test_removing_a_relations_words_removes_exactly_its_nodes(gone):
    """The others are then those of a graph that never had this relation, over two layers, too."""
    said = spoken()
    net = graph(5, layers=2)
    ctx, words = torch.randn(len(said), 12), torch.randn(*said.shape, 12)
    kept = [r for r in range(5) if r != gone]
    less = said.clone()
    less[:, gone] = False
    before, after = adjacency(said), adjacency(less)
    lost = (before.any(-1) & ~after.any(-1)).any(0)
    length = said.size(2)
    own = torch.cat([said[:, gone].any()[None] & (torch.arange(6) == 1 + gone), torch.zeros(5 * length).bool()])
    own[6 + gone * length : 6 + (gone + 1) * length] = said[:, gone].any(0)
    assert lost.equal(own)
    found, there = net(ctx, words, less)
    smaller = graph(4, layers=2)
    smaller.encoder.load_state_dict(net.encoder.state_dict())
    smaller.relations.data = net.relations.data[kept]
    without, where = smaller(ctx, words[:, kept], said[:, kept])
    assert_close(found[:, kept], without)
    assert there[:, kept].equal(where) and not there[:, gone].any() and not found[:, gone].any()
