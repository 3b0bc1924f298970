"""The code blocks of a page: run in order in one folder, their output compared with what the page shows.

A block of ``console`` holds commands after ``$``, one of ``pycon`` Python after ``>>>``, each followed by its output.
``<!-- file: NAME -->`` before a block writes it to a file, ``<!-- not run: REASON -->`` leaves it out, and
``<!-- lines: N -->`` shows so many lines of each output. Numbers differ between machines, so they are not compared.

    python -m _tools.blocks PAGE ...    # from docs/: run the pages and write their output anew
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _tools import samples

DOCS = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?P<marks>(?:^<!-- (?:file|not run|lines): [^>]*-->\n)*)^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)$",
    re.M | re.S,
)
COLUMNS = "110"
RUN = ("console", "pycon")


@dataclass(frozen=True)
class Block:
    """A code block: its language and text, the marks before it, and where its body lies in the page."""

    language: str
    body: str
    marks: dict[str, str]
    start: int
    end: int
    line: int


def blocks(text: str) -> list[Block]:
    """Every code block of a page; directives in braces are none."""
    found = []
    for match in BLOCK.finditer(text):
        if match["language"].startswith("{"):
            continue
        marks = dict(re.findall(r"<!-- (file|not run|lines): *([^>]*?) *-->", match["marks"]))
        line = text.count("\n", 0, match.start("body"))
        found.append(Block(match["language"], match["body"], marks, match.start("body"), match.end("body"), line))
    return found


def unmarked(text: str) -> list[Block]:
    """Blocks that neither run, nor are written to a file, nor say why not."""
    return [b for b in blocks(text) if b.language not in RUN and not {"file", "not run"} & set(b.marks)]


def run_page(path: Path, *, rewrite: bool = False) -> list[str]:
    """Run a page's blocks.

    Args:
        path: the page.
        rewrite: write the outputs into the page instead of comparing them.
    Returns:
        What differs, a message per block.
    """
    text = path.read_text(encoding="utf-8")
    wrong: list[str] = []
    written: list[tuple[int, int, str]] = []
    with tempfile.TemporaryDirectory() as name, _inside(Path(name)):
        samples.lay(Path(name), text)
        namespace: dict[str, Any] = {}
        for block in blocks(text):
            if "not run" in block.marks:
                continue
            if "file" in block.marks:
                Path(block.marks["file"]).parent.mkdir(parents=True, exist_ok=True)
                Path(block.marks["file"]).write_text(block.body, encoding="utf-8")
                continue
            most = int(block.marks.get("lines", 60))
            got = _console(block, most) if block.language == "console" else _pycon(block, most, namespace)
            if not _alike(block.body, got):
                wrong.append(f"{path.name}, line {block.line}: expected\n{block.body}\ngot\n{got}")
            written.append((block.start, block.end, got))
    if rewrite:
        for start, end, got in reversed(written):
            text = text[:start] + got + text[end:]
        path.write_text(text, encoding="utf-8")
    return wrong


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder, with a store of its own and nothing that earlier runs measured."""
    before, here = dict(os.environ), Path.cwd()
    os.environ |= {
        "COLUMNS": COLUMNS, "SELECTOR_STORE": str(folder / ".store"), "SELECTOR_HISTORY": str(folder / ".history.db"),
        "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "TERM": "dumb",
    }  # fmt: skip
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def _console(block: Block, most: int) -> str:
    from typer.testing import CliRunner

    from selector.cli import app

    lines: list[str] = []
    for command in _commands(block.body):
        lines.append("$ " + command.replace("\n", "\n> "))
        words = shlex.split(command.replace("\n", " ").replace("\\", " "), comments=True)
        words = [
            part
            for word in words
            for part in (sorted(map(str, Path().glob(word))) if "*" in word and "/" in word else [word])
        ]
        if words[0] == "selector":
            result = CliRunner().invoke(app, words[1:])
            if result.exit_code and result.exception and not isinstance(result.exception, SystemExit):
                raise result.exception
            if result.exit_code not in (0, 3):
                raise ValueError(f"line {block.line}: {command!r} fails: {result.stderr.strip()}")
            output = result.stdout
        elif words[0] == "ls":
            output = "\n".join(sorted(p.name for p in Path(words[1]).iterdir() if not p.name.startswith(".")))
        elif words[0] == "cat":
            output = Path(words[1]).read_text(encoding="utf-8")
        else:
            raise ValueError(f"line {block.line}: the examples run selector, ls and cat; got {command!r}")
        lines += _cut(output.strip("\n").splitlines(), most)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _commands(body: str) -> list[str]:
    found: list[str] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif line.startswith("> ") and found and found[-1].endswith("\\"):
            found[-1] += "\n" + line[2:]
    return found


def _pycon(block: Block, most: int, namespace: dict[str, Any]) -> str:
    parsed = doctest.DocTestParser().get_examples(block.body)
    lines: list[str] = []
    for example in parsed:
        source = example.source.rstrip("\n").splitlines()
        lines += [f"{'...' if k else '>>>'} {line}".rstrip() for k, line in enumerate(source)]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                exec(compile(example.source, "<page>", "single"), namespace)
            except Exception as error:
                if example.exc_msg is None:
                    raise
                out.write(f"Traceback (most recent call last):\n    ...\n{type(error).__name__}: {error}\n")
        namespace.pop("_", None)
        lines += _cut(out.getvalue().rstrip("\n").splitlines(), most)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _cut(lines: list[str], most: int) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], "..."]


def _alike(expected: str, got: str) -> bool:
    return _masked(expected) == _masked(got)


def _masked(text: str) -> str:
    text = re.sub(r"[-−+]?\d+(?:[.,:]\d+)*", "#", text)
    text = re.sub(r"[─━]+", "─", text)
    text = re.sub(r"[≈°~◆◇]", "", text)
    text = re.sub(r"\b(ms|s|min|MB|KB|MiB|GB|kB)\b", "u", text)
    return re.sub(r"\s+", " ", text).strip()


def main(pages: list[str]) -> int:
    """Write the output of the pages anew; those named, or all."""
    for name in pages:
        wrong = run_page(Path(name), rewrite=True)
        sys.stdout.write(f"{name}: {len(wrong)} block(s) changed\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
