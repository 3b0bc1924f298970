"""Small JSON files with a checksum, and what is done with a file that is damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash

from selector.core.container import Damaged
from selector.store.files import Layered

logger = logging.getLogger(__name__)


def canonical(value: object) -> bytes:
    """One text for one meaning: sorted keys, no spaces, UTF-8; what keys are digests of.

    >>> canonical({"b": 1, "a": (2, 3)})
    b'{"a":[2,3],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain).encode()


def digest(value: object) -> str:
    """xxh3_128 of the canonical JSON, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical(value))


def write_json(files: Layered, name: str, value: Mapping[str, object]) -> int:
    """Write a document; returns its size in bytes."""
    body = canonical(value)
    content = b'{"checksum":"' + xxhash.xxh3_64_hexdigest(body).encode() + b'","value":' + body + b"}\n"
    return files.write(name, lambda: [content])


def read_json(files: Layered, name: str) -> dict[str, Any] | None:
    """A document, or None if there is none or it was damaged (it is removed, with a warning)."""
    try:
        return parse_json(files.read(name))
    except FileNotFoundError:
        return None
    except Damaged as error:
        discard(files, name, error)
        return None


def parse_json(content: bytes) -> dict[str, object]:
    """The value of a document.

    Raises:
        Damaged: it is not JSON, or its checksum does not match.
    """
    try:
        document = json.loads(content)
        checksum, value = document["checksum"], document["value"]
    except (ValueError, KeyError, TypeError):
        raise Damaged("the file is not a document of the store") from None
    if not isinstance(value, dict) or xxhash.xxh3_64_hexdigest(canonical(value)) != checksum:
        raise Damaged("the checksum does not match")
    return value


def discard(files: Layered, name: str, reason: Exception) -> None:
    """Remove a damaged file, so that what it held counts as missing again."""
    logger.warning("%s in the store %s is damaged (%s); it is removed and made again", name, files.where, reason)
    files.remove(name)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not plain JSON; identities and results hold numbers, texts and lists")
