"""SetFit with its defaults: contrastive training of the encoder on pairs, for one epoch or the steps that fit, then its head."""

from __future__ import annotations

import time

import numpy as np
from _common import SHARE, read_cell, report
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

TIMED = 3  # steps


def main() -> None:
    """Train, and measure on test."""
    cell = read_cell()
    texts, labels = cell.texts("train")
    data = Dataset.from_dict({"text": texts, "label": labels})

    def trained(steps: int, rate: float = 2e-5) -> tuple[SetFitModel, float]:
        begun = time.perf_counter()
        model = SetFitModel.from_pretrained(cell.facts["encoder"], device="cpu")
        arguments = TrainingArguments(
            output_dir=str(cell.folder / "setfit"), max_steps=steps, body_learning_rate=rate, save_strategy="no",
            report_to="none", seed=0,
        )  # fmt: skip
        Trainer(model, args=arguments, train_dataset=data).train()
        return model, time.perf_counter() - begun

    few = trained(TIMED)[1]
    more = trained(2 * TIMED)[1]
    each, fixed = max(1e-3, (more - few) / TIMED), max(0.0, 2 * few - more)
    pairs = sum(int(count) * (int(count) + 1) // 2 for count in np.bincount(labels))
    epoch = 2 * max(pairs, len(labels) * (len(labels) + 1) // 2 - pairs) // 16  # of its sampling by "oversampling"
    steps = max(1, min(epoch, int((SHARE * cell.left - fixed) / each)))
    model, _ = trained(steps)
    used = cell.seconds - cell.left
    test, truth = cell.texts("test")
    report(cell, float((np.asarray(model.predict(test)) == truth).mean()), used, steps=steps)


if __name__ == "__main__":
    main()
