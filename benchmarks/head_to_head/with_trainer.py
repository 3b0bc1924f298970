"""Hugging Face's Trainer with its defaults: three epochs, or with ``long`` as many as fit, at most 20.

python with_trainer.py default|long FOLDER SECONDS
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from _common import SHARE, read_cell, report
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

TIMED = 5  # steps
LENGTH = 128


class Texts(torch.utils.data.Dataset):
    """Tokens and labels."""

    def __init__(self, tokenizer: AutoTokenizer, texts: list[str], labels: np.ndarray) -> None:
        self.tokens = tokenizer(texts, truncation=True, max_length=LENGTH)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, object]:
        row = {name: values[place] for name, values in self.tokens.items()}
        return row | {"labels": int(self.labels[place])}


def main() -> None:
    """Train, and measure on test."""
    wanted = 3 if sys.argv.pop(1) == "default" else 20
    cell = read_cell()
    tokenizer = AutoTokenizer.from_pretrained(cell.facts["encoder"])
    network = AutoModelForSequenceClassification.from_pretrained(cell.facts["encoder"], num_labels=cell.classes)
    train = Texts(tokenizer, *cell.texts("train"))

    def trainer(**settings: float) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(cell.folder / "trainer"), save_strategy="no", report_to="none", disable_tqdm=True,
            use_cpu=True, logging_strategy="no", seed=0, **settings,
        )  # fmt: skip
        return Trainer(network, arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer))

    begun = time.perf_counter()
    trainer(max_steps=TIMED, learning_rate=0.0).train()  # a rate of nothing leaves the weights as they are
    step = (time.perf_counter() - begun) / TIMED
    fit = SHARE * cell.left / (step * -(-len(train) // 8))
    own = trainer(num_train_epochs=min(float(wanted), fit))
    own.train()
    used = cell.seconds - cell.left
    outputs = own.predict(Texts(tokenizer, *cell.texts("test")))
    right = float((outputs.predictions.argmax(1) == outputs.label_ids).mean())
    report(cell, right, used, epochs=round(min(float(wanted), fit), 2))


if __name__ == "__main__":
    main()
