"""The version of this package and the address of its manual: the one place that knows them."""

from __future__ import annotations

__version__ = "0.2.0"


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
