"""What a long job tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """One step of a long job, for whoever draws it; the library itself prints nothing.

    ``done`` of ``total`` in ``unit``; ``stage`` is one of decode, load, extract, score, plan, train.
    With a total of 0 the note is all there is. ``values`` are measured at this step, such as ``loss``, for experiment
    loggers.
    """

    stage: str
    done: int
    total: int
    unit: str = "images"
    model: str = ""
    note: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


ProgressCallback: TypeAlias = Callable[[Progress], None]


def no_progress(_: Progress) -> None:
    """The default listener."""
