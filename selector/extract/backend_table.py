"""Backends as they were measured: families of networks on kinds of processors, shipped with the package.

``benchmarks/bench_backends.py`` makes the table. A scan that is shorter than a trial decides by it, and by what this
machine has measured itself, which counts more.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

from selector.core.system import cpu_kind

if TYPE_CHECKING:
    from torch import nn

Family = Literal["attention", "depthwise", "convolution"]
WORTH_SAYING = 1.2  # times as fast: less is no reason to install another package
DEPTHWISE = 0.3  # share of the layers; with fewer the others decide how fast a network is


@dataclass(frozen=True)
class Known:
    """How networks of a family are run fastest on a kind of processor.

    Attributes:
        backend: what is fastest beside eager torch; ``speedup`` over eager torch at its best, and the seconds of
            ``setup`` that converting and compiling a network take, both medians of so many ``networks``.
        precision, eager_precision: of that backend and of eager torch: the faster one in which at least half of the
            networks keep their features.
        over_float32: how much faster than eager torch in float32 the fastest way is, a median as well.
    """

    backend: str
    precision: str
    eager_precision: str
    speedup: float
    setup: float
    networks: int
    over_float32: float = 1.0

    def pays(self, eager_seconds: float) -> bool:
        """Whether converting saves more of so many seconds in eager torch than it takes."""
        return self.speedup > 1 and eager_seconds * (1 - 1 / self.speedup) > self.setup


def family_of(module: nn.Module) -> Family:
    """What decides how fast a network runs: attention, depthwise convolutions, or plain layers."""
    from torch import nn

    if any("Attention" in type(child).__name__ for child in module.modules()):
        return "attention"
    layers = [child for child in module.modules() if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear)]
    depthwise = [c for c in layers if not isinstance(c, nn.Linear) and c.groups == c.in_channels > 1]
    return "depthwise" if len(depthwise) >= DEPTHWISE * max(1, len(layers)) else "convolution"


def look_up(family: Family, backend: str) -> Known | None:
    """The row of a family on this kind of processor, or None where nobody has measured it."""
    return _table().get((cpu_kind(), family, backend))


def speedups(backend: str) -> tuple[float, float] | None:
    """The least and the most that a backend gains over eager torch on this kind of processor, by family of networks; None
    where nobody has measured it."""
    found = [known.speedup for (kind, _, name), known in _table().items() if (kind, name) == (cpu_kind(), backend)]
    return (min(found), max(found)) if found else None


@functools.cache
def _table() -> dict[tuple[str, str, str], Known]:
    text = resources.files("selector.extract").joinpath("backend_table.csv").read_text(encoding="utf-8")
    return {
        (row["cpu"], row["family"], row["backend"]): Known(
            row["backend"],
            row["precision"],
            row["eager_precision"],
            float(row["speedup"]),
            float(row["setup_s"]),
            int(row["networks"]),
            float(row["over_float32"]),
        )
        for row in csv.DictReader(text.splitlines())
    }
