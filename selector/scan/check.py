"""Whether the models of a zoo can be used on this machine, without building them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from selector import sources
from selector.core.errors import SourceError
from selector.scan import choose_models
from selector.zoo import Zoo, check_trusted


@dataclass(frozen=True)
class Usable:
    """One model: ``reason`` says what is missing and what to do about it."""

    name: str
    source: str
    usable: bool
    reason: str = ""


def check_zoo(
    zoo: str | os.PathLike[str] | Zoo | None = None,
    *,
    models: str | Sequence[str] | None = None,
    tags: str | Sequence[str] | None = None,
    trust_zoo: bool = False,
) -> list[Usable]:
    """Expand the zoo and look for the weights of each of its models.

    Raises:
        ZooError: the file is wrong or nothing matches.
    """
    specs, trusted = choose_models(zoo, models, tags, trust_zoo=trust_zoo)
    found = []
    for spec in specs:
        try:
            check_trusted(spec, trusted)
            sources.registry.get(spec.source_name).identify(spec)
        except SourceError as error:
            found.append(Usable(spec.name, spec.source, False, str(error)))
        else:
            found.append(Usable(spec.name, spec.source, True))
    return found
