"""A careful plain script: small images, the head of a linear probe, a short try of three rates, then the best one for the rest of the time."""

from __future__ import annotations

import copy
import math
import time

import torch
import torch.nn.functional as F
from _common import BATCH, SHARE, Cell, accuracy, outputs_of, read_cell, report, split_off
from sklearn.linear_model import LogisticRegression
from torch import nn

SIDE = 96
RATES = (0.001, 0.003, 0.01)
TRY = 40  # steps at each rate
MOST = 600


def main() -> None:
    """Train, and measure on test."""
    cell = read_cell()
    pixels, labels = cell.images("train", SIDE)
    train, val = (torch.from_numpy(rows) for rows in split_off(labels.numpy()))
    module = cell.network(cell.classes)
    frozen = cell.network(0)
    rows = outputs_of(frozen, cell, pixels)
    solved = LogisticRegression(C=0.01, max_iter=500).fit(rows[train].numpy(), labels[train].numpy())
    head = module.get_classifier()
    with torch.no_grad():
        weight, bias = torch.from_numpy(solved.coef_), torch.from_numpy(solved.intercept_)
        if cell.classes == 2:
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    start = copy.deepcopy(module.state_dict())
    tried, each = [], 0.0
    for rate in RATES:
        module.load_state_dict(start)
        begun = time.perf_counter()
        fit(module, cell, pixels, labels, train, rate, TRY, cell.left * SHARE / 2)
        each = (time.perf_counter() - begun) / TRY
        tried.append((accuracy(outputs_of(module, cell, pixels[val]), labels[val]), -rate))
        if cell.left < 2 * each * TRY:
            break
    _, rate = max(tried)
    steps = min(MOST, int(SHARE * cell.left / each))
    if steps > TRY:
        module.load_state_dict(start)
        fit(module, cell, pixels, labels, train, -rate, steps, cell.left)
    used = cell.seconds - cell.left
    test, truth = cell.images("test", SIDE)
    report(cell, accuracy(outputs_of(module, cell, test), truth), used, steps=steps, size=SIDE, rate=-rate)


def fit(
    module: nn.Module,
    cell: Cell,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    rows: torch.Tensor,
    rate: float,
    steps: int,
    seconds: float,
) -> None:
    """SGD with a warm-up and half a cosine; batch-norm statistics stay, images are shifted and mirrored."""
    optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    order, end = rows[:0], time.perf_counter() + seconds
    for step in range(steps):
        if time.perf_counter() > end:
            return
        if len(order) < min(BATCH, len(rows)):
            order = torch.cat([order, rows[torch.randperm(len(rows))]])
        batch, order = order[:BATCH], order[BATCH:]
        warm = max(1, steps // 10)
        share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        optimizer.param_groups[0]["lr"] = rate * share
        images = F.pad(pixels[batch].float(), (6, 6, 6, 6), mode="replicate")
        top, left = (int(value) for value in torch.randint(0, 13, (2,)))
        images = images[:, :, top : top + SIDE, left : left + SIDE]
        if cell.facts["mirrored"] and torch.rand(()) < 0.5:
            images = images.flip(3)
        loss = F.cross_entropy(module(cell.normalize(images)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


if __name__ == "__main__":
    main()
