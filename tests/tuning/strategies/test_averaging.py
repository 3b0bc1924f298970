"""Averages of weights against torch's own, and in the loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from selector.tuning.strategies._loop import _batches
from selector.tuning.strategies._parts import LAST, WeightAverage
from tests.tuning.strategies.test_loop import SETTINGS, everything, fit, network


def walk(average: WeightAverage, layer: nn.Linear, steps: int, begin: int = 0) -> list[torch.Tensor]:
    """Move the weights at random and let the average look at them."""
    seen = []
    for step in range(begin, steps):
        torch.manual_seed(step)
        with torch.no_grad():
            layer.weight.copy_(torch.randn_like(layer.weight))
        average.update(step)
        seen.append(layer.weight.detach().clone())
    return seen


def test_the_last_quarter_is_averaged() -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage("last", [layer.weight], 40)
    seen = walk(average, layer, 40)
    average.apply()
    torch.testing.assert_close(layer.weight.detach(), torch.stack(seen[-int(LAST * 40) :]).mean(0))


def test_an_exponential_average_equals_that_of_torch() -> None:
    layer = nn.Linear(3, 2, bias=False)
    average, reference = WeightAverage("ema", [layer.weight], 30), AveragedModel(layer)
    for step in range(30):
        walk(average, layer, step + 1, step)
        reference.multi_avg_fn = get_ema_multi_avg_fn(min(0.999, (1 + step) / (10 + step)))
        reference.update_parameters(layer)
    average.apply()
    torch.testing.assert_close(layer.weight, reference.module.weight)


@pytest.mark.parametrize("kind", ["ema", "last"])
def test_only_what_is_trained_is_averaged(kind: str) -> None:
    last, averaged = network(), network()
    groups = everything(last)
    head = [replace(groups[0], names=tuple(name for name in groups[0].names if name.startswith("5")))]
    before = averaged[0].weight.detach().clone()
    fit(last, SETTINGS, head)
    fit(averaged, replace(SETTINGS, averaging=kind), head)
    assert torch.equal(averaged[0].weight, before)
    assert not torch.equal(averaged[5].weight, last[5].weight)


def test_rare_classes_are_drawn_as_often_as_others() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    weights = np.where(labels == 0, 1 / 180, 1 / 20)
    drawn = np.concatenate(
        [rows for _, rows in _batches(100, 20, replace(SETTINGS, steps=200), start=0, sampling_weights=weights)]
    )
    assert 0.46 < labels[drawn].mean() < 0.54
    again = [rows for _, rows in _batches(100, 20, replace(SETTINGS, steps=200), start=150, sampling_weights=weights)]
    np.testing.assert_array_equal(np.concatenate(again), drawn[150 * 20 :])  # any step can be the first
