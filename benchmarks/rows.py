"""Tables of results that are written anew as a whole; ``suite/table.py`` is for those that only grow."""

from __future__ import annotations

import csv
import platform
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from selector.core.system import cpu_model, versions


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table; none when there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write the table; its columns are those of the first row where they are not named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_into(page: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the table of a page that stands between the comments ``NAME: begin`` and ``NAME: end``."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{in_markdown(rows)}\n{end}{after}", encoding="utf-8")


def in_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table of a page."""
    return "\n".join(markdown_lines(list(rows[0]), (row.values() for row in rows)))


def markdown_lines(header: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """A table of a page, line by line."""
    body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *body]


def packed(right: np.ndarray) -> str:
    """(N,) 0 and 1 as they stand in a cell: hexadecimal, a bit an item."""
    return np.packbits(right).tobytes().hex()


def unpacked(cell: str, count: int) -> np.ndarray:
    """(N,) float64, 0 and 1, of a cell that ``packed`` wrote for ``count`` items."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(cell), dtype=np.uint8), count=count).astype(np.float64)


def processor_seconds(run: Callable[[], None]) -> float:
    """What some work takes in this process and in those that it waits for."""

    def used() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in both)

    begun = used()
    run()
    return used() - begun


def hardware() -> dict[str, Any]:
    """Processor, torch and Python, as the tables of dense tasks name them."""
    return {"processor": cpu_model(), "torch": versions().get("torch", ""), "python": platform.python_version()}
