"""How a network is run: which backend, precision and batch size, decided once an encoder by measuring.

Nothing is assumed of a backend: eager torch is timed on a sample of the images, another backend is
tried where what was measured on this machine so far says that it pays, and it is taken only if it
is faster and gives the same features.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from selector.contracts import Encoder
from selector.errors import SourceError
from selector.extract.backends import Backend, open_backend, why_not

if TYPE_CHECKING:
    from selector.store import FeatureStore

logger = logging.getLogger(__name__)

JUDGED_ON = 128  # images that decide whether a lower precision will do
MIN_COSINE = 0.995  # median centred cosine with the float32 features
MIN_NEIGHBOURS = 0.95  # share of images whose nearest neighbour stays the same
WORTH_A_TRY = 5.0  # seconds that eager torch must need before a backend that was never measured here is tried
REMEMBERED = 16  # measurements a backend that its median is taken of
_SAME = 0.99  # centred cosine below which a converted network is not the same network


@dataclass(frozen=True)
class Agreement:
    """How near features are to the float32 ones.

    ``cosine`` is the median over images of the cosine after centring both with the float32 mean,
    ``neighbours`` the share of images whose nearest neighbour (by that cosine) stays the same.
    """

    cosine: float
    neighbours: float
    images: int

    def good(self) -> bool:
        """Whether a lower precision may stand in for float32."""
        return self.cosine >= MIN_COSINE and self.neighbours >= MIN_NEIGHBOURS


@dataclass(frozen=True)
class Decision:
    """What was decided; ``facts`` say on what grounds."""

    backend: str
    precision: str
    batch_size: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def agreement(reference: NDArray[np.float32], features: NDArray[np.float32]) -> Agreement:
    """Compare features (N, D) with those in float32.

    >>> rows = np.eye(4, dtype=np.float32)
    >>> agreement(rows, rows).good()
    True
    """
    mean = reference.mean(0, dtype=np.float64)
    a, b = (_unit(x - mean) for x in (reference.astype(np.float64), features.astype(np.float64)))
    cosine = float(np.median((a * b).sum(1)))
    if len(a) < 2:
        return Agreement(cosine, 1.0, len(a))
    nearest = []
    for x in (a, b):
        similar = x @ x.T
        np.fill_diagonal(similar, -np.inf)
        nearest.append(similar.argmax(1))
    return Agreement(cosine, float((nearest[0] == nearest[1]).mean()), len(a))


def decide(
    encoder: Encoder,
    device: str,
    precision: str,
    backend: str,
    batch_size: int,
    sample: NDArray[np.uint8],
    rows_expected: int,
    cache: Path | None,
    store: FeatureStore | None,
    run: Callable[[Backend, NDArray[np.uint8]], NDArray[np.float32]],
) -> tuple[Decision, Backend]:
    """Choose by measuring on ``sample``.

    Args:
        precision, backend: a name, or ``auto``.
        rows_expected: images that will be read, which conversion has to pay for.
        cache: folder of compiled models.
        store: remembers what backends cost and gave on this machine.
        run: calls a backend on any number of images, with care for memory.

    Returns:
        The decision, and the backend ready to run.
    """
    trial = _Trial(encoder, device, batch_size, sample[:JUDGED_ON], cache, run)
    if encoder.module is None:
        if backend not in ("auto", "eager") or precision not in ("auto", "float32"):
            logger.info("%s is not a torch network: it runs as it is, in float32", encoder.name)
        return trial.decision("eager", "float32"), trial.backend("eager", "float32")
    if backend != "auto":
        return _forced(trial, backend, precision)
    chosen = "float32" if precision == "auto" else precision
    if precision == "auto" and _may_lower(device, sample):
        trial.measure("eager", "bfloat16")
        if trial.agreement("eager", "bfloat16").good():
            chosen = "bfloat16"
    best = ("eager", chosen)
    for other in _others(device):
        if _pays(trial, best, other, device, rows_expected, store) and _faster(
            trial, best, other, chosen, device, store
        ):
            best = (other, chosen)
            break
    return trial.decision(*best), trial.backend(*best)


class _Trial:
    """Backends tried on the sample; each is opened and run once."""

    def __init__(
        self, encoder: Encoder, device: str, batch_size: int, sample: NDArray[np.uint8], cache: Path | None,
        run: Callable[[Backend, NDArray[np.uint8]], NDArray[np.float32]],
    ) -> None:  # fmt: skip
        self.encoder, self.device, self.batch_size, self.sample, self.cache = encoder, device, batch_size, sample, cache
        self._run = run
        self._opened: dict[tuple[str, str], Backend] = {}
        self._features: dict[tuple[str, str], NDArray[np.float32]] = {}
        self.rates: dict[tuple[str, str], float] = {}
        self.setup: dict[tuple[str, str], float] = {}

    def backend(self, name: str, precision: str) -> Backend:
        """The opened backend; its name and precision may be others where the network asks for it."""
        key = (name, precision)
        if key not in self._opened:
            started = time.perf_counter()
            self._opened[key] = open_backend(name, self.encoder, self.device, precision, self.batch_size, self.cache)
            self.setup[key] = time.perf_counter() - started
        return self._opened[key]

    def drop(self, name: str, precision: str) -> None:
        """Free a backend that lost."""
        self._opened.pop((name, precision), None)

    def measure(self, name: str, precision: str) -> NDArray[np.float32]:
        """Features of the sample, and the rate: of the fastest batch, so that a busy moment counts less."""
        key = (name, precision)
        if key not in self._features:
            backend = self.backend(name, precision)
            parts, fastest = [], float("inf")
            started = time.perf_counter()
            for begin in range(0, len(self.sample), self.batch_size):
                part = self.sample[begin : begin + self.batch_size]
                before = time.perf_counter()
                parts.append(self._run(backend, part))
                fastest = min(fastest, (time.perf_counter() - before) / len(part))
                if begin == 0:
                    self.setup[key] += time.perf_counter() - started  # the first batch warms up
                    if len(self.sample) > self.batch_size:
                        fastest = float("inf")
            self._features[key] = np.concatenate(parts)
            self.rates[key] = 1 / fastest
        return self._features[key]

    def agreement(self, name: str, precision: str) -> Agreement:
        """With eager torch in float32."""
        return agreement(self.measure("eager", "float32"), self.measure(name, precision))

    def decision(self, name: str, precision: str) -> Decision:
        backend = self.backend(name, precision)
        facts: dict[str, Any] = {"judged_on": len(self.sample)}
        reference = ("eager", "float32")
        if (name, precision) != reference and {(name, precision), reference} <= set(self._features):
            near = self.agreement(name, precision)
            facts |= {"agreement_cosine": near.cosine, "agreement_neighbours": near.neighbours}
        return Decision(backend.name, backend.precision, backend.batch_size, facts)


def _forced(trial: _Trial, backend: str, precision: str) -> tuple[Decision, Backend]:
    reason = why_not(backend, trial.device)
    if reason:
        raise SourceError(f"backend '{backend}' cannot run here: {reason}.")
    if precision == "auto":
        precision = "float32"
        if _may_lower(trial.device, trial.sample) and trial.agreement(backend, "bfloat16").good():
            precision = "bfloat16"
    if backend != "eager":
        _check_same(trial, backend, precision)
    return trial.decision(backend, precision), trial.backend(backend, precision)


def _check_same(trial: _Trial, backend: str, precision: str) -> None:
    near = trial.agreement(backend, precision)
    if near.images > 2 and near.cosine < _SAME:
        raise SourceError(
            f"{trial.encoder.name}: {backend} gives other features than torch in {precision} (median centred cosine "
            f"{near.cosine:.3f}, expected at least {_SAME}); use backend 'eager'."
        )


def _may_lower(device: str, sample: NDArray[np.uint8]) -> bool:
    from selector.extract.backends.eager import has_bfloat16

    return len(sample) >= JUDGED_ON and has_bfloat16(device)


def _others(device: str) -> list[str]:
    """Backends worth a thought in place of eager torch, the likeliest first."""
    names = ("openvino", "compile") if device == "cpu" else ("compile",)
    return [name for name in names if not why_not(name, device)][:1]


def _pays(
    trial: _Trial, best: tuple[str, str], other: str, device: str, rows_expected: int, store: FeatureStore | None
) -> bool:
    if rows_expected <= len(trial.sample):
        return False
    trial.measure(*best)
    eager_seconds = rows_expected / trial.rates[best]
    known = _measured(store, other, best[1], device)
    if len(known) < 2:
        return eager_seconds > WORTH_A_TRY
    speedup = statistics.median(m["speedup"] for m in known)
    setup = statistics.median(m["setup"] for m in known)
    return bool(speedup > 1) and eager_seconds * (1 - 1 / speedup) > setup


def _faster(
    trial: _Trial, best: tuple[str, str], other: str, precision: str, device: str, store: FeatureStore | None
) -> bool:
    try:
        near = trial.agreement(other, precision)
    except SourceError as error:
        logger.info("%s runs in torch: %s", trial.encoder.name, error)
        return False
    key = (other, precision)
    speedup = trial.rates[key] / trial.rates[best]
    if store is not None:
        known = _measured(store, other, precision, device)
        new = {"speedup": speedup, "setup": trial.setup[key], "model": trial.encoder.name}
        store.put("backend", _machine(other, precision, device), {"measured": [*known, new][-REMEMBERED:]})
    same = near.good() if precision != "float32" else near.cosine >= _SAME
    if same and speedup > 1:
        return True
    trial.drop(*key)
    return False


def _measured(store: FeatureStore | None, backend: str, precision: str, device: str) -> list[dict[str, Any]]:
    found = store.get("backend", _machine(backend, precision, device)) if store is not None else None
    return list(found["measured"]) if found else []


def _machine(backend: str, precision: str, device: str) -> dict[str, Any]:
    from selector.system import cpu_model

    return {"backend": backend, "precision": precision, "device": device, "cpu": cpu_model(), "cores": os.cpu_count()}


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(norms > 0, norms, 1)
    return unit
