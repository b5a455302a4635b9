"""MIME's own ideas, one sample and one emotion at a time: two states, who mimics, the gate, the KL."""

from copy import deepcopy

import pytest
import torch
from made_up import batch, collate, examples, tiny
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from rd.baselines.mime import by_mimicry
from rd.generate import Decode, generate
from rd.labels import EMOTIONS, NEGATIVE, POSITIVE

GROUPS = (POSITIVE, NEGATIVE)
WIDTH = 12


def both(felt):
    """Whether some are True and some are not."""
    return bool(felt.any()) and not bool(felt.all())


@pytest.fixture(scope="module")
def lively():
    """The first seed of weights under which users of both polarities are found, and some turn with the head."""
    six, twelve = batch(6).unlabelled(), batch(12).unlabelled()
    for seed in range(100):
        model = tiny("mime", seed=seed).eval()
        with torch.no_grad():
            strong = (model.prior.weight, model.choose.weight, model.emotions)
            for weight in (*strong, *(layer.attend.output.weight for layer in model.encoder.layers)):
                weight.mul_(4.0)  # states and users that differ
            felt = [model.encode(given).notes["positive"] for given in (six, twelve)]
            model.ask.weight.neg_()
            turned = felt[1] != model.encode(twelve).notes["positive"]
            model.ask.weight.neg_()
        if both(felt[0]) and both(turned):
            return model
    raise AssertionError("no weights under which this file sees anything")


@pytest.fixture
def model(lively):
    """A copy that a test may change."""
    return deepcopy(lively)


def gaussians(layer, side, x):
    """One polarity of a stacked layer, read as N(mean, sd^2)."""
    mean, logvar = (x @ layer.weight[side] + layer.bias[side][0]).chunk(2, -1)
    return Normal(mean, (logvar / 2).exp())


def state(model, side, z):
    """A state as a sum over the named emotions of its polarity: z (Z,) -> e (D,)."""
    members = [i for i, name in enumerate(EMOTIONS) if name in GROUPS[side]]
    scores = [float(model.choose.weight[i] @ z + model.choose.bias[i]) for i in members]
    shares = torch.tensor(scores).softmax(0)
    return sum(share * model.emotions[i] for share, i in zip(shares, members, strict=True))


def answer(model, one, noise=None):
    """Batch of one -> user feels positive, c (D,), m and m~ (L+1, D), memory (L+1, D); noise (P, Z) makes draws."""
    words, mask = model.context_words(one)
    h = model.encoder(words, mask)
    c = h[0, 0]
    scores = [float(row @ (model.ask.weight @ c)) for row in model.emotions]
    positive = EMOTIONS[max(range(32), key=scores.__getitem__)] in POSITIVE
    hidden = torch.relu(model.prior_hidden.weight @ c + model.prior_hidden.bias)
    states = []
    for side in (0, 1):
        p = gaussians(model.prior, side, hidden)
        states.append(state(model, side, p.loc if noise is None else p.loc + p.scale * noise[side]))
    mimic, other = states if positive else (states[1], states[0])
    refined = []
    for part, e in ((model.mimicking, mimic), (model.other, other)):
        whole = torch.cat([part.words.weight, part.emotion.weight], 1)  # W of [h; e]
        beside = torch.stack([whole @ torch.cat([word, e]) + part.words.bias for word in h[0]])
        refined.append(part.encoder(beside[None], mask)[0])
    memory = []
    for pair in torch.cat(refined, 1):
        opened = 1 / (1 + torch.exp(-(model.gate.weight @ pair + model.gate.bias)))
        memory.append(model.fuse.weight @ (opened * pair) + model.fuse.bias)
    return positive, c, refined, torch.stack(memory)


@torch.no_grad()
def test_memory_sample_by_sample(model):
    """States, mimicry, refined contexts and the gate's mixture, written out."""
    context = model.encode(batch().unlabelled())
    for i, example in enumerate(examples(6)):
        one = collate()([example])
        positive, _, _, memory = answer(model, one)
        assert positive == bool(context.notes["positive"][i])
        assert_close(context.memory[i, : len(memory)], memory, rtol=1e-4, atol=1e-5)
        assert int(context.mask[i].sum()) == len(memory)


def test_who_mimics():
    states = torch.arange(12.0).reshape(2, 3, 2)
    positive = torch.tensor([True, False, True])
    mimic, other = by_mimicry(states, positive)
    for i, felt in enumerate(positive):
        same, opposite = (0, 1) if felt else (1, 0)
        assert_close(mimic[i], states[same, i])
        assert_close(other[i], states[opposite, i])
    assert_close(by_mimicry(states, ~positive), torch.stack([other, mimic]))  # the opposite feelings: the two swap
    assert_close(by_mimicry(torch.stack([mimic, other]), positive), states)


@torch.no_grad()
def test_a_user_of_the_other_polarity_swaps_the_two_states(model):
    """Only the emotion's head changes; what each refining encoder is given changes hands with the polarity."""
    given, read = batch(12).unlabelled(), []
    for part in (model.mimicking, model.other):
        part.register_forward_hook(lambda _, taken, __: read.append(taken[1]))
    before = model.encode(given).notes
    model.ask.weight.neg_()
    after = model.encode(given).notes
    mimic, other, mimic_after, other_after = read
    swapped = before["positive"] != after["positive"]
    assert both(swapped)
    assert_close(mimic_after[swapped], other[swapped])
    assert_close(other_after[swapped], mimic[swapped])
    assert_close(mimic_after[~swapped], mimic[~swapped])
    assert float((mimic - other).abs().amax(-1).min()) > 1e-3


def test_shares_are_two_mixtures_over_13_and_19_emotions(model):
    shares = model.shares(torch.randn(2, 5, WIDTH))
    positive = torch.tensor([name in POSITIVE for name in EMOTIONS])
    assert (int(positive.sum()), int((~positive).sum())) == (13, 19)
    assert_close(shares[0][:, positive].sum(-1), torch.ones(5))
    assert_close(shares[1][:, ~positive].sum(-1), torch.ones(5))
    assert not shares[0][:, ~positive].any() and not shares[1][:, positive].any()


@torch.no_grad()
def test_a_generator_draws_the_states_and_training_draws_anew(model):
    one = collate()(examples(1)).unlabelled()
    noise = torch.randn(2, 1, WIDTH, generator=torch.Generator().manual_seed(4))
    drawn = model.encode(one, torch.Generator().manual_seed(4)).memory
    assert_close(drawn[0], answer(model, one, noise[:, 0])[3], rtol=1e-4, atol=1e-5)
    assert_close(model.encode(one).memory, model.encode(one).memory, rtol=0, atol=0)
    still = tiny("mime", dropout=0.0).train()
    assert not torch.equal(still.encode(one).memory, still.encode(one).memory)


@torch.no_grad()
def test_kl_against_a_library_sample_by_sample(model):
    seed = torch.Generator().manual_seed(1)
    noise = torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(1))
    terms, expected = model.loss(batch(), seed), torch.zeros(2)
    for i, example in enumerate(examples(6)):
        positive, c, refined, _ = answer(model, collate()([example]), noise[:, i])
        hidden = torch.relu(model.prior_hidden.weight @ c + model.prior_hidden.bias)
        for side in (0, 1):
            own = refined[0 if positive == (side == 0) else 1].mean(0)  # the context that this side's state refined
            layer = model.posterior_hidden
            seen = F.relu(torch.cat([c, own]) @ layer.weight[side] + layer.bias[side][0])
            q, p = gaussians(model.posterior, side, seen), gaussians(model.prior, side, hidden)
            expected[side] += kl_divergence(q, p).sum() / 6
    assert_close(torch.stack([terms["kl_pos"], terms["kl_neg"]]), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_posterior_never_reaches_answering(model):
    given = batch()

    def answered():
        nll, words, context = model.nll(given)
        replies = [row for _, _, rows in generate(model, [given], Decode(steps=8)) for row in rows]
        return nll, words, context.memory, context.notes, replies

    before = answered()
    for layer in (model.posterior_hidden, model.posterior):
        layer.weight.fill_(torch.nan)
    assert_close(answered(), before, rtol=0, atol=0)
    terms = model.loss(given)
    assert terms["kl_pos"].isnan() and terms["kl_neg"].isnan()  # and training asks it
    assert terms["response"].isfinite() and terms["emotion"].isfinite()
