r"""Policy playground (sec. 3.3.1, eq. 9): logits, first guess, exploration and rewards of three intents, by hand.

Three actions can be added up, so the gradient of the expected reward is known exactly,
$$ \partial_a \sum_{a'} \pi(a') R(a') = \pi(a) (R(a) - \bar R), $$
and so is what training expects to step by when it draws from mu: `policy_loss` weighted by mu.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from rd.blocks.policy import behaviour, masked_policy, policy_loss
from rd.figures import panels
from rd.widgets.board import Board, picture, table

NAMES = ("a", "b", "c")
COLUMNS = ("mu", "pi", "ratio", "reward", "exact", "trained")


def play(
    logits: Sequence[float],
    guess: Sequence[float],
    explore: float,
    rewards: Sequence[float],
    clip: float | None = None,
) -> dict[str, Any]:
    """What the policy does with these numbers, one of each for an intent (guess: weights, they need not sum to 1).

    Lists: "mu", "pi", "ratio" (infinite where mu is 0), "reward", "exact" and "trained" (the gradients of the logits:
    of the expected reward; what one draw from mu gives on average). Floats: "entropy", "entropy_mu" (nats), "expected"
    (reward of pi), "expected_mu", "noise" (root mean square distance of one draw's gradient from its average).
    """
    allowed = torch.ones(1, len(logits), dtype=torch.bool)
    reward = torch.tensor(rewards, dtype=torch.float32)
    pi = masked_policy(torch.tensor([list(logits)], dtype=torch.float32), allowed)[0].exp()
    mu = behaviour(torch.tensor([list(guess)], dtype=torch.float32), allowed, explore)[0]
    tried = (mu > 0).nonzero()[:, 0]
    steps = torch.stack([_step(logits, mu, action, reward, clip) for action in tried])  # (tried, I)
    trained = mu[tried] @ steps
    noise = (mu[tried] @ (steps - trained).pow(2)).sum().sqrt()
    lists = {"mu": mu, "pi": pi, "ratio": pi / mu, "reward": reward, "exact": pi * (reward - pi @ reward)}
    numbers = {"entropy": _entropy(pi), "entropy_mu": _entropy(mu), "expected": pi @ reward, "expected_mu": mu @ reward}
    return {
        **{name: values.tolist() for name, values in (lists | {"trained": trained}).items()},
        **{name: float(value) for name, value in (numbers | {"noise": noise}).items()},
    }


def _step(logits: Sequence[float], mu: Tensor, action: Tensor, reward: Tensor, clip: float | None) -> Tensor:
    """The gradient that the draw of one action gives, (I,), uphill."""
    learned = torch.tensor([list(logits)], dtype=torch.float32, requires_grad=True)
    log_pi = masked_policy(learned, torch.ones_like(learned, dtype=torch.bool))
    policy_loss(log_pi, mu[None], action[None], reward[action][None], clip=clip).backward()
    return -learned.grad[0]


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum()


def playground_figure(found: dict[str, Any]) -> Figure:
    """What `play` found: behaviour, policy and reward of each intent; both gradients."""
    fig, (left, right) = panels(2, width=9.5, height=3.1)
    place = np.arange(len(found["pi"]))
    left.bar(place - 0.2, found["mu"], 0.4, color="tab:grey", label=r"behaviour $\mu$: drawn from")
    left.bar(place + 0.2, found["pi"], 0.4, color="tab:purple", label=r"policy $\pi$: judged by")
    left.plot(place, found["reward"], "D", color="tab:orange", label="reward R")
    left.set(title="three intents", xlabel="intent", ylabel="probability, reward", ylim=(0, 1.45))
    right.bar(place - 0.2, found["exact"], 0.4, color="tab:green", label=r"exact: $\pi(R - \bar R)$")
    right.bar(place + 0.2, found["trained"], 0.4, color="tab:olive", label=r"mean of draws from $\mu$")
    right.axhline(0, color="black", lw=0.8)
    right.set(title="gradient of the logits", xlabel="intent", ylabel="uphill", ylim=(-0.26, 0.36))
    for ax in (left, right):
        ax.set_xticks(place, NAMES[: len(place)])
        ax.legend(fontsize=8, frameon=False, loc="upper left", ncols=1)
    return fig


def playground_page(found: dict[str, Any]) -> str:
    """What `play` found, as figure and tables."""
    rows = [[NAMES[i], *(found[name][i] for name in COLUMNS)] for i in range(len(found["pi"]))]
    head = ["intent", "μ", "π", "π/μ", "R", "exact gradient", "by draws"]
    said = [
        ["entropy of the policy (nats; log 3 = 1.099)", found["entropy"]],
        ["entropy of the behaviour", found["entropy_mu"]],
        ["expected reward of the policy", found["expected"]],
        ["expected reward of the behaviour", found["expected_mu"]],
        ["how far one draw's gradient lies from its mean", found["noise"]],
    ]
    side = "display:inline-block;vertical-align:top;margin-right:2em"
    figure = picture(playground_figure(found), "behaviour, policy, reward and gradients of three intents")
    return f'{figure}<div><div style="{side}">{table(rows, head)}</div><div style="{side}">{table(said)}</div></div>'


def playground() -> Board:
    """Sliders for all that `play` takes."""
    start = {"logit": (0.0, 1.5, 0.5), "guess": (0.6, 0.05, 0.15), "reward": (0.3, 0.5, 0.8)}
    ends = {"logit": (-4, 4), "guess": (0, 1), "reward": (0, 1)}
    handles: dict[str, Any] = {
        f"{kind}_{name}": ipywidgets.FloatSlider(
            value, min=ends[kind][0], max=ends[kind][1], step=0.05, description=f"{kind} {name}"
        )
        for kind, values in start.items()
        for name, value in zip(NAMES, values, strict=True)
    }
    handles["explore"] = ipywidgets.FloatSlider(0.1, min=0, max=1, step=0.05, description="explore")
    handles["clip"] = ipywidgets.Dropdown(
        options=[("none", None), ("1", 1.0), ("2", 2.0), ("5", 5.0)], value=2.0, description="clip ratio"
    )

    def page(explore: float, clip: float | None, **values: float) -> str:
        rows = [[values[f"{kind}_{name}"] for name in NAMES] for kind in start]
        return playground_page(play(rows[0], rows[1], explore, rows[2], clip))

    return Board(page, handles, columns=len(NAMES))
