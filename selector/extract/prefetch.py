"""Loads the next network while the present one runs: one thread, at most one network ahead."""

from __future__ import annotations

import threading
from collections.abc import Callable

from selector.core.contracts import Encoder
from selector.zoo import ModelSpec


class LoadAhead:
    """Encoders by spec, the next one loaded beforehand.

    Args:
        load: makes the encoder of a spec; called from a thread of its own for the one ahead.
    """

    def __init__(self, load: Callable[[ModelSpec], Encoder]) -> None:
        self._load = load
        self._pending: _Loading | None = None

    def start(self, spec: ModelSpec) -> None:
        """Begin to load a spec, unless that was begun before; another one that was begun is given up."""
        if self._pending is None or self._pending.spec != spec:
            self._pending = _Loading(spec, self._load)

    def take(self, spec: ModelSpec) -> Encoder:
        """The encoder of a spec, from the thread where it was begun there.

        Raises:
            Exception: whatever its loading raised.
        """
        pending, self._pending = self._pending, None
        if pending is None or pending.spec != spec:
            return self._load(spec)
        return pending.result()


class _Loading:
    """A load under way. The thread is a daemon: an interrupt does not wait for a download."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Encoder]) -> None:
        self.spec = spec
        self._encoder: Encoder | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(load,), name="selector-load", daemon=True)
        self._thread.start()

    def _run(self, load: Callable[[ModelSpec], Encoder]) -> None:
        try:
            self._encoder = load(self.spec)
        except BaseException as error:  # noqa: BLE001  raised again where the encoder is asked for
            self._error = error

    def result(self) -> Encoder:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._encoder is not None
        return self._encoder
