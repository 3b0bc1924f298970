"""The names that a model library knows, remembered a version: asking does not import torch.

Listing timm's models means importing timm, and with it torch. The list only changes with the
version, so it is written down once, by a process of its own.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from selector.core.atomic import cache_folder, read_memory, write_memory
from selector.core.errors import SourceError, ZooError, did_you_mean
from selector.sources._weights import versions

_FORMAT = 4
_read: dict[str, dict[str, object]] = {}  # what this process has read already


def index(library: str, script: str) -> dict[str, object]:
    """The JSON object that ``script`` prints, remembered by the version of ``library``.

    Raises:
        SourceError: the library is installed but cannot be imported.
    """
    name = f"index-{library}-{versions(library)[library]}-{_FORMAT}.json"
    if name not in _read:
        _read[name] = _remembered(cache_folder() / name, library, script)
    return _read[name]


def _remembered(file: Path, library: str, script: str) -> dict[str, object]:
    known = read_memory(file)
    if known:
        return known
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise SourceError(
            f"{library} cannot be imported: {last[0]}; reinstall it: pip install --force-reinstall {library}"
        )
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    write_memory(file, found)
    return found


def natural(names: Iterable[str]) -> list[str]:
    """Sorted with numbers as numbers.

    >>> natural(["resnet101", "resnet18", "resnet50"])
    ['resnet18', 'resnet50', 'resnet101']
    """
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name.lower())])


def matching(pattern: str, names: Iterable[str], library: str) -> list[str]:
    """Names that a wildcard matches, in natural order; a pattern without a tag matches every tag.

    Raises:
        ZooError: it matches none.
    """
    patterns = [pattern] if "." in pattern else [pattern, f"{pattern}.*"]
    names = list(names)
    hits = [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    if not hits:
        bare = pattern.strip("*?")
        raise ZooError(
            f"{library}:{pattern} matches no pretrained model of {library} {versions(library)[library]}"
            f"{did_you_mean(bare, names) or '; check the spelling.'}"
        )
    return natural(hits)
