"""Where the manual is published: the one place that knows the address."""

from __future__ import annotations

SITE = "https://zoo-selector.github.io/zoo-selector/"


def page(name: str) -> str:
    """Return the address of a page of the manual.

    Args:
        name: its path in ``docs/`` without an ending, with an anchor where there is one.

    >>> page("explanation/uncertainty")
    'https://zoo-selector.github.io/zoo-selector/explanation/uncertainty.html'
    >>> page("reference/caveats#caveat-no-signal")
    'https://zoo-selector.github.io/zoo-selector/reference/caveats.html#caveat-no-signal'
    """
    path, mark, anchor = name.partition("#")
    return f"{SITE}{path}.html{mark}{anchor}"
