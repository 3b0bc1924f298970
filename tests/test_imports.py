"""Imports run one way: through every module, imports for type checking and names in strings included.

``lint-imports`` checks the layers of ``pyproject.toml``; here is what it cannot see.
"""

import ast
import functools
import tomllib
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "selector"
CONTRACT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYERS = [[name.strip() for name in row.split("|")] for row in CONTRACT["contracts"][0]["layers"]]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> int | None:
    """Counted from the top; None of the public face (``selector`` and what starts it)."""
    return next((i for i, row in enumerate(LAYERS) if any(f"{module}.".startswith(f"{name}.") for name in row)), None)


@functools.cache
def named(tree: ast.AST) -> frozenset[str]:
    """Modules of the package that stand in strings: what ``import_module`` and tables of lazy names are given.

    Not the folder of a registry: it lists names of files there (a zoo knows what sources there are) and imports one when
    somebody above asks for it.
    """
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    folders = {id(call.args[0]) for call in calls if call.func.id == "Registry" and call.args}  # type: ignore[attr-defined]
    texts = (
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in folders
    )
    return frozenset(text for text in texts if text in MODULES and "." in text)


def imported(module: str, tree: ast.AST) -> set[str]:
    """Modules of the package that a module imports, wherever in the file and whatever for."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= submodules or {str(node.module)}
    return (found & MODULES.keys()) - {module}


def ways_up(module: str, names: Collection[str]) -> list[str]:
    own = layer_of(module)
    return sorted(name for name in names if own is not None and (layer_of(name) or 0) < own)


def test_names_of_modules_in_strings_point_down() -> None:
    assert named(ast.parse('import_module("selector.report.table"); f"selector.{x}"; "selector.nothing"')) == {
        "selector.report.table"
    }
    assert ways_up("selector.results", {"selector.report.table"}) == ["selector.report.table"]
    assert not ways_up("selector.report.html", {"selector.results"})
    wrong = {module: up for module, tree in MODULES.items() if (up := ways_up(module, named(tree)))}
    assert not wrong, f"names of modules in strings that point up: {wrong}"


def test_no_circle_between_modules() -> None:
    # the package itself gives its public names lazily: it is the top, and nothing below imports it
    graph = {module: imported(module, tree) | named(tree) for module, tree in MODULES.items() if module != "selector"}
    above = sorted(module for module, names in graph.items() if "selector" in names and module != "selector.__main__")
    assert all(layer_of(module) in (0, 1) for module in above), f"imports of the package's own face: {above}"
    # a registry names the folder that it looks in, and a folder's __init__ gives names of its modules lazily
    for module in graph:
        graph[module] = {
            name for name in graph[module] if not (name in named(MODULES[module]) and name.startswith(module))
        }
    try:
        TopologicalSorter({m: names - {"selector", m} for m, names in graph.items()}).prepare()
    except CycleError as error:
        raise AssertionError(f"modules import each other in a circle: {' -> '.join(error.args[1])}") from None


def test_the_contract_hides_nothing() -> None:
    assert CONTRACT["exclude_type_checking_imports"] is False
    assert "ignore_imports" not in CONTRACT["contracts"][0]
