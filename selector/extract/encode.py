"""Runs an encoder over decoded images and brings the rows into its entry.

Every batch has one fixed shape (the last one is padded), so a row does not depend on which images
were missing: a resumed extraction gives the rows of an undisturbed one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selector import modalities
from selector.core.contracts import Encoder, Progress, ProgressCallback, no_progress, noun_of
from selector.core.errors import ConfigError, OutOfMemory, SourceError
from selector.core.resources import is_out_of_memory, threads_for
from selector.extract.backend_choice import JUDGED_ON, BackendDecision, batch_size_of, decide, remember_batch_size
from selector.extract.backends import BACKENDS, PRECISIONS, Backend, check_choice, open_backend, why_not
from selector.extract.inputs import Batch, Batches, Cut, Keys, in_order, ready, rows_of
from selector.extract.multi_tap import parts
from selector.store import FeatureStore
from selector.store.entry import Entry

logger = logging.getLogger(__name__)

__all__ = ["CHUNK_ROWS", "Runner", "extract_together", "open_runner", "resolve_device"]

CHUNK_ROWS = 256  # rows written at once, and fewer where they take long (``Commits``)
_CPU_BATCH = 16  # larger ones leave the cache: up to a third slower in eager torch, no faster in OpenVINO
_GPU_BATCH = 128
_JUDGE_AGAIN = 4 * JUDGED_ON  # rows from which a decision made on too few images is made anew


_REPEATED = 1e-3  # of the features' own size; what a device adds up in another order differs by less


class Runner:
    """An encoder made ready on a device.

    Attributes:
        identity: backend, precision and kind of arithmetic; part of the entry's identity.
        facts: what else was decided (batch size) and on what grounds; in no key.
        judged: features of the first items of the sample that it was decided on, if they were computed as all others will
            be; of texts of all of them.
        batch_size: halved when memory runs out.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: str,
        decision: BackendDecision,
        backend: Backend,
        store: FeatureStore | None = None,
    ) -> None:
        self.encoder = encoder
        self.device = device
        self.identity = {"backend": decision.backend, "precision": decision.precision}
        if backend.mixed:
            self.identity["arithmetic"] = "mixed"
        self.facts: dict[str, Any] = {"batch_size": decision.batch_size, "device": device, **decision.facts}
        self.judged = decision.judged
        self._reference = decision.reference
        self._backend = backend
        self._store = store

    @property
    def batch_size(self) -> int:
        """Images a forward pass."""
        return self._backend.batch_size

    def resized(self, batch_size: int) -> Backend | None:
        """What runs batches of another size; None where it would have to be converted anew for that."""
        return self._backend if batch_size == self.batch_size else self._backend.resized(batch_size)

    def encode(self, pixels: Batch) -> NDArray[np.float32]:
        """Features float32 (B, D) of decoded images uint8 (B, H, W, 3), for any B."""
        parts = list(self.stream(_split(pixels, self.batch_size)))
        return np.concatenate(parts) if parts else np.empty((0, self.encoder.num_features), np.float32)

    def stream(self, batches: Iterable[Batch]) -> Iterator[NDArray[np.float32]]:
        """Features of each batch, in order; on a GPU the next batch is under way meanwhile."""
        ahead = 0 if self.device == "cpu" else 1
        waiting: deque[tuple[Batch, Callable[[], NDArray[np.float32]] | None]] = deque()
        for pixels in batches:
            waiting.append((pixels, self._start(pixels)))
            if len(waiting) > ahead:
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    def _start(self, pixels: Batch) -> Callable[[], NDArray[np.float32]] | None:
        """Begin a batch; None where memory ran out."""
        if len(pixels) > self.batch_size:
            return None  # the batch size was halved since: ``_finish`` cuts it
        try:
            return self._backend.start(_padded(pixels, self.batch_size))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _finish(self, pixels: Batch, pending: Callable[[], NDArray[np.float32]] | None) -> NDArray[np.float32]:
        if pending is not None:
            try:
                return self._checked(pending(), pixels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        # outside the except block: the traceback would keep the tensors of the failed pass alive
        del pending
        if len(pixels) <= self.batch_size:
            self._halve()
        parts = [self._finish(part, self._start(part)) for part in _split(pixels, self.batch_size)]
        return np.concatenate(parts)

    def _checked(self, features: NDArray[np.float32], pixels: Batch) -> NDArray[np.float32]:
        """The rows of a batch, without those that fill it up.

        Raises:
            SourceError: not one row of the expected width for each item: a missing row would shift all that follow.
        """
        rows = rows_of(_padded(pixels, self.batch_size))
        expected = (rows, self.encoder.num_features)
        if features.shape != expected:
            raise SourceError(
                f"{self.encoder.name}: the model returns features of shape {features.shape} for a batch of {rows} "
                f"rows, expected {expected}; a model must return one row "
                "per item, whatever the batch."
            )
        return features[: rows_of(pixels)]

    def require_repeatable(self, items: Batch) -> None:
        """Run a few items twice: a network with dropout on, or with noise of its own, has no features to speak of.

        Raises:
            SourceError: the two passes differ.
        """
        import torch

        backend = self.resized(len(items))

        def features() -> NDArray[np.float32]:
            if backend is not None:
                return backend.start(items)()
            with torch.inference_mode():  # converting the network for so few would take longer than it is worth
                found: NDArray[np.float32] = self.encoder.encode(ready(items, self.encoder.preprocess)).float().numpy()
            return found

        if backend is None and self._reference is not None:  # torch has run over them once, when the backend was chosen
            items = items[:1]
            first, second = features(), self._reference[:1]
        else:
            first, second = features(), features()
        if first.shape != second.shape or not first.size:
            return  # shapes are judged where rows are extracted
        apart, size = float(np.abs(first - second).max()), float(np.abs(first).max())
        if apart > _REPEATED * size:
            raise SourceError(
                f"{self.encoder.name}: two passes over the same {len(items)} items give features that differ by up to "
                f"{apart:.2g} (the largest is {size:.2g}); a model must be deterministic: is dropout on, or does it add "
                "noise?"
            )

    def _halve(self) -> None:
        size = self.batch_size // 2
        if size < 1:
            raise OutOfMemory(
                f"{self.encoder.name}: memory of {self.device} is too small for a single {_size_of(self.encoder)}"
            )
        logger.warning("%s: out of memory on %s; going on with batches of %d", self.encoder.name, self.device, size)
        _release_memory(self.device)
        backend, precision = self.identity["backend"], self.identity["precision"]
        cache = self._store.compiled_folder if self._store is not None else None
        self._backend = self._backend.resized(size) or open_backend(
            backend, self.encoder, self.device, precision, size, cache
        )
        self.facts["batch_size"] = size
        remember_batch_size(self._store, self.encoder, backend, precision, self.device, size)


def open_runner(
    encoder: Encoder,
    *,
    device: str = "auto",
    precision: str = "auto",
    backend: str = "auto",
    sample: Batch,
    rows_expected: int,
    decided: Mapping[str, object] | None = None,
    store: FeatureStore | None = None,
    opened: Mapping[tuple[str, str], Backend] | None = None,
    most: int | None = None,
) -> Runner:
    """Make an encoder ready to run, deciding backend, precision and batch size where that is open.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16``. ``auto`` takes bfloat16 where the hardware has
            it and the features of the first 128 images agree with float32.
        backend: ``auto``, ``eager``, ``compile``, ``openvino``.
        sample: the first items that will be read, as a batch; 128 are enough.
        rows_expected: images to be read with it.
        decided: facts of the entry, when rows were extracted before: the same is done again.
        store: remembers what backends cost and gave on this machine, and keeps compiled models.
        opened: backends of this encoder that are open already (``open_ahead``).
        most: items a forward pass that fit into memory; None where that is not limited.

    Raises:
        ConfigError: an unknown or absent device, an unknown precision or backend.
        SourceError: the network does not run that way.
    """
    check_choice("precision", precision, PRECISIONS)
    check_choice("backend", backend, BACKENDS)
    device = resolve_device(device)
    cache = store.compiled_folder if store is not None else None
    batch_size = batch_of(device) if most is None else max(1, min(batch_of(device), most))
    known = decided_before(encoder, decided, device, precision, rows_expected, store)
    if known is not None:
        if most is not None:
            known = replace(known, batch_size=min(known.batch_size, batch_size))
        again = (opened or {}).get((known.backend, known.precision))
        if again is None or again.batch_size != known.batch_size:
            again = open_backend(known.backend, encoder, device, known.precision, known.batch_size, cache)
        return Runner(encoder, device, known, again, store)

    def run(candidate: Backend, pixels: Batch) -> NDArray[np.float32]:
        plain = BackendDecision(candidate.name, candidate.precision, candidate.batch_size)
        return Runner(encoder, device, plain, candidate).encode(pixels)

    decision, ready = decide(
        encoder, device, precision, backend, batch_size, sample, rows_expected, cache, store, run, opened or {}
    )
    return Runner(encoder, device, decision, ready, store)


def extract_together(
    runner: Runner,
    entries: Sequence[Entry | None],
    pixels: Batches,
    hashes: Sequence[str],
    indices: NDArray[np.int64],
    progress: ProgressCallback = no_progress,
    *,
    model: str = "",
    cut: Cut = in_order,
    keys: Keys | None = None,
    sample: NDArray[np.int64] | None = None,
) -> list[SourceError | None]:
    """Encode some items once and append the rows of each variant to its entry, chunk by chunk.

    Args:
        entries: one a variant of the runner's encoder (``Encoder.outputs``), or the one entry of an
            encoder without variants; None for a variant whose rows are not wanted.
        pixels, hashes: of the whole target, by position.
        indices: positions of the items to encode. An entry that has some of the rows already keeps those.
        cut: how the items are put into batches.
        keys: what addresses the rows of some items, where an item has several; ``hashes`` otherwise.
        sample: positions of the items that ``runner`` was decided on: those that it has judged are not run again.

    Returns:
        Why a variant gave no rows, in the order of the entries: features that are not finite. The
        others are not touched by it.

    Raises:
        StoreError: the disk is full; the chunks written before stay.
    """
    variants = runner.encoder.outputs or (runner.encoder,)
    first, judged = indices[:0], []
    if sample is not None and runner.judged is not None:
        known = sample if keys is not None else sample[: len(runner.judged)]
        if np.isin(known, indices).all():
            first, judged = known, [runner.judged]
    batches = cut(indices[~np.isin(indices, first)], runner.batch_size)
    indices = np.concatenate([first, *batches])
    wanted = [hashes[i] for i in indices] if keys is None else keys(indices)
    writers = [
        None if entry is None else _Writer(variant.name, runner.identity["precision"], entry, wanted)
        for variant, entry in zip(variants, entries, strict=True)
    ]
    total, done = len(wanted), 0
    commits = Commits(max(CHUNK_ROWS, runner.batch_size))
    written = 0
    unit = f"{noun_of(runner.encoder.modality)}s" if keys is None else "rows"
    progress(Progress("extract", 0, total, unit, model))
    for rows in chain(judged, runner.stream(prefetched(pixels, batches))):
        done += len(rows)
        write = commits.due(done - written) or done == total
        for writer, part in zip(writers, parts(runner.encoder, rows), strict=True):
            if writer is not None and writer.failure is None:
                writer.add(part)
                if write and writer.failure is None:
                    writer.write(done)
        if not any(writer is not None and writer.failure is None for writer in writers):
            break
        written = done if write else written
        progress(Progress("extract", done, total, unit, model))
    return [None if writer is None else writer.failure for writer in writers]


def not_finite(what: str, precision: str) -> SourceError:
    """That a model gives NaN or infinity, and what may help."""
    also = "" if precision == "float32" else ", or try precision 'float32'"
    return SourceError(f"{what} are not finite (NaN or infinity) in {precision}; the weights may be damaged{also}.")


class _Writer:
    """Gathers the rows of one variant and appends them to its entry, those that it lacks."""

    def __init__(self, name: str, precision: str, entry: Entry, hashes: list[str]) -> None:
        self.failure: SourceError | None = None
        self._name, self._precision = name, precision
        self._entry = entry
        self._hashes = hashes
        self._lacking = np.zeros(len(hashes), bool)
        self._lacking[entry.missing(self._hashes)] = True
        self._chunk: list[NDArray[np.float32]] = []
        self._written = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        if np.isfinite(rows).all():
            self._chunk.append(rows)
            return
        self.failure = not_finite(f"{self._name}: features", self._precision)
        self._chunk = []

    def write(self, done: int) -> None:
        lacking = self._lacking[self._written : done]
        hashes = [h for h, lacks in zip(self._hashes[self._written : done], lacking, strict=True) if lacks]
        self._entry.append(hashes, np.concatenate(self._chunk)[lacking])
        self._chunk, self._written = [], done


def resolve_device(device: str) -> str:
    """The device that ``auto`` means here, or the one named, checked to exist.

    Raises:
        ConfigError: it does not exist.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind)
    if count is None or (number and not number.isdigit()):
        raise ConfigError(f"unknown device '{device}'; expected auto, cpu, cuda, cuda:N or mps.")
    if count <= int(number or 0):
        raise ConfigError(f"device '{device}' is not available ({count} of this kind found); use --device auto or cpu.")
    return "cpu" if kind == "cpu" else device


def decided_before(
    encoder: Encoder,
    decided: Mapping[str, Any] | None,
    device: str,
    precision: str,
    rows_expected: int,
    store: FeatureStore | None,
) -> BackendDecision | None:
    """An earlier decision (facts of an entry), unless it was made on too few images or its backend is not here."""
    if not decided or "backend" not in decided or "precision" not in decided:
        return None
    facts = {k: decided[k] for k in ("judged_on", "agreement_cosine", "agreement_neighbors") if k in decided}
    if precision == "auto" and facts.get("judged_on", JUDGED_ON) < JUDGED_ON and rows_expected >= _JUDGE_AGAIN:
        return None
    reason = why_not(decided["backend"], device)
    if reason:
        logger.warning(
            "%s was extracted with %s, which cannot run here (%s); its rows are extracted anew",
            encoder.name, decided["backend"], reason,
        )  # fmt: skip
        return None
    size = batch_size_of(store, encoder, decided["backend"], decided["precision"], device)
    if size is None and decided.get("device") == device:
        size = decided.get("batch_size", _CPU_BATCH)
    return BackendDecision(decided["backend"], decided["precision"], size or batch_of(device), facts)


def batch_of(device: str) -> int:
    """Images in a forward pass, where nothing else was found to be faster."""
    return _CPU_BATCH if device == "cpu" else _GPU_BATCH


def prefetched(pixels: Batches, parts: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
    """Prepared batches; the next one is read while the caller works on this one."""
    with threads_for(1, "pixels") as pool:
        following = deque(pool.submit(pixels.batch, part) for part in parts[:2])
        for part in parts[2:]:
            ready = following.popleft().result()
            following.append(pool.submit(pixels.batch, part))
            yield ready
        while following:
            yield following.popleft().result()


def _split(pixels: Batch, size: int) -> Iterator[Batch]:
    for begin in range(0, len(pixels), size):
        yield pixels[begin : begin + size]


def _padded(pixels: Batch, size: int) -> Batch:
    """The batch filled up to the fixed size, where there is one."""
    filled: Batch = modalities.of_batch(pixels).filled(pixels, size)
    return filled


def _size_of(encoder: Encoder) -> str:
    return modalities.of(encoder).described(encoder.preprocess)


def _release_memory(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


SECONDS = 10.0  # at most this much of a slow network's work, and the batch under way, is done again after a kill


class Commits:
    """Says when gathered rows are due: after so many of them, or so many seconds after the last ones, whichever is first.

    Args:
        rows: beyond, rows are written however little time they took; a chunk is a file.
    """

    def __init__(self, rows: int, seconds: float = SECONDS) -> None:
        self._rows, self._seconds = rows, seconds
        self._since = time.monotonic()

    def due(self, gathered: int) -> bool:
        """Whether to write now, with ``gathered`` rows at hand; the seconds begin anew then."""
        now = time.monotonic()
        if gathered < self._rows and now - self._since < self._seconds:
            return False
        self._since = now
        return True
