"""Licenses of weights by class: what ``--license permissive`` lets through.

Names are SPDX identifiers in lower case, as zoo files and the hub write them. The classes say what
a license text allows; whether that holds for a use is for its reader to decide.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

from selector.core.errors import ConfigError, did_you_mean

PERMISSIVE = frozenset(
    {
        *("0bsd", "afl-3.0", "apache-2.0", "artistic-2.0", "blueoak-1.0.0", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-pddc", "cc0-1.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "ecl-2.0", "isc", "mit", "mit-0", "ms-pl", "ncsa", "odc-by"),
        *("odc-by-1.0", "ofl-1.1", "pddl", "pddl-1.0", "postgresql", "psf-2.0", "unlicense", "upl-1.0", "wtfpl"),
        *("zlib", "cc0"),
    }
)
"""Use, change and resale for the price of a notice at most."""

COPYLEFT = frozenset(
    {
        *("agpl-3.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cdla-sharing-1.0", "epl-2.0", "eupl-1.2", "gpl-2.0", "gpl-3.0"),
        *("lgpl-2.1", "lgpl-3.0", "mpl-2.0", "odbl", "odbl-1.0"),
    }
)
"""Commercial use is free, but works made from it have to be passed on under the same terms."""

CLASSES = {"permissive": PERMISSIVE, "copyleft": COPYLEFT}
"""What ``--license`` takes beside names: everything else (non-commercial licenses, model licenses
with terms of use, ``other``) is in no class and has to be named."""


def normal(license: str) -> str:
    """One spelling of a name.

    >>> normal(" Apache-2.0 "), normal("GPL-3.0-or-later"), normal("CC-BY-4.0")
    ('apache-2.0', 'gpl-3.0', 'cc-by-4.0')
    """
    return re.sub(r"-(only|or-later)$", "", license.strip().lower())


def allows(wanted: Sequence[str], license: str) -> bool:
    """Whether a license is among those wanted.

    Args:
        wanted: classes, names, or globs on names (``cc-by-*``); any of them will do.
        license: of a model; ``A OR B`` when one of them suffices, ``A AND B`` when both apply.

    >>> allows(["permissive"], "MIT"), allows(["permissive"], "cc-by-nc-4.0"), allows(["cc-by-*"], "cc-by-nc-4.0")
    (True, False, True)
    >>> allows(["permissive"], "mit OR gpl-3.0"), allows(["permissive"], "mit AND gpl-3.0")
    (True, False)
    """
    return any(
        all(any(_is(word, part) for word in wanted) for part in re.split(r"\s+and\s+", choice, flags=re.IGNORECASE))
        for choice in re.split(r"\s+or\s+", license, flags=re.IGNORECASE)
    )


def check(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Refuse words that are no class, no name and no glob that fits anything.

    Args:
        wanted: what a person asked for.
        known: the licenses of the models at hand, which need not be SPDX names.
    Raises:
        ConfigError: with what it may have meant.
    """
    names = {*CLASSES, *PERMISSIVE, *COPYLEFT, *(normal(name) for name in known)}
    for word in wanted:
        if not any(_is(word, name) or normal(word) == name for name in names):
            raise ConfigError(
                f"license '{word}' is no class ({', '.join(CLASSES)}), no known license and none that a selected model "
                f"has{did_you_mean(normal(word), names) or '; selector zoo list shows the licenses of the zoo.'}"
            )


def _is(word: str, license: str) -> bool:
    word, license = normal(word), normal(license)
    return license in CLASSES[word] if word in CLASSES else fnmatch.fnmatchcase(license, word)
