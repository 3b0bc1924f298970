"""Generic code asks no one which modality or label kind it is: it calls the task or the modality; a class has its name alone."""

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "selector"
ROOMS = ("modalities/", "tasks/", "data/readers/", "deploy/serializers/", "proxies/", "core/contracts.py")
"""Where modalities and label kinds are known: their own rooms, readers, the label kinds that proxies declare."""

CLASSES = {"Preprocess", "TextPreprocess", "Tokens", "TokenTable", "Pixels", "Words"}
FIELDS = {"modality", "reads", "label_kind", "row_starts"}


def branches(tree: ast.AST) -> int:
    """Type tests on what only one modality has, and comparisons of a modality, a label kind or row starts."""
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            found += bool(CLASSES & {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)})
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            fields = {
                n.attr if isinstance(n, ast.Attribute) else n.id
                for n in sides
                if isinstance(n, ast.Attribute | ast.Name)
            }
            kinds = any(
                isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in ("LabelKind",)
                for side in sides
                for n in ast.walk(side)
            )
            found += kinds or bool(FIELDS & fields)
    return found


def test_the_count_sees_branches() -> None:
    seen = "a = isinstance(x, Tokens)\nif t.modality == 'text': ...\nif row_starts is None: ...\nif k in (LabelKind.REAL,): ..."
    assert branches(ast.parse(seen)) == 4
    assert branches(ast.parse("if isinstance(x, str) and y.kind == 3: ...")) == 0


def test_no_branch_on_modality_or_label_kind_outside_their_rooms() -> None:
    found: Counter[str] = Counter()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(ROOMS):
            found[name] = branches(ast.parse(path.read_text(encoding="utf-8")))
    asking = {name: count for name, count in found.items() if count}
    assert not asking, f"branches on a modality or a label kind; call the modality or the task instead: {asking}"


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}")
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, f"one name for one thing: name these classes by what sets them apart: {twice}"
