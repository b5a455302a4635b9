"""A slider over the diffusion steps (eq. 6-7): one dialogue's Q_s is noised to t* and comes back, both polarities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import Tensor

from rd.figures import panels
from rd.models.intent import MimicryUnit
from rd.widgets.board import Board, picture, table

SIDES = {"positive": "tab:orange", "negative": "tab:blue"}
CLEAN = -1  # the level of the vector that has seen no noise


@torch.inference_mode()
def journey(emu: MimicryUnit, state: Tensor, first: Tensor, calls: int) -> tuple[list[int], Tensor]:
    """Out and back, one place a level: Q_s (2, D), Intent_first (I,) -> levels and states (places, 2, D).

    Out: eq. 6 with the noise that answers use, from the clean vector to t*. Back: the DDIM chain in `calls` calls of
    the denoiser; between two of them the state stands where the last one left it.
    """
    top, x0 = emu.settings.start, state[:, None]
    eps = emu.still_noise.expand_as(x0)
    levels = [*range(CLEAN, top + 1), *range(top - 1, CLEAN - 1, -1)]
    out = [x0, *(emu.diffusion.noise(x0, torch.tensor([n]), eps) for n in range(top + 1))]
    asked: dict[int, Tensor] = {}  # where the denoiser was asked

    def predict(x: Tensor, n: Tensor) -> Tensor:
        asked[int(n[0])] = x
        return emu.denoiser(x, n, first[None])[0]

    end = emu.diffusion.ddim(out[-1], top, calls, predict)
    back = []
    for level in levels[len(out) :]:
        back.append(end if level == CLEAN else asked[min(n for n in asked if n >= level)])
    return levels, torch.stack([*out, *back])[:, :, 0]


@dataclass(frozen=True)
class Mimicry:
    """What the pages read: Q_s (2, n, D) and Intent_first (n, I) of n samples, their ids and gold emotions."""

    emu: MimicryUnit
    states: Tensor
    first: Tensor
    names: Sequence[str]
    emotions: Sequence[str]

    @cached_property
    def planes(self) -> list[PCA]:
        """The plane in which the Q_s of each polarity differ most."""
        return [PCA(2).fit(side.numpy()) for side in self.states]

    @cached_property
    def means(self) -> dict[str, Tensor]:
        """The mean Q_s (2, D) of each emotion."""
        felt = np.array(self.emotions)
        return {name: self.states[:, felt == name].mean(1) for name in sorted(set(self.emotions))}

    def distances(self, sample: int, path: Tensor) -> dict[str, np.ndarray]:
        """Root mean square distances of path (places, 2, D), each (places, 2): from the own Q_s, the emotion's mean."""
        aims = {"own Q_s": self.states[:, sample], "its emotion's mean": self.means[self.emotions[sample]]}
        return {name: (path - aim).pow(2).mean(-1).sqrt().numpy() for name, aim in aims.items()}

    def nearest(self, state: Tensor) -> list[str]:
        """Whose mean lies nearest to state (2, D), for each polarity."""
        means = torch.stack(list(self.means.values()), 1)  # (2, E, D)
        return [list(self.means)[i] for i in (means - state[:, None]).pow(2).sum(-1).argmin(-1).tolist()]

    def page(self, sample: int, place: int, calls: int) -> str:
        """The way of one sample with the state at one place of it marked."""
        levels, path = journey(self.emu, self.states[:, sample], self.first[sample], calls)
        level, back = levels[place], place > self.emu.settings.start + 1
        signal = 1.0 if level == CLEAN else float(self.emu.diffusion.alpha_bar[level])
        stage = ("clean: Q_s" if not back else "clean: Emo_s") if level == CLEAN else f"level n = {level}"
        title = f"{self.names[sample]}, {self.emotions[sample]}: {'on the way back' if back else 'on the way out'}, "
        title += f"{stage}; signal {signal:.3f}, noise {1 - signal:.3f} of the variance"
        far = self.distances(sample, path)
        looks = self.nearest(path[place])
        rows = [[side, *(float(d[place, i]) for d in far.values()), looks[i]] for i, side in enumerate(SIDES)]
        head = ["polarity", *(f"from {name}" for name in far), "nearest mean"]
        lines = table([[title]]) + picture(self.figure(sample, place, path, far), title)
        return lines + table(rows, head)

    def figure(self, sample: int, place: int, path: Tensor, far: dict[str, np.ndarray]) -> Figure:
        """Both planes with the way so far, and the distances along the whole way."""
        fig, axes = panels(3, width=11, height=3.9)
        for i, (ax, (side, colour)) in enumerate(zip(axes, SIDES.items())):
            show = self.planes[i].transform
            mean = self.means[self.emotions[sample]][i]
            ax.scatter(*show(self.states[i].numpy()).T, s=6, color="lightgrey", label="all $Q_s$")
            ax.scatter(*show(mean[None].numpy()).T, marker="X", s=70, color="tab:green", label="its emotion's mean")
            ax.plot(*show(path[: place + 1, i].numpy()).T, color=colour, lw=1)
            ax.scatter(*show(path[:1, i].numpy()).T, s=40, color="black", label="own $Q_s$")
            ax.scatter(*show(path[place, i][None].numpy()).T, marker="*", s=150, color=colour, edgecolor="black")
            seen = show(torch.cat([path[:, i], mean[None]]).numpy())  # the whole way, whatever the place: no jumps
            middle, reach = (seen.max(0) + seen.min(0)) / 2, 0.7 * max(1.0, float(np.ptp(seen, 0).max()))
            ax.set(xlim=middle[0] + np.array([-reach, reach]), ylim=middle[1] + np.array([-reach, reach]))
            ax.set(title=f"{side} polarity", xlabel="component 1 of $Q_s$", ylabel="component 2 of $Q_s$")
        axes[0].legend(fontsize=8, loc="best")
        for i, (side, colour) in enumerate(SIDES.items()):
            for (name, values), style in zip(far.items(), ("-", ":")):
                axes[2].plot(values[:, i], style, color=colour, label=f"{side}, from {name}")
        turn = self.emu.settings.start + 1
        axes[2].axvline(place, color="black", lw=1)
        axes[2].set_xticks([0, turn, 2 * turn], ["$Q_s$", f"t* = {turn - 1}", "$Emo_s$"])
        axes[2].set(title="out and back", ylabel="distance a coordinate", xlabel="place on the way")
        axes[2].set_ylim(0, 1.6 * max(float(values.max()) for values in far.values()))
        axes[2].legend(fontsize=8, loc="upper left")
        return fig


def steps_board(mimicry: Mimicry, sample: int = 0) -> Board:
    """Sliders for the sample and the place on its way; a choice of how often the denoiser is asked."""
    start = mimicry.emu.settings.start
    counts = sorted({1, min(4, start + 1), min(20, start + 1), start + 1})
    wide = {"width": "34em"}
    handles = {
        "sample": ipywidgets.IntSlider(sample, min=0, max=len(mimicry.names) - 1, description="sample", layout=wide),
        "place": ipywidgets.IntSlider(start + 1, min=0, max=2 * start + 2, description="step", layout=wide),
        "calls": ipywidgets.Dropdown(options=counts, value=counts[1], description="calls"),
    }
    return Board(mimicry.page, handles)
