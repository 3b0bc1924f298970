"""Counts of the structure on a package made by hand."""

import ast

from benchmarks.house import any_annotations, single_importers


def test_a_module_with_one_importer_is_counted_once() -> None:
    trees = {
        "__init__.py": "",
        "a.py": "from selector import b\nfrom selector.c import thing",
        "b.py": "from selector.c import thing",
        "c.py": "thing = 1",
    }
    assert single_importers({name: ast.parse(text) for name, text in trees.items()}) == 1  # b; c has two, a none


def test_any_counts_where_it_annotates() -> None:
    text = "x: Any = cast(Any, 1)\ndef f(a: dict[str, Any], *b: int) -> Any: ..."
    assert any_annotations(ast.parse(text)) == 3
