"""Print the size and shape of the package at some commits side by side, as a Markdown table.

    python -m benchmarks.house [COMMIT ...]

Without a commit: the working tree. Branches are what ``tests/test_rooms.py`` counts; "outside" by the rooms of today,
so that an older layout shows all of its own. Circles are groups of modules that import each other, imports for type
checking and names of modules in strings included, the package's lazy face left out.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import markdown_lines
from tests.test_rooms import ROOMS, branches

ROOT = Path(__file__).parent.parent
PARTS = ("selector", "tests", "benchmarks")
SHORT = 60  # lines of a module that hardly earns a file


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("commits", nargs="*", metavar="COMMIT")
    commits = parser.parse_args(argv).commits
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for commit in commits:
            packed = subprocess.run(
                ["git", "archive", commit, *PARTS], cwd=ROOT, capture_output=True, check=True
            ).stdout
            place = Path(temporary) / commit
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(place, filter="data")
            found[commit] = facts(place)
        if not commits:
            found["working tree"] = facts(ROOT)
    names = next(iter(found.values()))
    print(*markdown_lines(["", *found], ([name, *(each[name] for each in found.values())] for name in names)), sep="\n")
    return 0


def facts(root: Path) -> dict[str, int]:
    """Counts of a checkout's source."""
    package = root / "selector"
    texts = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    lines = {name: text.count("\n") for name, text in texts.items()}
    asking = {name: branches(tree) for name, tree in trees.items()}
    classes = Counter(node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return {
        "lines of the package": sum(lines.values()),
        "lines of benchmarks": _lines(root / "benchmarks"),
        "lines of tests": _lines(root / "tests"),
        "modules": len(texts),
        "modules with a single importer": single_importers(trees),
        f"modules of fewer than {SHORT} lines": sum(count < SHORT for count in lines.values()),
        "modules at the top": sum("/" not in name for name in texts),
        "lines of the longest module": max(lines.values()),
        "class names used twice": sum(count > 1 for count in classes.values()),
        "Any in annotations": sum(map(any_annotations, trees.values())),
        "branches on a modality or label kind outside their rooms": sum(
            count for name, count in asking.items() if not name.startswith(ROOMS)
        ),
        "circles between modules": len(circles(imports(trees))),
        "parameters of rank": parameters(trees, "rank"),
    }


def _lines(folder: Path) -> int:
    return sum(path.read_text("utf-8").count("\n") for path in folder.rglob("*.py"))


def any_annotations(tree: ast.AST) -> int:
    """How often ``Any`` stands in the annotations of arguments, results and fields."""
    found = 0
    for node in ast.walk(tree):
        annotation = getattr(node, "returns", None) or getattr(node, "annotation", None)
        if annotation is not None:
            found += sum(isinstance(name, ast.Name) and name.id == "Any" for name in ast.walk(annotation))
    return found


def single_importers(trees: Mapping[str, ast.AST]) -> int:
    """Modules that exactly one other module imports; the faces of packages do not count."""
    names = {dotted(file): file for file in trees}
    importers: dict[str, set[str]] = {name: set() for name in names}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            found: list[str] = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = [
                    f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in names else node.module for a in node.names
                ]
            for name in found:
                if name in names:
                    importers[name].add(dotted(file))
    return sum(len(importers[n] - {n}) == 1 and not file.endswith("__init__.py") for n, file in names.items())


def imports(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """Modules by the modules that they import or name."""
    names = {file: dotted(file) for file in trees}
    graph: dict[str, set[str]] = {}
    for file, tree in trees.items():
        own, found = names[file], set[str]()
        folders = {  # a registry looks into its folder when somebody above asks it
            id(call.args[0])
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "Registry" and call.args
        }
        for node in ast.walk(tree):
            if id(node) in folders:
                continue
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                under = {f"{node.module}.{alias.name}" for alias in node.names} & set(names.values())
                found |= under or {node.module}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.startswith(own):
                found.add(node.value)
        graph[own] = found & set(names.values()) - {own, "selector"} if own != "selector" else set()
    return graph


def dotted(file: str) -> str:
    """``scan/__init__.py`` as ``selector.scan``."""
    return ".".join(["selector", *file.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]).strip(".")


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Groups of more than one module in which each leads to each."""

    def reached(start: str) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return [set(group) for group in groups if len(group) > 1]


def parameters(trees: Mapping[str, ast.AST], name: str) -> int:
    """Parameters that the public function writes down, ``**options`` as one."""
    for node in ast.walk(trees["api.py"]):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return len(node.args.args) + len(node.args.kwonlyargs) + (node.args.kwarg is not None)
    raise LookupError(name)


if __name__ == "__main__":
    sys.exit(main())
