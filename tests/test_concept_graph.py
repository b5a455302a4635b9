"""The graph of a context: every edge against the sentence that defines it."""

import torch
from made_up import batch
from torch.testing import assert_close

from rd.baselines.concept_graph import adjacency, nodes
from rd.blocks.transformer import Encoder


def test_edges_against_a_loop():
    given = batch(6)
    found = adjacency(given.mask, given.known)
    length, concepts = given.source.size(1), given.known.concepts.size(1)
    for b in range(6):
        words = [1 + i for i in range(length) if given.mask[b, i]]
        linked = {(0, 0)} | {(w, w) for w in words} | {(w, w + 1) for w in words if w + 1 in words}
        for c in range(concepts):
            if given.known.concepts[b, c]:
                node = 1 + length + c
                linked |= {(node, node), (node, 1 + int(given.known.heads[b, c])), (0, node)}
        linked |= {(0, w) for w in words}
        linked |= {(j, i) for i, j in linked}
        assert set(map(tuple, found[b].nonzero().tolist())) == linked
    assert given.known.concepts.bool().any()


def test_attention_on_a_graph_is_attention_among_neighbours():
    """One layer: a node's state is that of the small graph of itself and what it looks at."""
    torch.manual_seed(0)
    encoder = Encoder(12, 2, 16, 1, 0.0).eval()
    given = batch(3)
    edges = adjacency(given.mask, given.known)
    x = torch.randn(3, edges.size(1), 12)
    found = encoder(x, edges)
    for b, node in edges.any(-1).nonzero().tolist():
        near = edges[b, node].nonzero()[:, 0]
        alone = encoder(x[b : b + 1, near], torch.ones(1, len(near), dtype=torch.bool))
        assert_close(found[b, node], alone[0, (near == node).nonzero()[0, 0]])


def test_a_concept_weighs_what_its_graph_says():
    given = batch(4)
    words, concepts = torch.randn(4, given.source.size(1) + 1, 3), torch.randn(4, given.known.concepts.size(1), 3)
    every, intensity = nodes(words, concepts, given.known)
    assert_close(every[:, : words.size(1)], words)
    assert_close(every[:, words.size(1) :], concepts)
    assert not intensity[:, 0].any()
    assert_close(intensity[:, 1 : words.size(1)], given.known.intensity)
    assert_close(intensity[:, words.size(1) :], given.known.weights)
