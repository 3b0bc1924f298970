"""Opens the next network for its backend while the present one runs: conversion needs one core and no pixels."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from selector import modalities
from selector.core.contracts import Encoder
from selector.core.errors import SourceError
from selector.extract.backend_choice import known_ways
from selector.extract.backends import Backend, open_backend, why_not
from selector.extract.encode import batch_of, decided_before, resolve_device

if TYPE_CHECKING:
    from selector.store import FeatureStore

log = logging.getLogger(__name__)

Opened: TypeAlias = "Mapping[tuple[str, str], Backend]"
"""Backends by name and precision."""


def open_ahead(
    encoder: Encoder, *, device: str, precision: str, backend: str, rows_expected: int, store: FeatureStore,
    decided: Mapping[str, Any] | None = None,
) -> Opened:  # fmt: skip
    """The backend that was decided in an earlier round, or that a network of this family is run with here, where opening
    it pays for so many images.

    The latter is only a guess, by one pass beside other work: what runs the network is decided later, by its features.

    Args:
        decided: facts of the entry, when rows were extracted before.
    Returns:
        Nothing where that is not known, or where torch itself is likely.
    """
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
        known = next(known_ways(encoder, device, store), None)
        if known is None or (precision, backend) != ("auto", "auto"):
            return {}
        batch = encoder.probe()
        started = time.thread_time()  # this thread's share of the work; what others do meanwhile does not count
        with torch.inference_mode():
            encoder.encode(batch)
        seconds = (time.thread_time() - started) / len(batch)
        if not known.pays(rows_expected * seconds):
            return {}
        name, lowered = known.backend, known.precision
        return {(name, lowered): open_backend(name, encoder, device, lowered, batch_of(device), store.compiled_folder)}
    except (SourceError, RuntimeError, TypeError, NotImplementedError) as error:
        log.info("%s was not opened ahead: %s", encoder.name, str(error).splitlines()[:1])
        return {}
