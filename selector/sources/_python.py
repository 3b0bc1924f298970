"""What a factory makes: importing it, calling it. No torch before the factory is called."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.errors import SourceError, did_you_mean
from selector.sources._last_linear import WithLastLinear

if TYPE_CHECKING:
    from torch import nn

REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<factory>[A-Za-z_]\w*)")
"""How a factory is written."""


def split(reference: str, name: str) -> tuple[str, str]:
    """Module and factory."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise SourceError(
            f"{name}: a python model is written 'python:package.module:factory'; got 'python:{reference}'."
        )
    return match["module"], match["factory"]


def source_file(module: str, name: str) -> Path:
    """Where the code of a module is."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        raise SourceError(
            f"{name}: there is no python module '{module}'; install it, or run where it can be imported (PYTHONPATH)."
        )
    return Path(found.origin)


def _factory(reference: str, name: str) -> Callable[..., Any]:
    module_name, factory_name = split(reference, name)
    source_file(module_name, name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise SourceError(f"{name}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        known = [n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))]
        raise SourceError(
            f"{name}: {module_name} has no factory '{factory_name}'{did_you_mean(factory_name, known) or '.'}"
        )
    return factory  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PythonNetwork(WithLastLinear):
    """What a factory makes."""

    source: ClassVar[str] = "python"

    def create(self, num_classes: int | None) -> nn.Module:
        """Call the factory; another width of the head through ``reset_classifier``, else of its last linear layer."""
        from torch.nn import Module

        module = _factory(self.model, f"python:{self.model}")(**self.kwargs)
        if not isinstance(module, Module):
            raise SourceError(f"python:{self.model}: expected a torch module, got {type(module).__name__}.")
        if num_classes is None:
            return module
        changed = self.with_classes(module, num_classes)
        if changed is None:
            raise SourceError(
                f"python:{self.model}: the module has neither reset_classifier nor a linear layer to replace"
            )
        return changed
