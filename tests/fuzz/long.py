"""Thousands of changed files of each format: ``python -m tests.fuzz.long --out FOLDER``; goes on where it was ended.

Each part runs in a process of its own, which may end in any way. A row a part: cases, failures, the longest case and the
most memory that one took beyond what the process had before. Failures are in ``failures.jsonl``, with the name, seed and
number that make the case again (``test_what_long_runs_found``).
"""

import argparse
import csv
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PART = 500
MOST_SECONDS, MOST_BYTES = 20, 10**9
FIELDS = ("format", "seed", "start", "cases", "errors", "failures", "seconds", "bytes")


def _memory(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def run_part(name: str, seed: int, start: int, count: int, failures: Path) -> dict[str, Any]:
    """One part, in this process."""
    from selector.core.errors import SelectorError
    from tests.fuzz.test_fuzz import FORMATS, tripwire

    row: dict[str, Any] = {"format": name, "seed": seed, "start": start, "cases": 0, "errors": 0, "failures": 0}
    most_seconds, most_bytes = 0.0, 0

    def failed(number: int, said: str) -> None:
        row["failures"] += 1
        with failures.open("a") as file:
            file.write(json.dumps({"format": name, "seed": seed, "number": number, "said": said[:300]}) + "\n")

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {MOST_SECONDS} s of computing")

    signal.signal(signal.SIGPROF, late)
    with tempfile.TemporaryDirectory() as folder:
        case = FORMATS[name][0](Path(folder))
        with tripwire():
            for number in range(start, start + count):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                before, began = _memory("VmRSS"), time.process_time()
                signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
                try:
                    case(random.Random(f"{name} {seed} {number}"))
                except SelectorError:
                    row["errors"] += 1
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                    failed(number, f"{type(error).__name__}: {error}")
                finally:
                    signal.setitimer(signal.ITIMER_PROF, 0)
                grown = _memory("VmHWM") - before
                if grown > MOST_BYTES:
                    failed(number, f"took {grown:,} bytes")
                most_seconds, most_bytes = max(most_seconds, time.process_time() - began), max(most_bytes, grown)
                row["cases"] += 1
    return {**row, "seconds": round(most_seconds, 2), "bytes": most_bytes}


def main(argv: list[str]) -> int:
    """Run what is not in the table yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--formats", nargs="*")
    parser.add_argument("--part", help="for itself: FORMAT:START:COUNT")
    given = parser.parse_args(argv)
    failures = given.out / "failures.jsonl"
    if given.part:
        name, start, count = given.part.rsplit(":", 2)
        row = run_part(name, given.seed, int(start), int(count), failures)
        sys.stdout.write(json.dumps(row) + "\n")
        return 0
    from tests.fuzz.test_fuzz import FORMATS

    given.out.mkdir(parents=True, exist_ok=True)
    table = given.out / "parts.csv"
    done = set()
    if table.exists():
        with table.open(newline="") as file:
            done = {(row["format"], int(row["seed"]), int(row["start"])) for row in csv.DictReader(file)}
    total = sum(cases for _, _, cases in FORMATS.values())
    parts = []
    for name, (_, _, cases) in FORMATS.items():
        wanted = max(PART, round(cases * given.cases / total / PART) * PART)
        parts += [(start, name) for start in range(0, wanted, PART)]
    for start, name in sorted(parts, key=lambda part: part[0]):
        if (name, given.seed, start) in done or (given.formats and name not in given.formats):
            continue
        command = [sys.executable, "-m", "tests.fuzz.long", "--out", str(given.out), "--seed", str(given.seed)]
        ended = subprocess.run(
            [*command, "--part", f"{name}:{start}:{PART}"], capture_output=True, text=True, check=False
        )
        try:
            row = json.loads(ended.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            row = {"format": name, "seed": given.seed, "start": start, "cases": 0, "errors": 0, "failures": 1}
            with failures.open("a") as file:
                said = f"ended with {ended.returncode}: {ended.stderr[-300:]}"
                file.write(json.dumps({"format": name, "seed": given.seed, "number": start, "said": said}) + "\n")
        new = not table.exists()
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
