"""What scripts share: their options, programs beside what is measured, and tables of results that are written as a whole.

``suite/table.py`` is for tables that only grow.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from selector.core.system import cpu_model, versions


def options(doc: str | None, out: Path | None = None, quick: str = "") -> argparse.ArgumentParser:
    """The options of most scripts: ``--seed``, ``--out``, and ``--quick`` where a help text says what it does."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=out)
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    return parser


@contextlib.contextmanager
def other_programs(count: int) -> Iterator[None]:
    """So many loops on a core each that do nothing but run, while the block runs."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5 if others else 0)
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table; none when there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, *, digits: int | None = None
) -> None:
    """Write the table; its columns are those of the rows where they are not named, and ``digits`` are those of numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        for row in rows:
            rounded = digits is not None and {k: f"{v:.{digits}f}" for k, v in row.items() if isinstance(v, float)}
            writer.writerow({**row, **(rounded or {})})


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


def processor_seconds(run: Callable[[], None]) -> float:
    """What some work takes in this process and in those that it waits for."""

    def used() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in both)

    begun = used()
    run()
    return used() - begun


def one_thread_count() -> None:
    """Let torch use as many threads as OMP_NUM_THREADS says (2 without it), and no more."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def facts(*names: str) -> dict[str, Any]:
    """Versions and hardware of this run by these names of ``versions``; empty where something is not installed."""
    found = versions()
    return {name: found.get(name, "") for name in names}


def commit() -> str:
    """Of the checkout that is measured."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, torch and Python, as the tables of dense tasks name them."""
    return {"processor": cpu_model(), "torch": versions().get("torch", ""), "python": platform.python_version()}
