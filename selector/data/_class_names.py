"""Class names from a list, a mapping or a file; and tables of colors of masks."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selector.core.errors import TargetError
from selector.core.input_files import check_json
from selector.data._text_rows import read_csv, read_utf8
from selector.options.data import ClassNames

Color = tuple[int, int, int]

USUAL_FILES = (
    "classes.txt", "class_names.txt", "labels.txt", "obj.names", "classes.json", "class_names.json", "class_dict.csv",
    "label_colors.txt", "label_colours.txt", "labelmap.txt",
)  # fmt: skip
_COLOR_LINE = re.compile(r"(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\S.*)")
_LABELMAP_LINE = re.compile(r"([^:#]+):(\d{1,3}),(\d{1,3}),(\d{1,3})(:.*)?")
_MOST, _LONGEST_YAML = 65535, 1 << 22  # classes, and characters: a megabyte of YAML takes ten seconds


def class_schema(given: ClassNames) -> dict[str, object]:
    """``names`` in label order, and ``colors`` where the file gives them, as a table's schema has them.

    Names may be given with commas between them. A file holds a name per line, ``R G B name`` a line, CVAT's ``name:R,G,B::`` a line, a CSV with the columns name, r, g
    and b, or JSON or YAML of a list, of numbers and names, or of names and colors.

    Raises:
        TargetError: it cannot be read, or holds something else.
    """
    where = "class_names"
    content: object = given
    if isinstance(given, str | os.PathLike):
        where = os.fspath(given)
        there = os.path.exists(where)  # noqa: PTH110  Path.exists raises for a list that is too long for a name
        if not there and "," not in where:
            raise TargetError(
                f"class_names (--class-names): there is no file {where}; give a file, or the names themselves, such as cat,dog."
            )
        content = _read(Path(given)) if there else [name.strip() for name in where.split(",")]
    if isinstance(content, Mapping) and isinstance(content.get("names"), list | Mapping):
        content = content["names"]
    if isinstance(content, Mapping):
        return _of_mapping(content, where)
    if not isinstance(content, list | tuple) or not content:
        raise TargetError(f"{where}: expected class names in label order, such as ['cat', 'dog'].")
    if all(isinstance(one, tuple) for one in content):
        return {"names": [name for name, _ in content], "colors": [color for _, color in content]}
    if not all(isinstance(name, str | int) for name in content):
        raise TargetError(f"{where}: expected class names in label order, such as ['cat', 'dog'].")
    return {"names": [str(name) for name in content]}


def usual_file(root: Path) -> Path | None:
    """A file of class names that lies in a folder under one of the usual names."""
    return next((root / name for name in USUAL_FILES if (root / name).is_file()), None)


def _read(path: Path) -> object:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        header, rows = read_csv(path)
        lower = {name.lower(): name for name in header}
        if not {"name", "r", "g", "b"} <= set(lower):
            raise TargetError(f"{path}: columns {', '.join(header)}; expected name, r, g and b.")
        return [
            (row[lower["name"]].strip(), _color([row[lower[c]] for c in "rgb"], f"{path}:{line}")) for line, row in rows
        ]
    text = read_utf8(path)
    if suffix in (".json", ".yaml", ".yml"):
        return read_mapping(path, text)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    for pattern, order in ((_COLOR_LINE, (4, 1, 2, 3)), (_LABELMAP_LINE, (1, 2, 3, 4))):
        found = [(number, pattern.fullmatch(line)) for number, line in lines]
        if found and all(match for _, match in found):
            return [
                (match[order[0]].strip(), _color([match[i] for i in order[1:]], f"{path}:{number}"))
                for number, match in found
                if match
            ]
    return [line for _, line in lines]


def read_mapping(path: Path, text: str | None = None) -> object:
    """The content of a JSON or YAML file.

    Raises:
        TargetError: it is neither.
    """
    text = read_utf8(path) if text is None else text
    try:
        if path.suffix.lower() == ".json":
            check_json(text)
            return json.loads(text)
        import yaml

        if len(text) > _LONGEST_YAML:
            raise TargetError(f"{path}: {len(text):,} characters; expected YAML of at most {_LONGEST_YAML:,}.")

        aliases = "&" in text and "*" in text  # they make a small file a huge one
        if aliases and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise TargetError(f"{path}: holds YAML aliases; write the values out.")
        return yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TargetError(f"{path}: not readable as {path.suffix[1:].upper()} ({said}).") from None
    except yaml.YAMLError as error:
        raise TargetError(f"{path}: not readable as YAML ({str(error).splitlines()[0]}).") from None


def _color(parts: Sequence[Any], where: str) -> Color:
    try:
        values = [int(part) for part in parts]
    except (TypeError, ValueError):
        values = []
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise TargetError(f"{where}: {', '.join(map(str, parts))} is not a color; expected three numbers in 0..255.")
    return values[0], values[1], values[2]


def _of_mapping(content: Mapping[Any, Any], where: str) -> dict[str, object]:
    if content and all(isinstance(value, list | tuple) for value in content.values()):
        return {"names": [str(k) for k in content], "colors": [_color(v, f"{where}: {k}") for k, v in content.items()]}
    try:
        numbered = {int(key): str(value) for key, value in content.items()}
    except (TypeError, ValueError):
        numbered = {}
    if not numbered or min(numbered) < 0 or max(numbered) > _MOST:
        raise TargetError(f"{where}: expected class names in label order, or by number (0: cat).")
    return {"names": [numbered.get(number, f"class {number}") for number in range(max(numbered) + 1)]}
