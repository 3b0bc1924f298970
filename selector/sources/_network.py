"""How one source builds one architecture: what the torch sources fill in, and nothing else. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.errors import SourceError, first_line

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def running(name: str, size: Sequence[int] = ()) -> Iterator[None]:
    """Whatever goes wrong in a forward pass on a test item is this model's ``SourceError``; texts have no size."""
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # a factory's code and onnxruntime raise anything
        item = f"an input of {'x'.join(map(str, size))}" if size else "a text"
        raise SourceError(f"{name}: the network does not run on {item}: {first_line(error)}") from error


@dataclass(frozen=True)
class Network(ABC):
    """An architecture without weights.

    Attributes:
        model: the source's name for it.
        kwargs: settings of the factory, plain JSON.
    """

    model: str
    kwargs: Mapping[str, Any]

    source: ClassVar[str]

    @abstractmethod
    def create(self, num_classes: int | None) -> nn.Module:
        """Build it, with a head of that width, or as in ``kwargs`` for None."""

    def classifier(self, module: nn.Module) -> str:
        """Dotted name of the final linear layer; empty when there is none."""
        from torch.nn import Linear

        get = getattr(module, "get_classifier", None)
        layer = get() if callable(get) else None
        if not isinstance(layer, Linear):
            return ""
        return next((name for name, candidate in module.named_modules() if candidate is layer), "")

    def head_names(self, module: nn.Module) -> tuple[str, ...]:
        """Dotted names of all that ``get_classifier`` gives: some networks have two heads, some no linear one."""
        get = getattr(module, "get_classifier", None)
        found = get() if callable(get) else ()
        heads = {id(head) for head in (found if isinstance(found, list | tuple) else (found,))}
        return tuple(name for name, candidate in module.named_modules() if id(candidate) in heads)

    def block_names(self, module: nn.Module) -> list[str]:
        """Candidates for ``Encoder.blocks``, in any order."""
        from selector.sources._blocks import blocks_by_structure

        return blocks_by_structure(module, self.classifier(module))

    def resized(self, module: nn.Module, size: tuple[int, int]) -> tuple[nn.Module, Network]:
        """The network for inputs of (height, width), weights carried over; ``module`` itself stays as it is."""
        return module, self

    def describe(self) -> dict[str, object]:
        """Plain JSON that ``build`` of the source understands."""
        return {"source": self.source, "model": self.model, "kwargs": dict(self.kwargs)}
