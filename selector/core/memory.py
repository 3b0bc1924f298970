"""What is remembered between runs to save time: JSON objects in the cache folder, which may be lost or damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selector.core.atomic import write_atomic

log = logging.getLogger(__name__)


def read_memory(file: Path) -> dict[str, Any]:
    """A remembered JSON object; empty when there is none or it is damaged (it is only a memory)."""
    try:
        memory = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s is unreadable and will be written again: %s", file, error)
        return {}
    return memory if isinstance(memory, dict) else {}


def write_memory(file: Path, memory: Mapping[str, Any]) -> bool:
    """Remember a JSON object; whether it was written: a folder that cannot be only costs time later."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(memory, separators=(",", ":")).encode())
    except OSError as error:
        log.debug("%s could not be written: %s", file, error)
        return False
    return True
