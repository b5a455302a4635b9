"""Another device than the CPU, without one: on "meta" tensors have shapes and no values.

So whatever waits for a value raises there (on a GPU it would stop the queue). Some operations take tensors of "meta"
and of the CPU together; a watch on every operation refuses that, but for the CPU's single numbers, as a GPU would.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from made_up import CASES, batch, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# These wait, a few times a step: EmpDG for the number of its step and for which words its players say, and
# transformers' BERT to see whether its mask masks anything.
FREE = [case for case in CASES if case not in ("empdg", "reflectdiffu with BERT")]


class OneDevice(TorchDispatchMode):
    """Raises where an operation gets tensors of several devices; copying from one to another may."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in given if x.dim() or x.device.type != "cpu"}
        if len(devices) > 1 and "copy" not in func.name():
            raise RuntimeError(f"{func.name()}: tensors on {sorted(devices)}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def _meta_has_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else plain(kind, *a, **k)
    )


def test_meta_tells_both_faults() -> None:
    there = torch.ones(2, device="meta")
    for wait in (there.sum().item, there.tolist, there.any().__bool__, there.nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()
    table, index = torch.ones(5, 3, device="meta"), torch.ones(2, dtype=torch.long)
    for mix in (
        lambda: there + torch.ones(2),
        lambda: table[index],
        lambda: torch.nn.functional.embedding(index, table),
        lambda: table @ torch.ones(3, 2),
        lambda: table.gather(0, torch.zeros(1, 3, dtype=torch.long)),
    ):
        with OneDevice(), pytest.raises(RuntimeError):
            mix()


@pytest.mark.parametrize("case", FREE)
def test_a_step_forward_and_back_waits_for_no_value_and_stays_on_its_device(case: str) -> None:
    model, given = tiny(case).to("meta").train(), batch(8).to("meta")
    with OneDevice():
        terms = model(given)
        sum(terms.values()).backward()
    used = [weight for weight in model.parameters() if weight.grad is not None]
    assert used and {x.device.type for x in (*terms.values(), *(weight.grad for weight in used))} == {"meta"}


@pytest.mark.parametrize("case", FREE)
def test_a_word_is_answered_without_waiting(case: str) -> None:
    model, given = tiny(case).to("meta").eval(), batch(8).to("meta").unlabelled()
    with torch.no_grad(), OneDevice():
        state = model.start(given, model.encode(given), model.columns())
        words = torch.ones(8, dtype=torch.long, device="meta")
        for _ in range(2):
            words = model.step(words, state).argmax(-1)
    assert words.device.type == "meta"
