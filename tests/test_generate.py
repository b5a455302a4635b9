"""Decoding against slow and plain forms of itself: no cache, no early removal, no beam but all sequences."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from made_up import BERT, CASES, KNOWN, NAMES, VOCAB, batch, collate, dense, examples, model_config, tiny
from torch.testing import assert_close

from rd.blocks.output import Columns
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.errors import UserError
from rd.generate import SILENT, Decode, _sample, generate, in_words
from rd.responder import Responder

EVERY = pytest.mark.parametrize("case", CASES)
STEPS = 6


def answers(model: Responder, given: Batch, **settings) -> list[list[int]]:
    """The replies to one batch."""
    [(_, _, found)] = generate(model, [given], Decode(**settings))
    return found


def talkative(case: str) -> Responder:
    """A model whose replies end after different numbers of words."""
    model = tiny(case, seed=5).eval()
    with torch.no_grad():
        model.bias[Vocabulary.EOS] += 2.0
        model.pointer.linear.bias += 1.0
    return model


def whole_distribution(model: Responder, given: Batch, words: list[list[int]], extended: int) -> torch.Tensor:
    """P of the next word after `words` (equally long rows), nothing cached: word by word through the training path."""
    rows = len(given.ids)
    out = torch.zeros(rows, extended)
    context = model.encode(given.unlabelled())
    for word in range(extended):
        if word == Vocabulary.PAD:
            continue  # never a gold word
        target = torch.tensor([[*row, word] for row in words])
        known = target.masked_fill(target >= len(VOCAB), Vocabulary.UNK)
        log_probs, _ = model.word_log_probs(replace(given, target=known, target_ext=target), context)
        out[:, word] = dense(log_probs, known)[:, -1].exp()
    return out


@pytest.mark.parametrize(("words", "rows"), [(8, 1), (9, 3), (11, 2), (3, 5)])
def test_the_output_in_columns_is_the_plain_product(words: int, rows: int):
    weight, bias, states = torch.randn(words, 5), torch.randn(words), torch.randn(rows, 5)
    assert_close(Columns(weight, bias)(states), states @ weight.T + bias)


@EVERY
def test_replies_by_the_output_in_columns_are_those_by_the_plain_product(case, monkeypatch):
    model, given = talkative(case), batch(3)
    assert model.columns() is not None
    made: list[int] = []
    call = Columns.__call__
    monkeypatch.setattr(Columns, "__call__", lambda self, states: made.append(len(states)) or call(self, states))
    found = [answers(model, given, steps=STEPS, method=method) for method in ("greedy", "beam")]
    assert made
    monkeypatch.setattr(Columns, "FEW", 0)
    made.clear()
    assert found == [answers(model, given, steps=STEPS, method=method) for method in ("greedy", "beam")]
    assert not made


@EVERY
@torch.no_grad()
def test_each_cached_step_is_the_uncached_recomputation(case):
    model, given = tiny(case).eval(), batch(3)
    state, chance = model.start(given, model.encode(given.unlabelled())), torch.Generator().manual_seed(1)
    last, words = torch.full((3,), Vocabulary.BOS), [[], [], []]
    for _ in range(4):
        found = model.step(last, state)
        assert_close(found.sum(-1), torch.ones(3))
        expected = whole_distribution(model, given, words, found.size(1))
        assert_close(found[:, 1:], expected[:, 1:], rtol=1e-4, atol=1e-6)
        own = torch.tensor([len(names) for names in given.oov]) + len(VOCAB)  # words the row can say
        last = (torch.rand(3, generator=chance) * (own - 5)).long() + 5
        words = [[*row, int(word)] for row, word in zip(words, last, strict=True)]


@EVERY
def test_in_bf16_the_words_are_the_likeliest_or_nearly(case):
    model, given = talkative(case), batch(4)
    replies = answers(model, given, steps=STEPS, precision="bf16")
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.float32}
    said = torch.tensor([[*row, *[Vocabulary.EOS] * STEPS][:STEPS] for row in replies])
    with torch.no_grad():
        state = model.start(given, model.encode(given.unlabelled()))
        last, going = torch.full((4,), Vocabulary.BOS), torch.ones(4, dtype=torch.bool)
        for words in said.unbind(1):
            probs = model.step(last, state)
            probs[:, SILENT] = 0
            chosen = probs.gather(1, words[:, None])[:, 0]
            assert (chosen >= 0.9 * probs.amax(1))[going].all()
            last, going = words, going & (words != Vocabulary.EOS)
    with pytest.raises(UserError, match="fp16"):
        answers(model, given, precision="fp16")


@torch.no_grad()
def plain_greedy(model: Responder, given: Batch, steps: int) -> list[list[int]]:
    """No row is ever removed; a reply is what stands before its first EOS."""
    state = model.start(given, model.encode(given.unlabelled()))
    last, said = torch.full((len(given.ids),), Vocabulary.BOS), []
    for _ in range(steps):
        probs = model.step(last, state)
        probs[:, SILENT] = -1
        last = probs.argmax(-1)
        said.append(last)
    rows = torch.stack(said, 1).tolist()
    return [row[: row.index(Vocabulary.EOS)] if Vocabulary.EOS in row else row for row in rows]


@EVERY
def test_finished_rows_leave_and_nothing_changes(case):
    model, given = talkative(case), batch(12, 5)
    found = answers(model, given, steps=STEPS)
    assert found == plain_greedy(model, given, STEPS)
    assert len({len(reply) for reply in found}) > 1, "all replies are equally long: this test sees nothing"


@EVERY
def test_one_beam_is_greedy(case):
    model, given = talkative(case), batch(12, 5)
    assert answers(model, given, method="beam", beams=1, steps=STEPS) == answers(model, given, steps=STEPS)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("names", [0, 1])
def test_a_wide_beam_finds_the_best_of_all_sequences(penalty, names):
    """Three words (or two and a name to copy), up to three steps: every sequence, scored by the training path."""
    vocab = Vocabulary.build([["rain", "sun", "dog"][names:]])
    words = ["sun", "dog", NAMES[0] if names else "rain"]
    given = collate()(
        [replace(row, words=tuple(words), source=vocab_ids(vocab, words), known=None) for row in examples(4)]
    )
    ids = [*range(5, len(vocab)), *[len(vocab)] * names]
    given = replace(
        given,
        source=torch.tensor([vocab.encode(words)] * 4),
        source_ext=torch.tensor([[vocab.index(w) if w in vocab else len(vocab) for w in words]] * 4),
        oov=[[NAMES[0]] * names] * 4,
        features=torch.randn(4, 3, BERT),
        reason=torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]]),
        speaker=torch.ones(4, 3, dtype=torch.bool),
    )
    model = tiny("reflectdiffu", vocab=vocab, seed=6).eval()
    with torch.no_grad():
        model.bias[Vocabulary.EOS] += 1.0
        context = model.encode(given.unlabelled())
    best = [(-torch.inf, [])] * 4
    for length in (1, 2, 3):
        for sequence in product([*ids, Vocabulary.EOS], repeat=length):
            ends = sequence[-1] == Vocabulary.EOS
            if Vocabulary.EOS in sequence[:-1] or not ends and length < 3:
                continue
            target = torch.tensor([sequence] * 4)
            known = target.masked_fill(target >= len(vocab), Vocabulary.UNK)
            with torch.no_grad():
                log_probs, _ = model.word_log_probs(replace(given, target=known, target_ext=target), context)
            scores = log_probs.view(4, length).sum(1) / length**penalty
            said = list(sequence[:-1] if ends else sequence)
            best = [max(old, (float(s), said), key=lambda p: p[0]) for old, s in zip(best, scores, strict=True)]
    found = answers(model, given, method="beam", beams=40, steps=3, length_penalty=penalty)
    assert found == [said for _, said in best]


def vocab_ids(vocab: Vocabulary, words: list[str]) -> np.ndarray:
    return np.asarray(vocab.encode(words), dtype=np.int64)


@torch.no_grad()
def plain_beam(model: Responder, given: Batch, width: int, steps: int) -> list[int]:
    """The textbook form for one sample: hypotheses are recomputed from their first word at every step."""
    context = model.encode(given.unlabelled())
    alive, ended = [(0.0, [])], []
    for step in range(1, steps + 1):
        grown = []
        for score, said in alive:
            state = model.start(given, context)
            for word in [Vocabulary.BOS, *said]:
                probs = model.step(torch.tensor([word]), state)[0]
            grown += [(score + float(p.log()), [*said, w]) for w, p in enumerate(probs) if w not in SILENT and p > 0]
        grown.sort(key=lambda pair: -pair[0])
        ended += [(s / step, said[:-1]) for s, said in grown[:width] if said[-1] == Vocabulary.EOS]
        alive = [pair for pair in grown if pair[1][-1] != Vocabulary.EOS][:width]
        if len(ended) >= width:
            break
    else:
        ended += [(score / steps, said) for score, said in alive]
    return max(ended, key=lambda pair: pair[0])[1]


def test_a_narrow_beam_is_the_textbook_form_whatever_the_batch():
    model = talkative("reflectdiffu")
    rows = examples(6)
    alone = [plain_beam(model, collate()([row]), 3, 4) for row in rows]
    assert answers(model, collate()(rows), method="beam", beams=3, steps=4) == alone
    assert len({tuple(reply) for reply in alone}) > 1


# --- sampling ---------------------------------------------------------------------------------------------------------

PROBS = torch.tensor([0.05, 0.4, 0.1, 0.0, 0.25, 0.2])
DRAWS = 40_000


def exact(top_k: int, top_p: float, temperature: float) -> torch.Tensor:
    """The filtered distribution, by its definition: the k best words; of them, as many as it takes to reach p."""
    probs = PROBS ** (1 / temperature)
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[: top_k or None]
    total, kept, mass = float(probs[order].sum()), [], 0.0
    for i in order:
        if kept and mass >= top_p * total:
            break
        kept.append(i)
        mass += float(probs[i])
    out = torch.zeros(len(probs))
    out[kept] = probs[kept]
    return out / out.sum()


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"),
    [(0, 1.0, 1.0), (0, 0.7, 1.0), (3, 1.0, 1.0), (3, 0.7, 1.0), (0, 0.8, 2.0), (2, 0.95, 0.5), (0, 0.0, 1.0)],
)
def test_sampled_frequencies_are_those_of_the_filtered_distribution(top_k, top_p, temperature):
    decode = Decode("sample", top_k=top_k, top_p=top_p, temperature=temperature)
    drawn = _sample(PROBS.log().expand(DRAWS, -1), decode, torch.Generator().manual_seed(0))
    found, expected = drawn.bincount(minlength=len(PROBS)) / DRAWS, exact(top_k, top_p, temperature)
    assert bool((found[expected == 0] == 0).all())
    spread = (expected * (1 - expected) / DRAWS).sqrt()
    assert bool(((found - expected).abs() <= 4.5 * spread).all()), (found, expected)


def test_sampling_repeats_with_its_seed_and_one_choice_is_greedy():
    model, given = talkative("transformer"), batch(8)

    def sampled(seed: int, **settings) -> list[list[int]]:
        chance = torch.Generator().manual_seed(seed)
        [(_, _, found)] = generate(model, [given], Decode("sample", STEPS, **settings), chance)
        return found

    assert sampled(1) == sampled(1) != sampled(2)
    assert sampled(1, top_k=1) == sampled(2, top_p=0.0) == answers(model, given, steps=STEPS)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_copied_names_are_those_of_their_own_context(method):
    """The gate all but closed: replies are words of the context, and names get their letters back."""
    model = tiny("transformer").eval()
    with torch.no_grad():
        model.pointer.linear.bias.fill_(-40.0)
    rows = [
        replace(row, words=tuple(NAMES[i:] + NAMES[:i])[: 2 + i], source=vocab_ids(VOCAB, NAMES[: 2 + i]), known=None)
        for i, row in enumerate(examples(4))
    ]
    given = collate(None)(rows)
    found = answers(model, given, method=method, steps=4, beams=2)
    for row, ids, oov in zip(rows, found, given.oov, strict=True):
        assert len(ids) == 4 and set(in_words(ids, VOCAB, oov)) <= set(row.words)
    assert in_words([5, len(VOCAB) + 1], VOCAB, ["a", "b"]) == [VOCAB.words[5], "b"]


def test_a_context_without_a_word_is_answered():
    """A turn of quotation marks alone has no words; a whole batch of such leaves nothing to copy."""
    empty = [replace(row, words=(), source=row.source[:0], speaker=row.speaker[:0], known=None) for row in examples(3)]
    model = talkative("transformer")
    silent, mixed = collate(None)(empty), collate(None)([empty[0], examples(3)[1]])
    assert silent.source_ext.dtype == mixed.source_ext.dtype == torch.int64
    assert answers(model, silent, steps=4)[0] == answers(model, mixed, steps=4)[0]
    assert bool(model.nll(silent)[0].isfinite().all())
    assert_close(model.nll(silent)[0][:1], model.nll(mixed)[0][:1], rtol=1e-5, atol=1e-5)


def test_markers_are_never_said():
    model = tiny("transformer").eval()
    with torch.no_grad():
        model.bias[SILENT] += 50.0
    for method in ("greedy", "beam", "sample"):
        assert not {i for reply in answers(model, batch(), method=method, steps=4) for i in reply} & set(SILENT)


def test_an_unknown_method_is_a_users_mistake():
    with pytest.raises(UserError, match="choose one of greedy, sample, beam"):
        answers(tiny("transformer"), batch(), method="magic")


def test_made_up_words_are_what_these_tests_take_them_for():
    assert not set(NAMES) & set(KNOWN) and model_config().bert_width == BERT
