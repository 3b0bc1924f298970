"""How a network is run: which backend, precision and batch size, decided once an encoder.

Where reading all images does not take many times as long as a trial of backends and precisions would, a table of measured
families of networks (``backend_table``) says what is tried, and a batch checks that the features stay the same. Where it
does, both are tried on a sample; nothing is taken that is not faster and does not give the same features.
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

from selector import modalities
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.resources import is_out_of_memory, memory_limit
from selector.extract import backend_table
from selector.extract.backend_table import Known, Way
from selector.extract.backends import Backend, open_backend, why_not
from selector.extract.inputs import Batch, rows_of
from selector.extract.multi_tap import parts

if TYPE_CHECKING:
    from selector.store import FeatureStore

logger = logging.getLogger(__name__)

MAX_TEXTS = 256  # a batch; far more than fit into its tokens, but for the shortest
JUDGED_ON = 128  # images that decide whether a lower precision will do
_COMPARED = 1024  # rows of them at most, spread evenly
MIN_COSINE = 0.995  # median centered cosine with the float32 features
FEW_COSINE = 0.9985  # likewise on fewer images than that
MIN_NEIGHBORS = 0.95  # share of images whose nearest neighbor stays the same
# seconds that eager torch must need before a backend that was never measured here is tried: conversion takes
# seconds, compilation most of a minute a network (benchmarks/results/bench_extract_models.csv)
WORTH_A_TRY = {"openvino": 5.0, "compile": 120.0}
REMEMBERED = 16  # measurements a backend that its median is taken of
_WORTH_TUNING = 128  # batches to be read before the search for a batch size pays for itself
_TIMED_BATCHES = 3
_MIN_BATCH, _MAX_BATCH = 4, 1024
WORTH_SAYING = 10.0  # seconds that a network would be read sooner with a package that is not installed
_NOTABLY = 1.03  # a gain below is noise
_SAME = 0.99  # centered cosine below which a converted network is not the same network
_TRIAL_SHARE = 1 / 8  # of the time of reading all images that a trial may take: the table is right about most networks
FEWEST = 64  # images from which a network is run in another way than torch in float32
WORTHWHILE = 0.3  # seconds that another way must save: the batch that judges it takes some


_mentioned = False  # that OpenVINO would save much: once a process


@dataclass(frozen=True)
class Agreement:
    """How near features are to the float32 ones.

    ``cosine`` is the median over images of the cosine after centering both with the float32 mean,
    ``neighbors`` the share of images whose nearest neighbor (by that cosine) stays the same.
    """

    cosine: float
    neighbors: float
    images: int

    def good(self) -> bool:
        """Whether a lower precision may stand in for float32.

        The nearest of few says little of the nearest of many; a higher cosine does (docs/explanation/features-and-caching.md).
        """
        if self.images < JUDGED_ON:
            return self.cosine >= FEW_COSINE
        return self.cosine >= MIN_COSINE and self.neighbors >= MIN_NEIGHBORS


@dataclass(frozen=True)
class BackendDecision:
    """What was decided; ``facts`` say on what grounds.

    ``judged`` are the features of the first items of the sample, as they were decided to be computed; ``reference`` those in
    eager torch and float32.
    """

    backend: str
    precision: str
    batch_size: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    judged: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    reference: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)


def agreement(reference: NDArray[np.float32], features: NDArray[np.float32]) -> Agreement:
    """Compare features (N, D) with those in float32.

    >>> rows = np.eye(4, dtype=np.float32)
    >>> agreement(rows, rows).good()
    True
    """
    if len(reference) > _COMPARED:  # words of 128 sentences may be many thousands: similarities are of all pairs
        some = np.linspace(0, len(reference) - 1, _COMPARED).astype(int)
        reference, features = reference[some], features[some]
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
    sample: Batch,
    rows_expected: int,
    cache: Path | None,
    store: FeatureStore | None,
    run: Callable[[Backend, Batch], NDArray[np.float32]],
    opened: Mapping[tuple[str, str], Backend],
) -> tuple[BackendDecision, Backend]:
    """Choose by measuring on ``sample``.

    Args:
        precision, backend: a name, or ``auto``.
        rows_expected: images that will be read, which conversion has to pay for.
        cache: folder of compiled models.
        store: remembers what backends cost and gave on this machine.
        run: calls a backend on any number of images, with care for memory.
        opened: backends that are open already, by name and precision.

    Returns:
        The decision, and the backend ready to run.
    """
    trial = _Trial(encoder, device, batch_size, sample[:JUDGED_ON], cache, run, opened)
    name, chosen = _chosen(trial, backend, precision, rows_expected, store)
    ready = _tuned(trial, name, chosen, rows_expected, store)
    if (backend, name) == ("auto", "eager"):
        _mention_openvino(trial, chosen, rows_expected)
    return trial.decision(name, chosen, ready), ready


def _chosen(
    trial: _Trial, backend: str, precision: str, rows_expected: int, store: FeatureStore | None
) -> tuple[str, str]:
    """(backend, precision)."""
    if trial.encoder.module is None:
        if backend not in ("auto", "eager") or precision not in ("auto", "float32"):
            logger.info("%s is not a torch network: it runs as it is, in float32", trial.encoder.name)
        return "eager", "float32"
    items = modalities.of(trial.encoder)
    if not items.fixed_shape:  # every batch has another shape: nothing is compiled for one
        if backend not in ("auto", "eager"):
            raise SourceError(
                f"{trial.encoder.name}: backend '{backend}' is for images; {items.noun}s run in eager torch."
            )
        return "eager", _lowered(trial, "eager", precision)
    if backend != "auto":
        return _forced(trial, backend, precision)
    if precision == "auto" and (known := _short_cut(trial, rows_expected)) is not None:
        return known
    for other in _others(trial.device):
        if _pays(trial, other, precision, rows_expected, store) and _faster(trial, other, store):
            return other, _lowered(trial, other, precision)
    return "eager", _lowered(trial, "eager", precision)


def _mention_openvino(trial: _Trial, precision: str, rows_expected: int) -> None:
    """Say once a process that a scan would be over sooner with a package that is not installed."""
    global _mentioned
    rate = trial.rates.get(("eager", precision)) or trial.rates.get(("eager", "float32"))
    if _mentioned or rate is None or trial.device != "cpu" or not modalities.of(trial.encoder).fixed_shape:
        return
    if trial.encoder.module is None or not why_not("openvino", trial.device):  # there is but one reason on a CPU
        return
    known = backend_table.look_up(trial.encoder.module, trial.device)
    if known is None or known.speedup < backend_table.WORTH_SAYING:
        return
    seconds = rows_expected / rate
    saved = seconds * (1 - 1 / known.speedup) - known.setup
    if saved >= WORTH_SAYING:
        _mentioned = True
        logger.warning(
            "%s would be read in about %.0f s instead of %.0f s with OpenVINO, and networks like it as well: "
            "pip install 'zoo-selector[openvino]'",
            trial.encoder.name,
            seconds - saved,
            seconds,
        )


def _short_cut(trial: _Trial, rows_expected: int) -> Way | None:
    """The quickest way by the table that gives the features of a batch; None where that must be measured.

    A trial reads the sample in float32 and in bfloat16 and may convert the network for it: it is worth its time only
    where all images take many times as long.
    """
    assert trial.encoder.module is not None
    known = backend_table.look_up(trial.encoder.module, trial.device)
    if known is None or len(trial.sample) < FEWEST:
        return None
    trial.measure("eager", "float32", trial.batch_size)
    each = 1 / trial.rates["eager", "float32"]
    ways = likely_ways(known, trial.device, rows_expected * each)
    if _TRIAL_SHARE * next(iter(ways.values())) > JUDGED_ON * each + known.setup:
        return None
    lossy = False  # what loses its features in one backend's bfloat16 does in the other's
    for name, precision in ways:
        if (name, precision) == ("eager", "float32"):
            break
        if lossy and precision == "bfloat16":
            continue
        keeps = _keeps(trial, name, precision, trial.batch_size)
        if keeps and trial.rates[name, precision] * each > 1:
            return name, precision
        lossy = lossy or precision == "bfloat16"
    trial.drop(known.backend)
    return "eager", "float32"


def likely_ways(known: Known, device: str, eager_seconds: float) -> dict[Way, float]:
    """Ways to run a network that takes so many seconds in eager torch and float32 and the seconds that each takes by the
    table, the quickest first; that one alone where no other saves enough to be tried."""
    from selector.extract.backends.eager import has_bfloat16

    converts, plain = not why_not(known.backend, device), ("eager", "float32")
    ways = known.ways(eager_seconds, converts=converts, lowers=has_bfloat16(device))
    return ways if min(ways.values()) + WORTHWHILE < eager_seconds else {plain: eager_seconds}


def _keeps(trial: _Trial, name: str, precision: str, images: int) -> bool:
    """Whether a network gives the features of eager torch in float32, on the first images."""
    try:
        near = trial.agreement(name, precision, images=images)
    except (SourceError, RuntimeError, TypeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        logger.info(
            "%s does not run in %s, %s: %s", trial.encoder.name, name, precision, str(error).splitlines()[0][:200]
        )
        return False
    return near.good() if precision == "bfloat16" else _same(near)


class _Trial:
    """Backends tried on the sample; each is opened and run once."""

    def __init__(
        self, encoder: Encoder, device: str, batch_size: int, sample: Batch, cache: Path | None,
        run: Callable[[Backend, Batch], NDArray[np.float32]], opened: Mapping[tuple[str, str], Backend],
    ) -> None:  # fmt: skip
        self.encoder, self.device, self.batch_size, self.sample, self.cache = encoder, device, batch_size, sample, cache
        self._run = run
        self._opened = dict(opened)
        self._features: dict[tuple[str, str], list[NDArray[np.float32]]] = {}
        self.rates: dict[tuple[str, str], float] = {}
        self.setup: dict[tuple[str, str], float] = dict.fromkeys(opened, 0.0)

    def backend(self, name: str, precision: str) -> Backend:
        """The opened backend; its name and precision may be others where the network asks for it."""
        key = (name, precision)
        if key not in self._opened:
            started = time.perf_counter()
            # a converted network is not converted again for another precision
            same = next((b for (n, _), b in self._opened.items() if n == name), None)
            opened = same.in_precision(precision) if same is not None else None
            self._opened[key] = opened or open_backend(
                name, self.encoder, self.device, precision, self.batch_size, self.cache
            )
            self.setup[key] = time.perf_counter() - started
        return self._opened[key]

    def drop(self, name: str) -> None:
        """Free a backend that lost."""
        for key in [key for key in self._opened if key[0] == name]:
            del self._opened[key]

    def measure(self, name: str, precision: str, images: int | None = None) -> NDArray[np.float32]:
        """Features of the first images of the sample, and the rate.

        The rate is that of the fastest batch, so that a busy moment counts less; the first batch
        warms up and counts as set-up, and its rate only where no other one was run. Images that were run before are not
        run again.
        """
        key = (name, precision)
        wanted = len(self.sample) if images is None else min(images, len(self.sample))
        backend = self.backend(name, precision)
        parts = self._features.setdefault(key, [])
        done = min(self.batch_size * len(parts), len(self.sample))
        while done < wanted:
            part = self.sample[done : done + self.batch_size]
            started = time.perf_counter()
            parts.append(self._run(backend, part))
            seconds = time.perf_counter() - started
            if done == 0:
                self.setup[key] += seconds
                if self.device != "cpu" and len(self.sample) <= self.batch_size:
                    # one batch is all there is, and the first one on a card waits for its libraries and contexts
                    started = time.perf_counter()
                    self._run(backend, part)
                    seconds = time.perf_counter() - started
            self.rates[key] = max(self.rates.get(key, 0.0) if done > self.batch_size else 0.0, len(part) / seconds)
            done += len(part)
        return np.concatenate(parts)[: rows_of(self.sample[:wanted])]

    def agreement(self, name: str, precision: str, reference: str = "eager", images: int | None = None) -> Agreement:
        """With the float32 features of ``reference``; of several variants the worst counts."""
        expected, found = (
            parts(self.encoder, rows)
            for rows in (self.measure(reference, "float32", images), self.measure(name, precision, images))
        )
        each = [agreement(a, b) for a, b in zip(expected, found, strict=True)]
        return Agreement(min(a.cosine for a in each), min(a.neighbors for a in each), each[0].images)

    def rate_of(self, backend: Backend) -> float:
        """Images a second, of the fastest of a few batches after a warm-up."""
        assert isinstance(self.sample, np.ndarray)
        pixels = np.resize(self.sample, (backend.batch_size, *self.sample.shape[1:]))
        times = []
        for _ in range(1 + _TIMED_BATCHES):
            started = time.perf_counter()
            self._run(backend, pixels)
            times.append(time.perf_counter() - started)
        return backend.batch_size / min(times[1:])

    def decision(self, name: str, precision: str, backend: Backend) -> BackendDecision:
        reference = next((n for n in (name, "eager") if (n, "float32") in self._features), None)
        facts: dict[str, object] = {"judged_on": len(self.sample)}
        if precision != "float32" and reference is not None:
            batches = min(len(self._features.get(key, ())) for key in ((reference, "float32"), (name, precision)))
            images = min(self.batch_size * batches, len(self.sample))
            near = self.agreement(name, precision, reference=reference, images=images)
            facts = {"judged_on": images, "agreement_cosine": near.cosine, "agreement_neighbors": near.neighbors}
        plain = self._features.get(("eager", "float32"))
        return BackendDecision(
            backend.name, backend.precision, backend.batch_size, facts, self._judged(name, precision, backend),
            None if plain is None else plain[0],
        )  # fmt: skip

    def _judged(self, name: str, precision: str, backend: Backend) -> NDArray[np.float32] | None:
        found = self._features.get((name, precision))
        if found is None or (backend.name, backend.precision) != (name, precision):
            return None
        if modalities.of(self.encoder).fixed_shape and backend.batch_size != self.batch_size:
            return None  # batches of another shape may differ in the last bit, and a resumed extraction must not
        rows = np.concatenate(found)
        # of texts whose words are rows it is not plain which text a row is of: all of them or none
        return rows if modalities.of(self.encoder).fixed_shape or len(rows) == rows_of(self.sample) else None


def batch_size_of(
    store: FeatureStore | None, encoder: Encoder, backend: str, precision: str, device: str
) -> int | None:
    """The batch size that was found for a network on this machine, or None."""
    found = store.get("batch", _network(encoder, backend, precision, device)) if store is not None else None
    return int(found["batch_size"]) if found else None


def remember_batch_size(
    store: FeatureStore | None, encoder: Encoder, backend: str, precision: str, device: str, size: int
) -> None:
    """Keep the batch size of a network on this machine; it is in no key of features."""
    if store is not None:
        store.put("batch", _network(encoder, backend, precision, device), {"batch_size": size})


def _tuned(trial: _Trial, name: str, precision: str, rows_expected: int, store: FeatureStore | None) -> Backend:
    """The backend with the batch size that runs fastest here: twice or half as large as long as that helps.

    Networks compiled for one shape keep theirs: each size would have to be compiled anew.
    """
    best = trial.backend(name, precision)
    if memory_limit() is not None:  # the size is what fits
        return best
    if not modalities.of(trial.encoder).fixed_shape:  # a batch holds so many tokens, whatever the number of texts
        return best.resized(MAX_TEXTS) or best
    known = batch_size_of(store, trial.encoder, name, precision, trial.device)
    if known is not None:
        return (best.resized(known) if known != best.batch_size else best) or best
    if rows_expected < _WORTH_TUNING * best.batch_size or best.resized(2 * best.batch_size) is None:
        return best
    rate = trial.rate_of(best)
    for larger in (False, True):
        start = best
        while _MIN_BATCH <= (size := 2 * best.batch_size if larger else best.batch_size // 2) <= _MAX_BATCH:
            other = best.resized(size)
            if other is None or (reached := trial.rate_of(other)) < _NOTABLY * rate:
                break
            best, rate = other, reached
        if best is not start:
            break
    remember_batch_size(store, trial.encoder, name, precision, trial.device, best.batch_size)
    return best


def _forced(trial: _Trial, backend: str, precision: str) -> tuple[str, str]:
    reason = why_not(backend, trial.device)
    if reason:
        raise SourceError(f"backend '{backend}' cannot run here: {reason}.")
    if backend != "eager":
        near = trial.agreement(backend, "float32", images=_compared(trial))
        if not _same(near):
            raise SourceError(
                f"{trial.encoder.name}: {backend} returns features that differ from torch in float32 (median centered cosine "
                f"{near.cosine:.3f}, expected at least {_SAME}); use backend 'eager'."
            )
    return backend, _lowered(trial, backend, precision)


def _lowered(trial: _Trial, backend: str, precision: str) -> str:
    """The precision asked for; for ``auto`` bfloat16 where it agrees with the backend's own float32."""
    if precision != "auto":
        return precision
    if not _may_lower(trial.device, trial.sample):
        return "float32"
    try:
        near = trial.agreement(backend, "bfloat16", reference=backend)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        logger.info("%s runs in float32: bfloat16 fails (%s)", trial.encoder.name, str(error).splitlines()[0][:200])
        return "float32"
    return "bfloat16" if near.good() else "float32"


def _same(near: Agreement) -> bool:
    """Whether a converted network is the same network."""
    return near.images <= 2 or near.cosine >= _SAME


def _compared(trial: _Trial) -> int:
    """Images on which a converted network is compared with torch, and torch is timed: two batches."""
    return 2 * trial.batch_size


def _may_lower(device: str, sample: Batch) -> bool:
    from selector.extract.backends.eager import has_bfloat16

    return len(sample) >= JUDGED_ON and has_bfloat16(device)


def _others(device: str) -> list[str]:
    """Backends worth a thought in place of eager torch, the likeliest first."""
    names = ("openvino", "compile") if device == "cpu" else ("compile",)
    return [name for name in names if not why_not(name, device)][:1]


def _pays(trial: _Trial, other: str, precision: str, rows_expected: int, store: FeatureStore | None) -> bool:
    """Whether another backend saves more time than it takes to set up, by what was measured on this machine."""
    if rows_expected <= len(trial.sample):
        return False
    trial.measure("eager", "float32", _compared(trial))
    seconds = rows_expected / trial.rates["eager", "float32"]
    if precision == "bfloat16" or (precision == "auto" and _may_lower(trial.device, trial.sample)):
        seconds /= 2  # about what eager torch would take then; it has not run in bfloat16 yet
    known = _measured(store, other, trial.device)
    if len(known) < 2:
        return seconds > WORTH_A_TRY[other]
    speedup = statistics.median(m["speedup"] for m in known)
    setup = statistics.median(m["setup"] for m in known)
    return bool(speedup > 1) and seconds * (1 - 1 / speedup) > setup


def _faster(trial: _Trial, other: str, store: FeatureStore | None) -> bool:
    """Whether another backend gives the same features sooner; what it took is remembered either way."""
    try:
        near = trial.agreement(other, "float32", images=_compared(trial))
    except SourceError as error:
        logger.info("%s runs in torch: %s", trial.encoder.name, error)
        return False
    speedup = trial.rates[other, "float32"] / trial.rates["eager", "float32"]
    if store is not None:
        new = {"speedup": speedup, "setup": trial.setup[other, "float32"], "model": trial.encoder.name}
        known = _measured(store, other, trial.device)
        store.put("backend", _machine(other, trial.device), {"measured": [*known, new][-REMEMBERED:]})
    if _same(near) and speedup > 1:
        return True
    trial.drop(other)
    return False


def _measured(store: FeatureStore | None, backend: str, device: str) -> list[dict[str, Any]]:
    found = store.get("backend", _machine(backend, device)) if store is not None else None
    return list(found["measured"]) if found else []


def _machine(backend: str, device: str) -> dict[str, object]:
    from selector.core.system import cpu_model, graphics_cards

    cards = {} if device == "cpu" else {"cards": graphics_cards()}  # a store may be that of several machines
    return {"backend": backend, "device": device, "cpu": cpu_model(), "cores": os.cpu_count(), **cards}


def _network(encoder: Encoder, backend: str, precision: str, device: str) -> dict[str, Any]:
    return {"encoder": encoder.identity, "precision": precision, **_machine(backend, device)}


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(norms > 0, norms, 1)
    return unit
