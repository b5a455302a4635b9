"""EmpDG: what its emotion encoder reads, which words its game is played with, and whom each loss moves."""

from dataclasses import replace

import pytest
import torch
from made_up import VOCAB, batch, collate, examples, tiny
from torch.testing import assert_close

from rd.baselines import empdg
from rd.baselines.empdg import CRITIC_RATE, PRETRAIN, THRESHOLD, EmpDG, emotional
from rd.data.batch import Batch
from rd.data.text import Vocabulary
from rd.responder import copy_weights

GAMES = ("semantic", "emotional")


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.fixture
def model() -> EmpDG:
    """Past its first steps, in which the generator does not play."""
    found = tiny("empdg").eval()
    found.steps.fill_(PRETRAIN)
    return found


@pytest.fixture
def given() -> Batch:
    """Eight samples, of which some have a next turn and some none."""
    found = batch(8, seed=4)
    plays = found.after.any(1)
    assert 2 <= plays.sum() < 8
    return found


def game_terms(model: EmpDG, given: Batch) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.loss(given, chance()).items() if k.startswith(("critic", "adversarial"))}


def test_emotional_words_are_those_of_the_threshold(given):
    wanted = [[level >= THRESHOLD for level in row] for row in given.known.intensity.tolist()]
    assert emotional(given).tolist() == wanted
    assert any(map(any, wanted)) and not (emotional(given) & ~given.mask).any()


def test_the_emotion_encoder_reads_emotional_words_alone(model, given):
    """As if the others were not there; they stand in the memory before CTX and all words, which are read as ever."""
    context, length = model.encode(given.unlabelled()), given.source.size(1)
    words, mask = model.context_words(given)
    assert_close(context.memory[:, length + 1 :], model.encoder(words, mask))
    assert_close(context.mask[:, length + 1 :], mask)
    for b in range(8):
        kept = [0] + [1 + i for i in range(length) if given.known.intensity[b, i] >= THRESHOLD]
        alone = model.emotion_encoder(words[b : b + 1, kept], torch.ones(1, len(kept), dtype=torch.bool))[0]
        assert_close(context.memory[b, kept], alone)
        assert context.mask[b, : length + 1].nonzero()[:, 0].tolist() == kept


def test_the_critics_losses_move_the_critics_alone_and_the_adversarial_ones_the_generator_alone(model, given):
    critics = {name for name, _ in model.named_parameters() if name.startswith("critics.")}
    for name, term in game_terms(model, given).items():
        kind, game = name.split("_")
        model.zero_grad()
        term.backward(retain_graph=True)
        moved = {key for key, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        if kind == "critic":
            assert moved == {key for key in critics if key.startswith(f"critics.{game}.")}
        else:
            assert moved and not moved & critics
            assert {"words.weight", "bias", "pointer.linear.weight", "decoder.norm.weight"} <= moved
            assert {key.split(".")[0] for key in moved} >= {"encoder", "emotion_encoder", "signal", "emotion"}


def test_one_optimiser_steps_as_two_would(given):
    """Adam over all weights on the sum of the terms; and two of them, the critics' on the critics' terms alone."""
    one, two = tiny("empdg").eval(), tiny("empdg").eval()
    joint = torch.optim.Adam(one.parameters(), 1e-2)
    mine = [p for name, p in two.named_parameters() if not name.startswith("critics.")]
    apart = [torch.optim.Adam(mine, 1e-2), torch.optim.Adam(two.critics.parameters(), 1e-2)]
    for _ in range(3):
        joint.zero_grad()
        sum(one.loss(given, chance()).values()).backward()
        joint.step()
        terms = two.loss(given, chance())
        theirs = [terms.pop(f"critic_{name}") for name in GAMES]
        for optimizer, own in zip(apart, (terms.values(), theirs), strict=True):
            two.zero_grad()
            sum(own).backward(retain_graph=True)
            optimizer.step()
    assert_close(dict(one.named_parameters()), dict(two.named_parameters()))


def test_only_samples_with_a_next_turn_play_and_no_more_than_a_few(model, given, monkeypatch):
    plays = given.after.any(1)
    other = torch.where(given.target > Vocabulary.CTX, 5 + given.target % (len(VOCAB) - 5), given.target)
    silent = torch.where(plays[:, None], given.target, other)
    assert_close(game_terms(model, replace(given, target=silent, target_ext=silent)), game_terms(model, given))
    few = int(plays.sum()) - 1
    monkeypatch.setattr(empdg, "PLAYERS", few)
    drawn = model.players(plays, chance())
    assert len(drawn) == few and bool(plays[drawn].all())
    rest = replace(given, after=given.after.masked_fill(~torch.isin(torch.arange(8), drawn)[:, None], 0))
    found = game_terms(model, given)
    assert_close(found, game_terms(model, rest))
    others = {tuple(sorted(model.players(plays, torch.Generator().manual_seed(s)).tolist())) for s in range(20)}
    assert len(others) > 1 and all(bool(plays[list(each)].all()) for each in others)
    assert all(bool(term.any()) for term in found.values())
    nobody = game_terms(model, replace(given, after=torch.zeros_like(given.after)))
    assert len(nobody) == 4 and not any(bool(term.any()) for term in nobody.values())


def test_expected_words_against_a_loop(model, given):
    """Each word of the mixture by its vector; a word that V lacks reads as UNK, as it does in a gold reply."""
    context, rows = model.encode(given.unlabelled()), torch.tensor([6, 3])
    context = replace(context, told=model.taught(given, context)[2])
    felt = torch.rand(len(VOCAB), generator=chance()) < 0.5
    found = model.expected(given, context, rows, felt)
    shifted = torch.cat([torch.full_like(given.target[:, :1], Vocabulary.BOS), given.target[:, :-1]], 1)
    embedded = model.embed_response(shifted, plan=context.plan)
    states, read, weights, _ = model.decode(embedded, model.decoder.memory_keys(context.memory), context.mask)
    gate = model.pointer.gate(states, read, embedded)
    for i, b in enumerate(rows.tolist()):
        for t in range(given.target.size(1)):
            if not given.target[b, t]:
                assert not found[:, i, t].any()
                continue
            copied = copy_weights(weights[b, t : t + 1], given.source.size(1))
            logits = model.vocab_logits(states[b, t : t + 1])
            p = model.pointer.mixture(logits, gate[b, t : t + 1], copied, given.source_ext[b : b + 1])[0]
            known = [w if w < len(VOCAB) else Vocabulary.UNK for w in range(len(p))]
            every = sum(p[w] * model.words.weight[known[w]] for w in range(len(p)))
            those = sum(p[w] * model.words.weight[known[w]] for w in range(len(p)) if felt[known[w]])
            assert_close(found[:, i, t], torch.stack([every, those]))


def test_the_lexicon_is_what_contexts_have_shown(model):
    every, known = examples(12, seed=2), {}
    for example in every:
        for word, level in zip(example.source.tolist(), example.known.intensity.tolist(), strict=True):
            if word != Vocabulary.UNK:
                known[word] = level
    wanted = [known.get(word, 0.0) >= THRESHOLD for word in range(len(VOCAB))]
    model.train()
    model.lexicon(collate()(every[:6]))
    assert model.lexicon(collate()(every[6:])).tolist() == wanted and any(wanted)
    model.eval().intensity.zero_()
    model.lexicon(collate()(every))
    assert not model.intensity.any()


def test_a_word_that_the_vocabulary_lacks_is_not_emotional(model, given):
    assert (given.source == Vocabulary.UNK).any()
    loud = given.known._replace(intensity=given.mask.float())
    found = model.lexicon(replace(given, known=loud))
    assert not found[Vocabulary.UNK] and not found[Vocabulary.PAD]
    assert set(found.nonzero()[:, 0].tolist()) == set(given.source.unique().tolist()) - {Vocabulary.UNK, Vocabulary.PAD}


def test_the_emotional_critic_hears_emotional_words_alone(model, given):
    """One plain word of the next turn becomes another: the semantic game changes, the emotional one does not."""
    felt = model.lexicon(given)
    plain = [word for word in range(5, len(VOCAB)) if not felt[word]]
    place = tuple((torch.isin(given.after, torch.tensor(plain))).nonzero()[-1])
    after = given.after.clone()
    after[place] = plain[plain.index(int(after[place])) - 1]
    before, changed = game_terms(model, given), game_terms(model, replace(given, after=after))
    for name, term in before.items():
        assert torch.equal(changed[name], term) == name.endswith("emotional"), name
    loud = next(word for word in range(5, len(VOCAB)) if felt[word])
    after[place] = loud
    changed = game_terms(model, replace(given, after=after))
    assert not any(torch.equal(changed[name], term) for name, term in before.items())


def test_the_critics_learn_at_their_own_rate(model):
    own, critics = model.groups()
    assert critics["scale"] == CRITIC_RATE and "scale" not in own
    assert {id(p) for p in critics["params"]} == {id(p) for p in model.critics.parameters()}
    assert len(own["params"]) + len(critics["params"]) == len(list(model.parameters()))


def test_the_generator_plays_after_the_first_steps_alone(given):
    model = tiny("empdg")
    model.steps.fill_(PRETRAIN - 1)
    for plays in (False, True):  # training counts the steps
        terms = game_terms(model, given)
        assert all(bool(terms[f"adversarial_{game}"]) == plays and bool(terms[f"critic_{game}"]) for game in GAMES)
    assert model.steps == PRETRAIN + 1
    model.eval()
    game_terms(model, given)
    assert model.steps == PRETRAIN + 1
