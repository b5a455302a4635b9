"""The reference of the speed table computes what the package computes: same loss, same gradient, same replies."""

from __future__ import annotations

import sys
from types import MethodType

import pytest
import torch
from torch.testing import assert_close

from rd.generate import Decode, generate


@pytest.fixture
def reference(root, monkeypatch):
    """benchmarks/ as its scripts see it."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import naive
    import synthetic

    yield naive, synthetic
    for name in ("naive", "synthetic"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["transformer", "reflectdiffu"])
def test_the_naive_reference_is_the_same_model(reference, name) -> None:
    naive, synthetic = reference
    config = synthetic.CACHED
    examples, collate = synthetic.synthetic(6, synthetic.vocabulary(300), config.model.bert_width)
    model, batch = synthetic.build(name, config, collate.vocab).eval(), collate(examples)
    context = model.encode(batch.unlabelled())
    ours, rows = model.word_log_probs(batch, context)
    theirs, their_rows, _ = MethodType(naive.naive_taught, model)(batch, context)
    assert_close(theirs, ours, rtol=1e-4, atol=1e-4)
    assert torch.equal(rows, their_rows)
    weight = model.words.weight
    (wanted,) = torch.autograd.grad(theirs.mean(), weight, retain_graph=True)
    (found,) = torch.autograd.grad(ours.mean(), weight)
    assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    replies = next(iter(generate(model, [batch], Decode(steps=7))))[2]
    assert naive.naive_greedy(model, batch, 7) == replies
