"""The critic reply by reply and pair by pair, and which side each of its two losses moves."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rd.blocks.critic import PENALTY, Critic, Exchange, wasserstein

D, P, T, F = 4, 3, 5, 6
WORDS, HEARD = (5, 1, 3), (2, 6, 1)  # lengths of the replies and of the turns after them


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def game() -> tuple[Critic, Tensor, Tensor, Exchange]:
    mask, heard = (torch.arange(n) < torch.tensor(lengths)[:, None] for n, lengths in ((T, WORDS), (F, HEARD)))
    said, gold, after = (torch.randn(P, n, D) for n in (T, T, F))
    return Critic(D), said.requires_grad_(), gold, Exchange(mask, after, heard, torch.randn(P, D))


def read(critic: Critic, words: Tensor) -> Tensor:
    """The LSTM word by word, from its equations: (n, D) -> (n, D)."""
    lstm, h, c, states = critic.lstm, torch.zeros(D), torch.zeros(D), []
    for x in words:
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ h + lstm.bias_hh_l0
        let_in, forget, new, out = gates.chunk(4)
        c = forget.sigmoid() * c + let_in.sigmoid() * new.tanh()
        h = out.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states)


def judge(critic: Critic, states: Tensor, known: Tensor) -> Tensor:
    """A score from the states (n, D) of one reply: its pairs one by one."""
    silu = torch.nn.functional.silu
    pairs = [critic.pair(torch.cat([b, a])) for b, a in zip([torch.zeros(D), *states[:-1]], states, strict=True)]
    fused = silu(torch.stack([silu(pair) for pair in pairs]).max(0).values + known)
    return critic.score(silu(critic.dense(fused)))[0]


def test_both_losses_against_a_loop(game):
    critic, said, gold, exchange = game
    plays = torch.tensor([True, False, True])
    share = torch.rand(P, 1, 1, generator=chance())
    ours, fooled = [], []
    for i in (0, 2):
        known = exchange.context[i] + read(critic, exchange.after[i, : HEARD[i]])[-1]
        spoken, true = (read(critic, x[i, : WORDS[i]]) for x in (said, gold))
        between = spoken + share[i] * (true - spoken)
        slope = torch.autograd.functional.jacobian(lambda s, known=known: judge(critic, s, known), between)
        low, high = judge(critic, spoken, known), judge(critic, true, known)
        ours.append(low - high + PENALTY * (slope.norm() - 1) ** 2)
        fooled.append(-low)
    found = wasserstein(critic, said, gold, exchange, plays, chance())
    assert_close(found, (torch.stack(ours).mean(), torch.stack(fooled).mean()))


def test_each_loss_moves_its_own_side(game):
    critic, said, gold, exchange = game
    sides = [said, *critic.parameters()]
    ours, fooled = wasserstein(critic, said, gold, exchange, torch.ones(P, dtype=torch.bool), chance())
    of_ours, of_fooled = (torch.autograd.grad(x, sides, allow_unused=True) for x in (ours, fooled))
    assert of_ours[0] is None and all(bool(g.any()) for g in of_ours[1:])
    assert bool(of_fooled[0].any()) and of_fooled[1:] == (None,) * (len(sides) - 1)
    unfrozen = -critic(said[None], exchange)[0].mean()
    assert_close(of_fooled[0], torch.autograd.grad(unfrozen, said)[0])


class Penalty(torch.nn.Module):
    """The penalty of two replies as a module: a weight can be put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = Critic(D)
        self.states, self.known = torch.randn(2, P, T, D), torch.randn(P, D)

    def forward(self) -> Tensor:
        mask = torch.arange(T) < torch.tensor(WORDS)[:, None]
        return self.critic.penalty(self.states.double(), mask, self.known.double(), chance()).sum()


@pytest.mark.parametrize("name", ["pair.weight", "pair.bias", "dense.weight", "dense.bias", "score.weight"])
def test_the_gradient_of_the_penalty_against_differences(name):
    """It is a derivative of a derivative, and reaches every weight behind the LSTM."""
    penalty = Penalty().double()
    weight = penalty.critic.get_parameter(name)
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(penalty, {f"critic.{name}": w}, ()), weight)
    assert bool(torch.autograd.grad(penalty(), weight)[0].any())


def test_the_critic_sees_no_padding(game):
    critic, said, gold, exchange = game
    plays = torch.ones(P, dtype=torch.bool)

    def both(said: Tensor, gold: Tensor, exchange: Exchange) -> tuple:
        losses = wasserstein(critic, said, gold, exchange, plays, chance())
        return losses, torch.autograd.grad(sum(losses), list(critic.parameters()))

    there, heard = exchange.mask[..., None], exchange.heard[..., None]
    noisy = exchange._replace(after=torch.where(heard, exchange.after, 9.0))
    assert_close(both(torch.where(there, said, 7.0), torch.where(there, gold, -5.0), noisy), both(said, gold, exchange))
    pad = torch.nn.functional.pad
    wide = exchange._replace(
        mask=pad(exchange.mask, (0, 4)), after=pad(exchange.after, (0, 0, 0, 2)), heard=pad(exchange.heard, (0, 2))
    )
    assert_close(both(pad(said, (0, 0, 0, 4)), pad(gold, (0, 0, 0, 4)), wide), both(said, gold, exchange))


def test_where_nobody_plays_the_losses_are_zeros_with_finite_gradients(game):
    critic, said, gold, exchange = game
    silent = exchange._replace(heard=torch.zeros(P, F, dtype=torch.bool), after=torch.zeros(P, F, D))
    losses = wasserstein(critic, said, gold, silent, torch.zeros(P, dtype=torch.bool))
    assert [float(loss.detach()) for loss in losses] == [0, 0]
    sum(losses).backward()
    assert all(not weight.grad.any() for weight in (said, *critic.parameters()))


def test_a_slope_of_zero_has_a_finite_gradient(game):
    critic, said, gold, exchange = game
    torch.nn.init.zeros_(critic.score.weight)
    ours, _ = wasserstein(critic, said, gold, exchange, torch.ones(P, dtype=torch.bool))
    ours.backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in critic.parameters())


def test_a_critic_learns_which_reply_fits_its_next_turn(game):
    """Gold and said are the same replies in another order: only the turn after tells them apart."""
    critic, _, gold, exchange = game
    after, mask = gold[:, :1], torch.ones(P, T, dtype=torch.bool)  # the turn after repeats the reply's first word
    exchange = Exchange(mask, 3 * after, mask[:, :1], torch.zeros(P, D))
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        wasserstein(critic, gold.roll(1, 0), gold, exchange, mask[:, 0])[0].backward()
        optimizer.step()
    scores = critic(torch.stack([gold.roll(1, 0), gold]), exchange)[0].mean(1)
    assert scores[1] > scores[0] + 0.1
