"""Loads and opens the next network while the present one runs: one thread, at most one network ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from selector.core.contracts import Encoder
from selector.extract.backends import Backend
from selector.zoo import ModelSpec

Open = Callable[[Encoder], Mapping[tuple[str, str], Backend]]
"""Opens an encoder's likely backend."""


class LoadAhead:
    """Encoders by spec, the next one loaded beforehand.

    Args:
        load: makes the encoder of a spec; called from a thread of its own for the one ahead.
    """

    def __init__(self, load: Callable[[ModelSpec], Encoder]) -> None:
        self._load = load
        self._pending: _Loading | None = None
        self._taken: _Loading | None = None

    def start(self, spec: ModelSpec, opening: Open | None = None) -> None:
        """Begin to load a spec, and to open it, unless that was begun before; another one that was begun is given up."""
        if self._pending is None or self._pending.spec != spec:
            self._pending = _Loading(spec, self._load, opening)

    def take(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec, from the thread where it was begun there.

        Raises:
            Exception: whatever its loading raised.
        """
        pending, self._pending = self._pending, None
        self._taken = pending if pending is not None and pending.spec == spec else None
        return self._load(spec) if self._taken is None else self._taken.result()

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
