"""Which code may run: that of this package's own networks, and what a person trusts on this very call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selector.core.errors import SourceError

if TYPE_CHECKING:
    from selector.zoo.spec import ModelSpec

OWN_FACTORIES = frozenset({f"selector.networks:{name}" for name in ("mnist_cnn", "usps_cnn", "svhn_cnn")})
"""Factories that build a network and do nothing else. A list and no prefix: most functions of this package do other
things, such as importing a file that their argument names."""


def runs_code(source: str, model: str) -> bool:
    """Whether building ``source:model`` runs code that somebody has to trust first.

    >>> runs_code("python", "selector.networks:mnist_cnn"), runs_code("python", "selector.cli.options:load_plugins")
    (False, True)
    """
    return source == "python" and model not in OWN_FACTORIES


def check_trusted(spec: ModelSpec, trusted: bool) -> None:
    """Refuse a model that runs code (``python:``) unless its zoo is trusted; call before any source sees it.

    Args:
        spec: one entry.
        trusted: ``Zoo.trusted``: the shipped zoo, a zoo from a library call, or ``--trust-zoo``.

    Raises:
        SourceError: the entry would run code from a zoo that is not trusted.
    """
    if not trusted and runs_code(spec.source_name, spec.model_id):
        raise SourceError(
            f"{spec.name}: '{spec.source}' runs code, and the zoo or run that names it is not trusted; "
            "read the code, then pass --trust-zoo (trust_zoo=True)."
        )


def check_recipe_trusted(config: Mapping[str, Any], trusted: bool, where: object) -> None:
    """Likewise for the network of a saved model.

    Args:
        config: ``config.json``, with ``source`` and ``recipe``.
        trusted: ``--trust-code``.
        where: the model's folder, for the message.

    Raises:
        SourceError: its recipe names code that is not trusted.
    """
    model = str(config["recipe"].get("model", ""))
    if not trusted and runs_code(str(config["source"]), model):
        raise SourceError(
            f"{where}: this model is built by the python code '{model}', which is not trusted; "
            "pass trust=True (--trust-code on the command line) if you trust it."
        )
