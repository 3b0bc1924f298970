"""Small changes to real files: of bytes, of a JSON tree, of lines. All are drawn from a seed."""

import copy
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**40, "", "x", "../../etc/passwd", "\x00", "\u2028", "\ud800",
    "<script>alert(1)</script>", "\x1b[31m", [], [1], [[]], {}, {"a": {}}, "9" * 400,
)  # fmt: skip


def paths(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON tree stand, inner ones too."""
    yield at
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in parts:
        yield from paths(value, (*at, key))


def json_mutation(tree: Any, rng: random.Random) -> tuple[str, Any]:
    """One value replaced, removed, doubled or renamed; with a word for messages."""
    changed = copy.deepcopy(tree)
    path = rng.choice([path for path in paths(tree) if path])
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    how = rng.choice(["replace", "replace", "replace", "remove", "unknown", "nest"])
    if how == "remove":
        del holder[key]
    elif how == "unknown" and isinstance(holder, dict):
        holder["unknown_key"] = rng.choice(VALUES)
    elif how == "nest":
        holder[key] = [holder[key]]
    else:
        holder[key] = rng.choice(VALUES)
    return f"{how} {'.'.join(map(str, path))} -> {str(holder)[:80] if how == 'unknown' else ''}", changed


def one_changed(files: Mapping[Path, bytes], rng: random.Random) -> None:
    """Writes all files as they were, but one."""
    changed = rng.choice(list(files))
    for path, content in files.items():
        path.write_bytes(byte_mutation(content, rng) if path == changed else content)


def byte_mutation(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, a piece cut out, doubled or overwritten, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not data:
            break
        at = rng.randrange(len(data))
        length = rng.choice([1, 2, 4, 16, 64])
        match rng.choice(["flip", "flip", "cut", "double", "fill", "end"]):
            case "flip":
                data[at] ^= 1 << rng.randrange(8)
            case "cut":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "fill":
                data[at : at + length] = bytes([rng.choice([0, 255, 34, 10, 44])]) * length
            case "end":
                del data[at:]
    return bytes(data)
