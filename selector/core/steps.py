"""What a long job tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """One step of a long job, for whoever draws it; the library itself prints nothing.

    ``done`` of ``total`` in ``unit``; ``stage`` is one of decode, load, extract, score, plan, train.
    With a total of 0 the note is all there is.
    """

    stage: str
    done: int
    total: int
    unit: str = "images"
    model: str = ""
    note: str = ""


ProgressCallback: TypeAlias = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """The default listener."""
