"""Quantities as people write them: ``20m``, ``3h``, ``20ms``, ``20GB``, ``30d``, ``30M``; and lists with commas."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from selector.core.errors import ConfigError

_DURATIONS = {"": 1.0, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def _parse(text: str | float, units: dict[str, float] | dict[str, int], what: str, example: str) -> float:
    if isinstance(text, int | float):
        value, unit = float(text), ""
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
        key = match and (
            match[2] if match[2] in units else match[2].lower() if match[2].lower() in units else match[2].upper()
        )
        if not match or key not in units:
            raise ConfigError(
                f"{what} must be a number with a unit out of {', '.join(u for u in units if u)}, such as {example}. Got {text!r}."
            )
        value, unit = float(match[1]), str(key)
    if value < 0:
        raise ConfigError(f"{what} must not be negative. Got {text!r}.")
    if not math.isfinite(value * units[unit]):
        raise ConfigError(f"{what} must be finite, such as {example}. Got {str(text)[:20]!r}.")
    return value * units[unit]


def parse_duration(text: str | float, *, needs_unit: bool = False) -> float:
    """Seconds; ``needs_unit`` refuses a text of digits alone, where seconds would hardly be meant.

    >>> parse_duration("20m"), parse_duration("1.5h"), parse_duration(90)
    (1200.0, 5400.0, 90.0)
    >>> parse_duration("20ms", needs_unit=True)
    0.02
    """
    if needs_unit and isinstance(text, str) and text.strip().replace(".", "", 1).isdigit():
        raise ConfigError(f"A duration needs a unit here: {text.strip()}ms or {text.strip()}s? Got {text!r}.")
    return _parse(text, _DURATIONS, "A duration", "20ms" if needs_unit else "20m")


def parse_count(text: str | float) -> int:
    """A number of things, in powers of ten.

    >>> parse_count("30M"), parse_count("1.5b"), parse_count(1000)
    (30000000, 1500000000, 1000)
    """
    return round(_parse(text, _COUNTS, "A count", "30M"))


def parse_size(text: str | float) -> int:
    """Bytes, in powers of ten.

    >>> parse_size("20GB")
    20000000000
    """
    return int(_parse(text, _SIZES, "A size", "20GB"))


def format_duration(seconds: float) -> str:
    """Seconds for a person.

    >>> format_duration(3.21), format_duration(75), format_duration(7500)
    ('3.2 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def format_latency(seconds: float) -> str:
    """A short time for a person.

    >>> format_latency(0.000312), format_latency(0.0123), format_latency(0.152), format_latency(2.5)
    ('0.31 ms', '12.3 ms', '152 ms', '2.50 s')
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    ms = 1000 * seconds
    return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 20 else f"{ms:.0f} ms"


def format_size(size: float) -> str:
    """Bytes for a person.

    >>> format_size(1_234_567)
    '1.2 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_count(count: float) -> str:
    """A count for a person.

    >>> format_count(3_371_008), format_count(97_530)
    ('3.4M', '97.5K')
    """
    for unit in ("", "K", "M", "B"):
        if count < 1000 or unit == "B":
            return f"{count:.0f}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1000
    raise AssertionError("unreachable")


def words(value: str | Sequence[object] | None) -> list[Any]:
    """The parts of a comma-separated text, or those of a list.

    >>> words("a, b"), words(["a", "b"]), words(None)
    (['a', 'b'], ['a', 'b'], [])
    """
    parts = [] if value is None else value.split(",") if isinstance(value, str) else list(value)
    return [part for part in (part.strip() if isinstance(part, str) else part for part in parts) if part != ""]


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str, *, as_json: bool = False) -> str:
    """A text of others for a terminal: what would move its cursor, color it or turn its lines round is spelled out.

    >>> print(printable("\x1b[31mred"))
    \\x1b[31mred
    """
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}" if as_json else ascii(found[0])[1:-1], text)


def inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, which could send away what stands beside it."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
