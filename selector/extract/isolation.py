"""Which models run in a worker of their own, and within which limits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from selector.run.job import WorkerLimits
from selector.zoo import ModelSpec
from selector.zoo.trust import runs_code

Mode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class Isolation:
    """Which models run in a worker of their own, so that one that crashes, hangs or eats the memory costs its own row.

    Attributes:
        mode: ``on`` for all, ``off`` for none, ``auto`` for third-party code and graphs: ``python:`` and ``onnx:`` entries
            of a zoo file.
        from_file: whether the zoo is a file that somebody wrote (and not the shipped one, nor a library call's own).
        timeout: seconds that one model may take for a round of rows; None for no limit.
        memory: bytes of resident memory at most; None for nine tenths of the machine's.
    """

    mode: Mode = "off"
    from_file: bool = False
    timeout: float | None = None
    memory: int | None = None

    def concerns(self, spec: ModelSpec) -> bool:
        """Whether a model runs in a worker of its own."""
        if sys.platform == "win32" or self.mode == "off":
            return False
        third_party = spec.source_name == "onnx" or runs_code(spec.source_name, spec.model_id)
        return self.mode == "on" or (self.from_file and third_party)

    def limits(self, spec: ModelSpec) -> WorkerLimits | None:
        """Of a job of this model; None where it may run in any process."""
        return WorkerLimits(self.timeout, self.memory) if self.concerns(spec) else None

    @property
    def of_trainings(self) -> WorkerLimits:
        """Of jobs that report their steps: the time counts from one to the next."""
        return WorkerLimits(self.timeout, self.memory, between_steps=True)
