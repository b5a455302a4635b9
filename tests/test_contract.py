"""One contract for every model of the tables: see CASES in made_up.py, where a model is added by its name."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import (
    CASES,
    VOCAB,
    batch,
    collate,
    dense,
    epochs,
    examples,
    model_config,
    saved,
    tiny,
    train_config,
    validate,
)
from torch.nn import functional as F
from torch.testing import assert_close

from rd.data.batch import UNLABELLED, Batch
from rd.errors import UserError
from rd.generate import Decode, generate, in_words
from rd.run import MODELS
from rd.train import TrainingError, fit

EVERY = pytest.mark.parametrize("case", CASES)
TWO = pytest.mark.parametrize("case", ["transformer", "reflectdiffu"])
GREEDY = Decode(steps=12)
# Weights that no loss of their own model reaches, with the reason. None today: EMU's still noise is a buffer.
WITHOUT_GRADIENT: dict[str, set[str]] = {}


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def replies(model, *batches: Batch) -> dict[str, list[int]]:
    """Greedy replies by sample id."""
    found = generate(model, batches, GREEDY)
    return {key: reply for answered, _, rows in found for key, reply in zip(answered.ids, rows, strict=True)}


def test_every_model_is_under_contract():
    assert {case.replace(",", "").split()[0] for case in CASES} == set(MODELS)
    switches = {name for changes in CASES.values() for name, value in changes.items() if isinstance(value, bool)}
    assert switches == {n for n, value in vars(model_config()).items() if isinstance(value, bool)} - {"tied"}


@EVERY
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_gets_a_gradient(case, tied):
    model = tiny(case, tied=tied).train()
    for seed in range(2):
        sum(model.loss(batch(8, seed)).values()).backward()
    for name, weight in model.named_parameters():
        if not weight.requires_grad:  # frozen parts of a BERT that trains along: test_reflectdiffu.py lists them
            continue
        reached = weight.grad is not None and bool(weight.grad.isfinite().all()) and bool(weight.grad.any())
        assert reached != (name in WITHOUT_GRADIENT.get(case, ())), name


@EVERY
def test_padding_changes_nothing(case):
    """Wider source and target, by columns of padding: every loss term, NT-Xent's too, and the likelihoods."""
    model, given = tiny(case).eval(), batch()
    columns = ("source", "source_ext", "speaker", "reason", "target", "target_ext")
    wider = {name: F.pad(getattr(given, name), (0, 3)) for name in columns}
    turns = given.turns._replace(row=F.pad(given.turns.row, (0, 3)), place=F.pad(given.turns.place, (0, 3)))
    known = given.known._replace(
        intensity=F.pad(given.known.intensity, (0, 3)),
        concepts=F.pad(given.known.concepts, (0, 2)),
        heads=F.pad(given.known.heads, (0, 2)),
        weights=F.pad(given.known.weights, (0, 2)),
        commonsense=F.pad(given.known.commonsense, (0, 2)),
    )
    wider |= {"features": F.pad(given.features, (0, 0, 0, 3), value=7.0), "after": F.pad(given.after, (0, 2))}
    wider = replace(given, **wider, turns=turns, known=known)
    assert_close(model.loss(wider, chance()), model.loss(given, chance()))
    assert_close(model.nll(wider)[:2], model.nll(given)[:2], rtol=1e-5, atol=1e-5)
    assert replies(model, wider) == replies(model, given)


@EVERY
def test_batch_mates_change_nothing(case):
    model, every = tiny(case).eval(), examples(6)
    together = collate()(every)
    alone = [collate()([example]) for example in every]
    nll, words, context = model.nll(together)
    answered = [model.nll(one) for one in alone]
    assert_close(nll, torch.cat([row[0] for row in answered]), rtol=1e-5, atol=1e-5)
    assert_close(words, torch.cat([row[1] for row in answered]))
    for name in {"emotion", "first", "final", "log_pi", "action"} & set(context.notes):
        assert_close(context.notes[name], torch.cat([row[2].notes[name] for row in answered]), msg=name)
    found = replies(model, together)
    assert found == replies(model, *alone)
    assert len({tuple(reply) for reply in found.values()}) > 1, "all replies are the same: this test sees nothing"


@EVERY
def test_no_word_sees_the_future(case):
    """Other words from place t on: what was said of the places before t, and of nothing else, stays."""
    model, given = tiny(case).eval(), batch()
    with torch.no_grad():
        context = model.encode(given.unlabelled())
        before = dense(model.word_log_probs(given, context)[0], given.target)
        for t in range(1, given.target.size(1) - 1):
            there = (given.target != 0) & (torch.arange(given.target.size(1)) >= t)
            other = 5 + (given.target + 1) % (len(VOCAB) - 5)
            changed = replace(
                given,
                target=torch.where(there, other, given.target),
                target_ext=torch.where(there, other, given.target_ext),
            )
            after = dense(model.word_log_probs(changed, context)[0], given.target)
            assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-5)
            assert bool(((after - before).abs() > 1e-3)[there].any())


@EVERY
def test_answering_needs_no_label(case):
    model, given = tiny(case).eval(), batch()
    garbage = replace(
        given,
        target=given.target.flip(0),
        target_ext=given.target_ext.flip(0),
        emotion=(given.emotion + 5) % 32,
        intent=(given.intent + 4) % 9,
        after=given.after.flip(0),
    )
    assert replies(model, given.unlabelled()) == replies(model, garbage) == replies(model, given)
    assert_close(model.nll(given)[2].notes, model.nll(garbage)[2].notes, rtol=0, atol=0)


@EVERY
def test_the_context_is_made_without_labels_everywhere(case, monkeypatch):
    """In training and scoring, too: a leak would be a crash."""
    model, given, seen = tiny(case), batch(), []
    encode = model.encode

    def watched(shown, generator=None):
        seen.append([shown.target, shown.target_ext, shown.emotion, shown.intent, shown.after])
        return encode(shown, generator)

    monkeypatch.setattr(model, "encode", watched)
    model.loss(given)
    model.nll(given)
    replies(model, given)
    assert seen == [[None] * 5] * 3


@EVERY
def test_samples_without_labels_train_the_reply_alone(case):
    model, given = tiny(case).eval(), batch()
    half = torch.arange(6) % 2 == 0
    labels = {name: torch.where(half, getattr(given, name), UNLABELLED) for name in ("emotion", "intent")}
    some = model.loss(replace(given, **labels), chance())
    labelled = collate()([example for i, example in enumerate(examples(6)) if half[i]])
    of_half = model.loss(labelled, chance())
    for name in {"contrast", "emotion", "intent"} & set(some):
        assert_close(some[name], of_half[name], msg=name)
    none = torch.full_like(given.emotion, UNLABELLED)
    unlabelled = replace(given, emotion=none, intent=none)
    terms = model.loss(unlabelled, chance())
    assert all(float(terms[name].detach()) == 0 for name in {"contrast", "emotion", "intent"} & set(terms))
    sum(terms.values()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert not any(right.any() or right.numel() for right in model.hits(unlabelled, model.nll(unlabelled)[2]).values())


@EVERY
def test_one_batch_is_learned_by_heart(case):
    """Loss near zero, and the greedy replies are then the gold ones, names that V lacks included."""
    model, given = tiny(case, dropout=0.0, width=24).train(), batch(4, seed=3)
    optimizer = torch.optim.Adam([{**group, "lr": 1e-2 * group.get("scale", 1.0)} for group in model.groups()])
    for _ in range(150):
        optimizer.zero_grad()
        terms = model.loss(given)
        sum(terms.values()).backward()
        optimizer.step()
    nll, words, _ = model.eval().nll(given)
    assert float(nll.sum() / words.sum()) < 0.1
    gold = {row.id: [*row.target_words] for row in examples(4, seed=3)}
    said = {
        key: in_words(ids, VOCAB, oov) for (key, ids), oov in zip(replies(model, given).items(), given.oov, strict=True)
    }
    copied = {row.id for row in examples(4, seed=3) if set(row.target_words) - set(row.words) - set(VOCAB.words)}
    assert {key: said[key] for key in gold if key not in copied} == {k: v for k, v in gold.items() if k not in copied}


@TWO
def test_bf16_and_fp32_agree(case):
    model, given = tiny(case).eval(), batch(8)
    exact = model.loss(given, chance())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.loss(given, chance())
    for name, term in exact.items():
        assert_close(rough[name].float(), term, rtol=0.05, atol=0.05, msg=f"{name}: {rough[name]} {term}")


# --- the loop ---------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """What stops a run in these tests."""


def stopping(at: int, size: int = 5):
    """The batches of `epochs`, but asking for the batch of step `at` (from 0) ends the run."""
    whole = epochs()

    class Order(list):
        def __getitem__(self, i):
            if self.epoch * size + i == at:
                raise Killed
            return super().__getitem__(i)

    def batches(epoch: int) -> Order:
        order = Order(whole(epoch))
        order.epoch = epoch
        return order

    return batches


def assert_same_run(one: Path, other: Path) -> None:
    assert_close(saved(one), saved(other), rtol=0, atol=0)
    for name in ("history.jsonl", "best.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@EVERY
def test_same_seed_same_history_and_resumed_is_uninterrupted(case, tmp_path):
    settings = train_config(precision="bf16" if case == "reflectdiffu" else "fp32")
    model = tiny(case)
    history = fit(model, epochs(), validate, settings, tmp_path / "whole", log_every=2)
    assert [row["step"] for row in history if "valid/score" in row] == [4, 8, 12]
    assert [json.loads(line) for line in (tmp_path / "whole/history.jsonl").read_text().splitlines()] == history
    again = tiny(case)
    assert fit(again, epochs(), validate, settings, tmp_path / "again", log_every=2) == history
    assert_same_run(tmp_path / "whole", tmp_path / "again")
    assert_close(dict(again.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    for at in (1, 7):  # before the first state, and between two
        with pytest.raises(Killed):
            fit(tiny(case), stopping(at), validate, settings, tmp_path / f"killed{at}", log_every=2)
        other_weights = tiny(case, seed=3 if at == 7 else 0)
        fit(other_weights, epochs(), validate, settings, tmp_path / f"killed{at}", resume=True, log_every=2)
        assert_same_run(tmp_path / "whole", tmp_path / f"killed{at}")


def test_a_state_without_its_best_weights_is_refused(tmp_path):
    fit(tiny("transformer"), epochs(), validate, train_config(), tmp_path)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(UserError, match="best.safetensors: gone"):
        fit(tiny("transformer"), epochs(), validate, train_config(), tmp_path, resume=True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_made_ahead_by_other_processes_are_the_same(tmp_path):
    """Three epochs; and begun without, gone on in mid-epoch with them, while the process' own chance stays."""
    settings = train_config(validate_every=12)
    fit(tiny("transformer"), epochs(), validate, settings, tmp_path / "whole", log_every=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(tiny("transformer"), epochs(), validate, settings, tmp_path / "ahead", log_every=2, workers=2)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Killed):
        fit(tiny("transformer"), stopping(8), validate, settings, tmp_path / "killed", log_every=2)
    fit(tiny("transformer"), epochs(), validate, settings, tmp_path / "killed", resume=True, log_every=2, workers=1)
    for run in ("ahead", "killed"):
        assert_same_run(tmp_path / "whole", tmp_path / run)


def test_each_step_has_its_own_chance_from_seed_and_step_alone(tmp_path):
    drawn = {}
    for run, (seed, elsewhere) in enumerate([(0, 1), (0, 2), (5, 1)]):
        model, drawn[run] = tiny("transformer"), []
        loss = model.loss
        model.loss = lambda given, loss=loss, run=run: drawn[run].append(float(torch.rand(()))) or loss(given)
        torch.manual_seed(elsewhere)  # what the process drew before is no matter
        fit(model, epochs(), validate, train_config(steps=6, seed=seed), tmp_path / str(run))
    assert drawn[0] == drawn[1] and len({*drawn[0], *drawn[2]}) == 12


def test_another_seed_is_another_history(tmp_path):
    runs = [
        fit(tiny("transformer"), epochs(), validate, train_config(seed=seed), tmp_path / str(seed), log_every=2)
        for seed in (0, 1)
    ]
    assert runs[0] != runs[1]


def test_the_best_weights_end_in_the_model_and_stale_validations_end_the_run(tmp_path):
    scores, kept = iter([3.0, 1.0, 2.0, 2.5, 9.0]), []

    def watch(model):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": next(scores)}

    model = tiny("transformer")
    history = fit(model, epochs(), watch, train_config(validate_every=2, patience=2), tmp_path)
    assert len(kept) == 4 and history[-1]["step"] == 8
    assert_close(dict(model.state_dict()), kept[1], rtol=0, atol=0)


def test_a_run_is_not_overwritten(tmp_path):
    fit(tiny("transformer"), epochs(), validate, train_config(steps=3), tmp_path)
    with pytest.raises(UserError, match="--resume"):
        fit(tiny("transformer"), epochs(), validate, train_config(steps=3), tmp_path)


def test_two_precisions_in_one_process(tmp_path):
    """And the loop leaves nothing on the model: its forward is its own again."""
    model = tiny("transformer")
    for precision in ("bf16", "fp32", "bf16"):
        fit(model, epochs(), validate, train_config(steps=1, precision=precision), tmp_path / precision, resume=True)
    assert "forward" not in vars(model)


@TWO
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_and_the_state_before_it_resumes(case, kind, tmp_path):
    settings, model, calls = train_config(), tiny(case), []
    whole = tmp_path / "whole"
    fit(tiny(case), epochs(), validate, settings, whole, log_every=2)
    with pytest.raises(Killed):  # five steps were done: the state before the sixth
        fit(tiny(case), stopping(5), validate, train_config(save_every=5), tmp_path / "five", log_every=2)
    loss = model.loss

    def poisoned(given, generator=None):
        terms = loss(given, generator)
        calls.append(given.ids)
        if len(calls) < 6:
            return terms
        bad = terms["response"] * torch.nan if kind == "loss" else terms["response"] + (model.bias * 0).sum().sqrt()
        return terms | {"response": bad}

    model.loss = poisoned
    with pytest.raises(TrainingError) as stopped:
        fit(model, epochs(), validate, settings, tmp_path / "nan", log_every=2)
    assert "step 6" in str(stopped.value) and ("response" if kind == "loss" else "gradient") in str(stopped.value)
    assert all(key in str(stopped.value) for key in calls[-1])
    assert_close(saved(tmp_path / "nan"), saved(tmp_path / "five"), rtol=0, atol=0)
    fit(tiny(case, seed=4), epochs(), validate, settings, tmp_path / "nan", resume=True, log_every=2)
    assert_same_run(whole, tmp_path / "nan")


CHILD = """
import sys, torch
from pathlib import Path
from made_up import epochs, tiny, train_config, validate
from rd.train import fit
torch.set_num_threads(1)
fit(tiny("reflectdiffu"), epochs(), validate, train_config(steps=2000, save_every=2), Path(sys.argv[1]), log_every=3)
"""


def test_kill_9_at_any_moment_then_resume_is_bit_for_bit_the_uninterrupted_run(tmp_path):
    here, killed = Path(__file__).parent, tmp_path / "killed"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(killed)], env=paths, stderr=subprocess.DEVNULL)
    while not (killed / "state.pt").exists() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(random.random() * 0.3)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    steps = int(saved(killed)["step"]) + 5
    settings = train_config(steps=steps, save_every=2)
    fit(tiny("reflectdiffu", seed=8), epochs(), validate, settings, killed, resume=True, log_every=3)
    fit(tiny("reflectdiffu"), epochs(), validate, settings, tmp_path / "whole", log_every=3)
    assert_same_run(tmp_path / "whole", killed)
    assert not [path for path in killed.iterdir() if path.name.startswith(".")], "half-written files are left"
