"""The measure of repeatability: nothing on a CPU, and something where training is made to differ."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up import model_config, train_config

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import repeat  # noqa: E402

from rd.config import MINI  # noqa: E402

CONFIG = replace(MINI, model=replace(model_config(), bert_width=8), train=train_config())


@pytest.mark.parametrize("model", ["transformer", "reflectdiffu"])
def test_a_training_repeats_bit_for_bit_on_a_cpu(model: str) -> None:
    found = repeat.spread(model, 10, 2, CONFIG, words=50)
    assert found["greatest difference of a weight"] == found["spread of the loss"] == 0 and found["loss"] > 0


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, change = repeat.build, [0.0]

    def other(*given) -> torch.nn.Module:
        model = plain(*given)
        change[0] += 0.25
        model.bias.data[7] = change[0]
        return model

    monkeypatch.setattr(repeat, "build", other)
    found = repeat.spread("transformer", 10, 3, CONFIG, words=50)
    assert 0.3 < found["greatest difference of a weight"] < 0.7  # twice .25, and what training made of it
    assert found["spread of the loss"] > 0 and found["mean difference / mean movement"] > 0
