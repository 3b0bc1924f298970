"""Pairs of a labeled source domain and a target of the same classes, made from what is at hand.

    from benchmarks import da_pairs
    pair = da_pairs.load("mnist-mnistm", assets)      # pair.source, pair.target, pair.target_test

Deterministic: every draw has a fixed seed, so that two runs, and two machines, make the same pixels. The items of
``target`` are what an adaptation may look at; its labels, and everything of ``target_test``, are for the final
figure alone. No item of the source occurs in either of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks.suite.image_sets import decode

SEED = 0
PATCHES_FROM = "imagenet_val256"  # photographs behind the digits of MNIST-M
POLARITY = {0: 0, 1: 1, 2: 1, 3: 0}  # of TweetEval's emotions: anger, joy, optimism, sadness
INTENTS = {  # of CLINC150 and of BANKING77 that mean the same
    "card_declined": "declined_card_payment",
    "damaged_card": "card_not_working",
    "exchange_rate": "exchange_rate",
    "expiration_date": "card_about_to_expire",
    "new_card": "order_physical_card",
    "pin_change": "change_pin",
    "replacement_card_duration": "card_delivery_estimate",
    "report_fraud": "compromised_card",
    "report_lost_card": "lost_or_stolen_card",
}


@dataclass(frozen=True)
class Domain:
    """``items`` are images, uint8 (H, W, 3), or texts; ``labels`` int64 (N,)."""

    items: list[Any]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DomainPair:
    """A source, a target, and held-out items of the target; ``classes`` names what the labels mean in all three."""

    name: str
    classes: tuple[str, ...]
    source: Domain
    target: Domain
    target_test: Domain


def load(name: str, assets: Path) -> DomainPair:
    """One of ``NAMES`` from the folder of assets.

    Raises:
        ValueError: no pair has this name.
    """
    if name not in _PAIRS:
        raise ValueError(f"no pair is called {name!r}; there are {', '.join(NAMES)}.")
    classes, source, target, target_test = _PAIRS[name](assets)
    return DomainPair(name, classes, source, target, target_test)


# ---------------------------------------------------------------------------- the recipes


def blend(digit: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """MNIST-M of Ganin et al. 2016: the absolute difference of digit and patch in every channel, uint8 (H, W, 3)."""
    return np.abs(digit.astype(np.int16) - patch.astype(np.int16)).astype(np.uint8)


def patch_of(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square of a photograph, uint8 (side, side, 3), at a random place."""
    top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
    return photo[top : top + side, left : left + side]


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with a standard deviation of 0.1 of the range."""
    return _uint8(image + 25.5 * rng.standard_normal(image.shape))


def blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian blur with a radius of a thirtieth of the side; nothing is random in it."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(image.shape[0] / 30)))


def dimmed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third of the contrast at half the brightness; nothing is random in it."""
    return _uint8(image.astype(np.float64) / 3 + 255 / 12)


def fogged(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White haze of uneven density: noise at doubling scales, each half as strong as the coarser one before, mixed in by 40 to 80%."""
    height, width = image.shape[:2]
    haze, strength, cells = np.zeros((height, width)), 1.0, 2
    while cells <= min(height, width):
        coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        haze += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        strength, cells = strength / 2, cells * 2
    haze = (haze - haze.min()) / max(np.ptp(haze), 1e-12)
    share = (0.4 + 0.4 * haze)[..., None]
    return _uint8(image * (1 - share) + 255 * share)


def shifted(labels: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Rows to keep so that class shares fall geometrically, the first class ``ratio`` times as large as the last.

    Raises:
        ValueError: the ratio is below 1.
    """
    if ratio < 1:
        raise ValueError(f"ratio must be >= 1. Got {ratio}.")
    counts = np.bincount(labels)
    wanted = counts.min() * np.geomspace(1, 1 / ratio, len(counts))
    kept = [rng.permutation(np.flatnonzero(labels == c))[: max(1, round(share))] for c, share in enumerate(wanted)]
    return np.sort(np.concatenate(kept))


def _uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------- the pairs

_Parts = tuple[tuple[str, ...], Domain, Domain, Domain]


def _mnist_digits(assets: Path) -> _Parts:
    train, _ = _images(assets, "mnist")
    return (_TEN, train, *_digits())


def _digits_mnist(assets: Path) -> _Parts:
    train, test = _images(assets, "mnist")
    return _TEN, _both(*_digits()), train, test


def _mnist_mnistm(assets: Path) -> _Parts:
    train, test = _images(assets, "mnist")
    source, other = _halves(train)
    photos = _photos(assets)
    return _TEN, source, _colored(other, photos, SEED), _colored(test, photos, SEED + 1)


def _photos(assets: Path) -> list[np.ndarray]:
    return [np.asarray(decode(raw)) for raw, _ in _rows(assets / "data" / PATCHES_FROM / "test.parquet", "image")]


def _colored(domain: Domain, photos: list[np.ndarray], seed: int) -> Domain:
    rng = np.random.default_rng(seed)
    drawn = [photos[int(rng.integers(len(photos)))] for _ in domain.items]
    return Domain(
        [blend(digit, patch_of(photo, len(digit), rng)) for digit, photo in zip(domain.items, drawn, strict=True)],
        domain.labels,
    )


def _mnistm(assets: Path, target: Callable[[Path], tuple[Domain, Domain]]) -> _Parts:
    """From digits on photographs, those of MNIST's first half."""
    own, _ = _halves(_images(assets, "mnist")[0])
    return (_TEN, _colored(own, _photos(assets), SEED), *target(assets))


def _rest_of_mnist(assets: Path) -> tuple[Domain, Domain]:
    train, test = _images(assets, "mnist")
    return _halves(train)[1], test


def _corrupted(name: str, corrupt: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Callable[[Path], _Parts]:
    def pair(assets: Path) -> _Parts:
        train, test = _images(assets, name)
        source, other = _halves(train)
        parts = []
        for seed, domain in enumerate((other, test)):
            rng = np.random.default_rng(SEED + seed)
            parts.append(Domain([corrupt(image, rng) for image in domain.items], domain.labels))
        return _classes(assets, f"data/{name}"), source, parts[0], parts[1]

    return pair


def _label_shift(name: str) -> Callable[[Path], _Parts]:
    def pair(assets: Path) -> _Parts:
        train, test = _images(assets, name)
        source, other = _halves(train)
        rng = np.random.default_rng(SEED)
        target, held = (_take(domain, shifted(domain.labels, 10.0, rng)) for domain in (other, test))
        return _classes(assets, f"data/{name}"), source, target, held

    return pair


def _feelings(assets: Path, split: str) -> Domain:
    """Messages, pleasant or not."""
    texts, labels = _texts(assets, "emotion", split)
    return Domain(texts, _int(POLARITY[int(label)] for label in labels))


def _sst2_emotion(assets: Path) -> _Parts:
    """From sentences of film reviews to messages."""
    return _POLES, Domain(*_texts(assets, "sst2", "train")), _feelings(assets, "train"), _feelings(assets, "test")


def _intents(assets: Path, name: str, split: str) -> Domain:
    """Questions to an assistant (clinc150) or to a bank (banking77) of the intents that both know, in random order: the
    files are sorted by intent."""
    texts, labels = _texts(assets, name, split)
    names = _classes(assets, f"text/{name}")
    number = {names.index(pair[name == "banking77"]): i for i, pair in enumerate(INTENTS.items())}
    rows = np.flatnonzero(np.isin(labels, list(number)))
    rows = np.random.default_rng(SEED).permutation(rows)
    return Domain([texts[i] for i in rows], _int(number[int(labels[i])] for i in rows))


def _clinc150_banking77(assets: Path) -> _Parts:
    wanted = (("clinc150", "train"), ("banking77", "train"), ("banking77", "test"))
    source, target, held = (_intents(assets, name, split) for name, split in wanted)
    return tuple(INTENTS), source, target, held


_POLES = ("negative", "positive")
_TEN = tuple(str(digit) for digit in range(10))
_PAIRS: Mapping[str, Callable[[Path], _Parts]] = {
    "mnist-digits": _mnist_digits,
    "digits-mnist": _digits_mnist,
    "mnist-mnistm": _mnist_mnistm,
    "cifar10-noise": _corrupted("cifar10", noisy),
    "cifar10-blur": _corrupted("cifar10", blurred),
    "cifar10-fog": _corrupted("cifar10", fogged),
    "cifar10-label-shift": _label_shift("cifar10"),
    "mnistm-mnist": lambda assets: _mnistm(assets, _rest_of_mnist),
    "mnistm-digits": lambda assets: _mnistm(assets, lambda _: _digits()),
    "mnist-noise": _corrupted("mnist", noisy),
    "mnist-label-shift": _label_shift("mnist"),
    "cifar10-dim": _corrupted("cifar10", dimmed),
    "flowers-blur": _corrupted("flowers", blurred),
    "dtd10-fog": _corrupted("dtd10", fogged),
    "sst2-emotion": _sst2_emotion,
    "clinc150-banking77": _clinc150_banking77,
}
NAMES = tuple(_PAIRS)
TEXTS = NAMES[NAMES.index("sst2-emotion") :]


# ---------------------------------------------------------------------------- reading


def _rows(path: Path, column: str) -> list[tuple[Any, int]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    return [(row[column]["bytes"] if column == "image" else row[column], row["label"]) for row in rows]


def _images(assets: Path, name: str) -> tuple[Domain, Domain]:
    """Train and test of a set of images."""
    parts = [_rows(assets / "data" / name / f"{split}.parquet", "image") for split in ("train", "test")]
    train, test = (
        Domain([np.asarray(decode(raw)) for raw, _ in part], _int(label for _, label in part)) for part in parts
    )
    return train, test


def _texts(assets: Path, name: str, split: str) -> tuple[list[str], np.ndarray]:
    rows = _rows(assets / "text" / name / f"{split}.parquet", "text")
    return [text for text, _ in rows], _int(label for _, label in rows)


def _classes(assets: Path, folder: str) -> tuple[str, ...]:
    import json

    import pyarrow.parquet as pq

    about = pq.read_schema(assets / folder / "train.parquet").metadata[b"huggingface"]
    return tuple(json.loads(about)["info"]["features"]["label"]["names"])


def _digits() -> tuple[Domain, Domain]:
    """scikit-learn's 8 x 8 digits in gray, 0..16 stretched to 0..255: 70% and, held out, 30%."""
    bunch = load_digits()
    pixels = np.repeat((bunch.images * 255 / 16).round().astype(np.uint8)[..., None], 3, axis=-1)
    whole = Domain(list(pixels), bunch.target.astype(np.int64))
    rest, held = train_test_split(np.arange(len(whole)), test_size=0.3, stratify=whole.labels, random_state=SEED)
    return _take(whole, np.sort(rest)), _take(whole, np.sort(held))


def _halves(domain: Domain) -> tuple[Domain, Domain]:
    """Two halves that share no item, each with the classes' shares."""
    first, second = train_test_split(np.arange(len(domain)), test_size=0.5, stratify=domain.labels, random_state=SEED)
    return _take(domain, np.sort(first)), _take(domain, np.sort(second))


def _take(domain: Domain, rows: np.ndarray) -> Domain:
    return Domain([domain.items[i] for i in rows], domain.labels[rows])


def _both(first: Domain, second: Domain) -> Domain:
    return Domain(first.items + second.items, np.concatenate([first.labels, second.labels]))


def _int(labels: Any) -> np.ndarray:
    return np.array(list(labels), dtype=np.int64)
