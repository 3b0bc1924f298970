"""What the shell completes in comma-separated options: the words that are known, after those already written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def proxies(incomplete: str) -> list[str]:
    """Names for ``--proxies``."""
    from selector.proxies import registry

    return _next(incomplete, registry.names())


def tags(ctx: Any, incomplete: str) -> list[str]:
    """Tags of the zoo of this command line."""
    return _next(incomplete, (tag for model in _zoo(ctx) for tag in model.tags))


def models(ctx: Any, incomplete: str) -> list[str]:
    """Names in the zoo of this command line."""
    return _next(incomplete, (model.name for model in _zoo(ctx)))


def _zoo(ctx: Any) -> Iterable[Any]:
    from selector.core.errors import SelectorError
    from selector.zoo import load_zoo

    try:
        return load_zoo(ctx.params.get("zoo")).models
    except SelectorError:
        return ()  # an error would land in the middle of the line that is being written


def _next(incomplete: str, known: Iterable[str]) -> list[str]:
    """The line's words with each that may follow.

    >>> _next("knn,lo", ["knn", "logme", "lda"])
    ['knn,logme']
    """
    done, comma, start = incomplete.rpartition(",")
    taken = {word.strip() for word in done.split(",")}
    return [f"{done}{comma}{word}" for word in sorted(set(known) - taken) if word.startswith(start.strip())]
