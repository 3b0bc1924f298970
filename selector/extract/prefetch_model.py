"""Loads the next network and opens it for its backend while the present one runs: one thread, at most one network ahead.
Small networks stay loaded for the next round."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from selector import modalities
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.core.resources import given_threads, memory_limit
from selector.extract.backends import Backend, open_backend, why_not
from selector.zoo import ModelSpec

if TYPE_CHECKING:
    from selector.store import FeatureStore

log = logging.getLogger(__name__)

KEPT = 64_000_000  # parameters of all networks that stay loaded together: 256 MB in float32

Opened: TypeAlias = "Mapping[tuple[str, str], Backend]"
"""Backends by name and precision."""

Open = Callable[[Encoder], Mapping[tuple[str, str], Backend]]
"""Opens an encoder's likely backend."""


class LoadAhead:
    """Encoders by spec, the next one loaded beforehand, and as many of the first ones kept as are small together.

    Args:
        load: makes the encoder of a spec; called from a thread of its own for the one ahead.
        kept: parameters of all networks that stay loaded.
    """

    def __init__(self, load: Callable[[ModelSpec], Encoder], kept: int = KEPT) -> None:
        self._make, self._most = load, 0 if memory_limit() is not None else kept
        self._kept: list[tuple[ModelSpec, Encoder]] = []
        self._pending: _Loading | None = None
        self._taken: _Loading | None = None

    def start(self, spec: ModelSpec, opening: Open | None = None) -> None:
        """Begin to load a spec, and to open it, unless that was begun before; another one that was begun is given up.

        Where a single thread is allowed, or memory is limited, each is loaded at its turn.
        """
        if given_threads() == 1 or memory_limit() is not None:
            return
        if self._pending is None or self._pending.spec != spec:
            self._pending = _Loading(spec, self._load, opening)

    def take(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec, from the thread where it was begun there.

        Raises:
            Exception: whatever its loading raised.
        """
        pending, self._pending = self._pending, None
        self._taken = pending if pending is not None and pending.spec == spec else None
        encoder = self._load(spec) if self._taken is None else self._taken.result()
        size = encoder.num_parameters + sum(kept.num_parameters for _, kept in self._kept)
        if encoder.module is not None and size <= self._most and all(spec != known for known, _ in self._kept):
            self._kept.append((spec, encoder))
        return encoder

    def _load(self, spec: ModelSpec) -> Encoder:
        kept = next((encoder for known, encoder in self._kept if known == spec), None)
        return self._make(spec) if kept is None else kept

    def opened(self, encoder: Encoder) -> Mapping[tuple[str, str], Backend]:
        """The backends that were opened ahead of the encoder that was taken last; asked for once."""
        taken, self._taken = self._taken, None
        return taken.opened if taken is not None and taken.encoder is encoder else {}


class _Loading:
    """A load under way. The thread is a daemon: an interrupt does not wait for a download."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Encoder], opening: Open | None) -> None:
        self.spec = spec
        self.encoder: Encoder | None = None
        self.opened: Mapping[tuple[str, str], Backend] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(load, opening), name="selector-load", daemon=True)
        self._thread.start()

    def _run(self, load: Callable[[ModelSpec], Encoder], opening: Open | None) -> None:
        try:
            self.encoder = load(self.spec)
            if opening is not None:
                self.opened = opening(self.encoder)
        except BaseException as error:  # noqa: BLE001  raised again where the encoder is asked for
            self._error = error

    def result(self) -> Encoder:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self.encoder is not None
        return self.encoder


def open_ahead(
    encoder: Encoder, *, device: str, precision: str, backend: str, rows_expected: int, store: FeatureStore,
    decided: Mapping[str, object] | None = None,
) -> Opened:  # fmt: skip
    """The backend that was decided in an earlier round, or that a network of this family is run with here, where opening
    it pays for so many images.

    The latter is only a guess, by one pass beside other work: what runs the network is decided later, by its features.

    Args:
        decided: facts of the entry, when rows were extracted before.
    Returns:
        Nothing where that is not known, or where torch itself is likely.
    """
    import torch

    from selector.extract import backend_table
    from selector.extract.backend_choice import FEWEST, likely_ways
    from selector.extract.encode import batch_of, decided_before, resolve_device

    device = resolve_device(device)
    if encoder.module is None or not modalities.of(encoder).fixed_shape:
        return {}
    if decided and why_not(str(decided.get("backend")), device):
        decided = None  # its turn says so
    try:
        before = decided_before(encoder, decided, device, precision, rows_expected, store)
        if before is not None:
            how = before.backend, before.precision
            if before.backend == "eager":
                return {}
            return {how: open_backend(how[0], encoder, device, how[1], before.batch_size, store.compiled_folder)}
        known = backend_table.look_up(encoder.module, device)
        if known is None or (precision, backend) != ("auto", "auto") or rows_expected < FEWEST:
            return {}  # what so few images cannot judge runs in eager torch
        batch = encoder.probe()
        started = time.thread_time()  # this thread's share of the work; what others do meanwhile does not count
        with torch.inference_mode():
            encoder.encode(batch)
        seconds = (time.thread_time() - started) / len(batch)
        how = next(iter(likely_ways(known, device, rows_expected * seconds)))
        if how[0] == "eager":
            return {}
        return {how: open_backend(how[0], encoder, device, how[1], batch_of(device), store.compiled_folder)}
    except (SourceError, RuntimeError, TypeError, NotImplementedError) as error:
        log.info("%s was not opened ahead: %s", encoder.name, str(error).splitlines()[:1])
        return {}
