"""Backends as they were measured: families of networks on kinds of processors, shipped with the package.

``benchmarks/bench_backends.py`` makes the table. A scan that does not take many times as long as a trial decides by it.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal, TypeAlias

from selector.core.system import cpu_kind

if TYPE_CHECKING:
    from torch import nn

Family = Literal["attention", "depthwise", "convolution"]
WORTH_SAYING = 1.2  # times as fast: less is no reason to install another package
DEPTHWISE = 0.3  # share of the layers; with fewer the others decide how fast a network is


Way: TypeAlias = tuple[str, str]
"""Backend and precision."""


@dataclass(frozen=True)
class Known:
    """How networks of a family run on a kind of processor; all figures are medians over the networks that were measured.

    Attributes:
        backend: what is fastest beside eager torch.
        speeds: how many times as fast as eager torch in float32 each way is.
        setup: seconds of a core that converting and compiling a network take.
        keeps: whether at least half of the networks keep their features in bfloat16.
    """

    backend: str
    speeds: Mapping[Way, float]
    setup: float
    keeps: bool

    @property
    def speedup(self) -> float:
        """Of the backend over eager torch, in the precision that most of the networks stand."""
        precision = "bfloat16" if self.keeps else "float32"
        return self.speeds[self.backend, precision] / self.speeds["eager", precision]

    def ways(self, eager_seconds: float, *, converts: bool, lowers: bool) -> dict[Way, float]:
        """Seconds that each way takes for what takes so many in eager torch and float32, the quickest first.

        Args:
            converts: whether the backend can run here; ``lowers``: whether bfloat16 may.
        """
        seconds = {
            way: eager_seconds / speed + (self.setup if way[0] == self.backend else 0.0)
            for way, speed in self.speeds.items()
            if (converts or way[0] == "eager") and (lowers or way[1] == "float32")
        }
        return dict(sorted(seconds.items(), key=lambda item: item[1]))


def family_of(module: nn.Module) -> Family:
    """What decides how fast a network runs: attention, depthwise convolutions, or plain layers."""
    from torch import nn

    if any("Attention" in type(child).__name__ for child in module.modules()):
        return "attention"
    layers = [child for child in module.modules() if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear)]
    depthwise = [c for c in layers if not isinstance(c, nn.Linear) and c.groups == c.in_channels > 1]
    return "depthwise" if len(depthwise) >= DEPTHWISE * max(1, len(layers)) else "convolution"


def look_up(module: nn.Module, device: str) -> Known | None:
    """The row of a network's family on this kind of processor; None on other devices and where nobody has measured it."""
    return _table().get((cpu_kind(), family_of(module))) if device == "cpu" else None


def speedups(backend: str) -> tuple[float, float] | None:
    """The least and the most that a backend gains over eager torch on this kind of processor, by family of networks; None
    where nobody has measured it."""
    rows = [known for (kind, _), known in _table().items() if (kind, known.backend) == (cpu_kind(), backend)]
    return (min(k.speedup for k in rows), max(k.speedup for k in rows)) if rows else None


@functools.cache
def _table() -> dict[tuple[str, str], Known]:
    text = resources.files("selector.extract").joinpath("backend_table.csv").read_text(encoding="utf-8")
    return {(row["cpu"], row["family"]): _known(row) for row in csv.DictReader(text.splitlines())}


def _known(row: Mapping[str, str]) -> Known:
    ways = [(name, precision) for name in ("eager", row["backend"]) for precision in ("float32", "bfloat16")]
    speeds = {way: float(row.get("_".join(way), 1.0)) for way in ways}
    return Known(row["backend"], speeds, float(row["setup_s"]), row["keeps"] == "1")
