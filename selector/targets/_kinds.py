"""The registry of the room and what each file in it provides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from selector.registry import Registry
from selector.targets._build import Draft
from selector.targets._hashing import Trust


@dataclass(frozen=True)
class Options:
    """How a target is read; ``image_column`` and ``label_column`` only concern tables."""

    name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    trust: Trust = "stat"


@dataclass(frozen=True)
class Kind:
    """One kind of input: does it take this object, and what does it find there?

    ``accepts`` of different kinds exclude each other, and neither of them may import a heavy
    library for an object that is not theirs.
    """

    description: str
    accepts: Callable[[Any], bool]
    read: Callable[[Any, Options], Draft]


KINDS: Registry[Kind] = Registry("selector.targets", "kind of target")
