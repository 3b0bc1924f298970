"""Any torch module: ``python:package.module:factory``.

The factory is called with the spec's ``kwargs`` and returns a module. Features are
``forward_head(forward_features(x), pre_logits=True)`` where it has timm's interface, else the input of
its last linear layer when that layer makes its output, else its output, pooled to (B, D). Optional attributes of the module: ``preprocess`` (a mapping of fields
of ``contracts.Preprocess``), ``get_classifier()`` and ``reset_classifier(n)`` (a linear head),
``num_prefix_tokens``.

With ``modality: text`` the module is called with token ids and mask (R, T) and gives states
(R, T, D), or a list of them, one a layer: see ``_text.PythonTextEncoder``.

The hash of the factory's own source file is in the identity of the features; a factory that
imports its network from elsewhere, or fetches weights itself, should say which in ``kwargs``.

Importing the factory runs code, so a zoo file has to be trusted first:
``selector.zoo.check_trusted``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, ZooError, did_you_mean
from selector.core.preprocess import Preprocess
from selector.sources import _weights, source
from selector.sources._last_linear import WithLastLinear, encoder_of
from selector.zoo.trust import OWN_FACTORIES

if TYPE_CHECKING:
    from torch import nn

    from selector.zoo import ModelSpec

REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<factory>[A-Za-z_]\w*)")
"""How a factory is written."""


@source("python")
class PythonSource:
    """The ``python:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The reference itself; code cannot be listed by a wildcard."""
        if not REFERENCE.fullmatch(pattern):
            raise ZooError(f"python:{pattern}: expected package.module:factory, in full and without a wildcard.")
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``. A hash of the module's source file stands for the code."""
        module, _ = split(spec.model_id, spec.name)
        if spec.weights == "none":
            weights = _weights.RANDOM_START
        elif spec.weights is not None:
            weights = _weights.content_hash(spec.weights.path())
        else:
            weights = "factory"
        return {
            "source": "python",
            "model": spec.model_id,
            "weights": weights,
            "code": _weights.content_hash(source_file(module, spec.name)),
            "head": "taken off",  # what older versions extracted may be logits
            **_weights.settings_identity(spec),
            "versions": _weights.versions("torch"),
        }

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        from selector.sources._encoder import run_quietly

        identity = self.identify(spec)
        network = PythonNetwork(spec.model_id, spec.kwargs)
        settings = spec.kwargs if spec.model_id in OWN_FACTORIES else {}  # those of other factories are trusted
        module = run_quietly(lambda: network.create(None), spec, f"{spec.model_id} failed", settings)
        if spec.weights is not None and spec.weights != "none":
            path = spec.weights.path()
            state = _weights.read_state_dict(path)
            _weights.load_into(module, state, spec.weights.mapping, f"{spec.name}: {path}", "")
        return _READERS[spec.reads](spec, network, module, identity)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``. Imports the factory: only for recipes from a trusted place."""
        network = PythonNetwork(recipe["model"], recipe["kwargs"])
        if recipe.get("reads") == "text":
            from selector.sources._text import build_embedder

            return build_embedder(network, recipe)
        from selector.sources._encoder import build_headed

        return build_headed(network, recipe)


def _image_encoder(spec: ModelSpec, network: PythonNetwork, module: nn.Module, identity: dict[str, object]) -> Encoder:
    own = getattr(module, "preprocess", None)
    try:
        preprocess = Preprocess().overridden(own if isinstance(own, Mapping) else {})
    except TypeError as error:
        raise SourceError(f"{spec.name}: attribute 'preprocess' of the module is wrong: {error}") from None
    preprocess = preprocess.overridden(spec.preprocess.changes())
    return encoder_of(spec, network, module, preprocess, identity)


def _text_encoder(spec: ModelSpec, network: PythonNetwork, module: nn.Module, identity: dict[str, object]) -> Encoder:
    from selector.sources._text import PythonTextEncoder

    return PythonTextEncoder(spec, module, identity)


_READERS = {"image": _image_encoder, "text": _text_encoder}
"""How the networks of a modality are fed and read."""


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


def _factory(reference: str, name: str) -> Callable[..., object]:
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
        return self.with_classes(module, num_classes)
