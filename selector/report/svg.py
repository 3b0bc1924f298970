"""Just enough SVG: elements with escaped text, a linear or logarithmic axis, a frame with ticks.

Colors are CSS classes of the report, so that one figure serves both themes and print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from selector.core.units import format_count, format_latency, format_size


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """One element; attribute values and text are escaped, ``class_`` stands for ``class``.

    >>> element("text", "<b>", x=1.0, class_="name")
    Markup('<text x="1" class="name">&lt;b&gt;</text>')
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"' for key, value in attributes.items()
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>")


def _plain(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Axis:
    """Values ``low..high`` on pixels ``start..end``; ``log`` for quantities that span decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, *, log: bool = False) -> Axis:
        """An axis around the values, with a margin; a single value gets room on both sides."""
        low, high = min(values), max(values)
        if log:
            return cls(low / 1.3, high * 1.3, start, end, log=True)
        margin = 0.06 * (high - low) or max(abs(high) * 0.1, 0.05)
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values.

        >>> Axis(0.0, 1.0, 0, 100).ticks()
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps: tuple[float, ...] = (1, 2, 5) if self.high / self.low < 300 else (1,)
            steps = (1, 1.5, 2, 3, 4, 5, 7) if self.high / self.low < 10 else steps
            every = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            return [tick for tick in every if self.low <= tick <= self.high]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
        count = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) for i in range(math.ceil(self.low / step - 1e-9), count + 1)]


def picture(width: float, height: float, label: str, *children: str) -> Markup:
    """The outermost element; ``label`` is what a screen reader says."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
        preserveAspectRatio="xMinYMin meet",
    )


def bottom_axis(axis: Axis, top: float, bottom: float, title: str, form: str = "g") -> list[Markup]:
    """Grid lines, tick labels and a title below."""
    parts = []
    for tick in axis.ticks():
        x = axis(tick)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        parts.append(element("text", _tick(tick, form), x=x, y=bottom + 16, class_="tick", text_anchor="middle"))
    middle = (axis.start + axis.end) / 2
    parts.append(element("text", title, x=middle, y=bottom + 36, class_="axis", text_anchor="middle"))
    return parts


def left_axis(axis: Axis, left: float, right: float, title: str, form: str = "g") -> list[Markup]:
    """Grid lines, tick labels and a title above the axis."""
    parts = []
    for tick in axis.ticks():
        y = axis(tick)
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", _tick(tick, form), x=left - 6, y=y + 4, class_="tick", text_anchor="end"))
    parts.append(element("text", title, x=left, y=min(axis.start, axis.end) - 10, class_="axis"))
    return parts


def written(value: float, form: str) -> str:
    """A value as a person reads it: ``g``, ``count``, ``time`` (seconds) or ``size`` (bytes).

    >>> written(3.4e6, "count"), written(0.02, "time"), written(5e7, "size"), written(0.25, "g")
    ('3.4M', '20 ms', '50.0 MB', '0.25')
    """
    match form:
        case "count":
            return format_count(value)
        case "time":
            return format_latency(value)
        case "size":
            return format_size(value)
    return format(value, form)


def _tick(value: float, form: str) -> str:
    return re.sub(r"\.0+(?=\D|$)", "", written(value, form))
