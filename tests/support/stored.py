"""Items known by number, with a hash and a row each; light, because writers in other processes import it."""

import numpy as np

from selector.store.documents import digest
from selector.store.entry import Entry

WIDTH = 8
IDENTITY = {"source": "timm", "weights": "abc", "preprocess": {"input_size": [3, 32, 32]}, "precision": "float32"}


def hashes(numbers: range | list[int]) -> list[str]:
    """Content hashes of items known by number."""
    return [digest({"item": int(n)}) for n in numbers]


def features(numbers: range | list[int]) -> np.ndarray:
    """The row of each item, which its number alone decides."""
    return np.stack([np.random.default_rng(int(n)).standard_normal(WIDTH).astype(np.float32) for n in numbers])


def fill(entry: Entry, numbers: range | list[int], chunk: int = 10) -> None:
    for begin in range(0, len(numbers), chunk):
        part = numbers[begin : begin + chunk]
        entry.append(hashes(part), features(part))
