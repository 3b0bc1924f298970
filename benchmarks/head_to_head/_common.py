"""What the contenders share: their command line, the images and texts of a cell, batches, and the line they print.

A contender is a script of its own, because it may run in another environment than this project's. It gets a folder
that ``run.py`` wrote, and the seconds it may use; it prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZE = 128  # pixels a side, where a contender has no rule of its own
BATCH = 32
SHARE = 0.9  # of the seconds that is planned with; the rest is for what was not measured


@dataclass(frozen=True)
class Cell:
    """One question: these items, this encoder, so many seconds.

    Attributes:
        folder: ``train`` and ``test`` with a folder a class, or ``train.jsonl`` and ``test.jsonl``; ``cell.json``.
        facts: of ``cell.json``: classes, arch, mean, std, mirrored, encoder (a file, or a folder for texts).
        begun: when the clock started: imports do not count.
    """

    folder: Path
    seconds: float
    facts: dict[str, Any]
    begun: float

    @property
    def classes(self) -> int:
        return int(self.facts["classes"])

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.seconds - (time.perf_counter() - self.begun)

    def texts(self, split: str) -> tuple[list[str], np.ndarray]:
        """Texts and their labels."""
        rows = [json.loads(line) for line in (self.folder / f"{split}.jsonl").read_text("utf-8").splitlines()]
        return [row["text"] for row in rows], np.array([row["label"] for row in rows])

    def images(self, split: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 (N, 3, S, S) squashed to a square, and labels."""
        pixels, labels = [], []
        for place, kind in enumerate(sorted((self.folder / split).iterdir())):
            for path in sorted(kind.iterdir()):
                with Image.open(path) as image:
                    pixels.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)))
                labels.append(place)
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)

    def network(self, classes: int) -> nn.Module:
        """The pretrained encoder with a new head; without one for 0 classes."""
        import timm
        from safetensors.torch import load_file

        module = timm.create_model(self.facts["arch"], num_classes=classes, **self.facts["kwargs"])
        module.load_state_dict(load_file(self.folder.parent / self.facts["encoder"]), strict=False)
        return module

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """float32 (B, 3, S, S) of uint8."""
        mean, std = (torch.tensor(self.facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return (pixels.float() / 255 - mean) / std


def read_cell() -> Cell:
    """The cell that the command line names; starts its clock."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    facts = json.loads((given.folder / "cell.json").read_text("utf-8"))
    torch.manual_seed(0)
    return Cell(given.folder, given.seconds, facts, time.perf_counter())


def split_off(labels: np.ndarray, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation, the same share of each class."""
    from sklearn.model_selection import train_test_split

    return tuple(train_test_split(np.arange(len(labels)), test_size=share, stratify=labels, random_state=0))


@torch.no_grad()
def outputs_of(module: nn.Module, cell: Cell, pixels: torch.Tensor) -> torch.Tensor:
    """float32 (N, C) in eval mode."""
    module.eval()
    return torch.cat([module(cell.normalize(part)) for part in pixels.split(64)])


def accuracy(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers."""
    return float((outputs.argmax(1) == labels).double().mean())


def report(cell: Cell, test_accuracy: float, seconds: float, **facts: Any) -> None:
    """Print the line that ``run.py`` reads. ``seconds`` are those until the model was there; test comes after them."""
    print(json.dumps({"test_accuracy": test_accuracy, "seconds": round(seconds, 1), **facts}))
