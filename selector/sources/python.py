"""Any torch module: ``python:package.module:factory``.

The factory is called with the spec's ``kwargs`` and returns a module. Features are
``forward_head(forward_features(x), pre_logits=True)`` where it has timm's interface, else the input of
its last linear layer when that layer makes its output, else its output, pooled to (B, D). Optional attributes of the module: ``preprocess`` (a mapping of fields
of ``contracts.Preprocess``), ``get_classifier()`` and ``reset_classifier(n)`` (a linear head),
``num_prefix_tokens``.

With ``modality: text`` the module is called with token ids and mask (R, T) and gives states
(R, T, D), or a list of them, one a layer: see ``_python_text.py``.

The hash of the factory's own source file is in the identity of the features; a factory that
imports its network from elsewhere, or fetches weights itself, should say which in ``kwargs``.

Importing the factory runs code, so a zoo file has to be trusted first:
``selector.zoo.check_trusted``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selector.core.contracts import Encoder, Preprocess
from selector.core.errors import SourceError, ZooError
from selector.sources import _weights, source
from selector.sources._last_linear import is_timm_like, without_head
from selector.sources._python import REFERENCE, PythonNetwork, source_file, split

if TYPE_CHECKING:
    from torch import nn

    from selector.zoo import ModelSpec


@source("python")
class PythonSource:
    """The ``python:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The reference itself; code cannot be listed by a wildcard."""
        if not REFERENCE.fullmatch(pattern):
            raise ZooError(f"python:{pattern}: expected package.module:factory, in full and without a wildcard.")
        return [pattern]

    def identify(self, spec: ModelSpec) -> dict[str, Any]:
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
        module = run_quietly(lambda: network.create(None), spec, f"{spec.model_id} failed")
        if spec.weights is not None and spec.weights != "none":
            path = spec.weights.path()
            state = _weights.read_state_dict(path)
            _weights.load_into(module, state, spec.weights.mapping, f"{spec.name}: {path}", "")
        return _READERS[spec.reads](spec, network, module, identity)

    def build(self, recipe: Mapping[str, Any]) -> nn.Module:
        """See ``contracts.Source``. Imports the factory: only for recipes from a trusted place."""
        if recipe.get("reads") == "text":
            from selector.sources._python_text import build_embedder

            return build_embedder(recipe)
        from selector.sources._encoder import build_headed

        return build_headed(PythonNetwork(recipe["model"], recipe["kwargs"]), recipe)


def _image_encoder(spec: ModelSpec, network: PythonNetwork, module: nn.Module, identity: dict[str, Any]) -> Encoder:
    from selector.sources._encoder import FeaturePath, make_encoder

    own = getattr(module, "preprocess", None)
    try:
        preprocess = Preprocess().overridden(own if isinstance(own, Mapping) else {})
    except TypeError as error:
        raise SourceError(f"{spec.name}: attribute 'preprocess' of the module is wrong: {error}") from None
    preprocess = preprocess.overridden(spec.preprocess.changes())
    source_head = without_head(spec, network, module, preprocess)
    default = FeaturePath("head" if is_timm_like(module) else "forward")
    return make_encoder(spec, network, module, preprocess, identity, default, source_head)


def _text_encoder(spec: ModelSpec, network: PythonNetwork, module: nn.Module, identity: dict[str, Any]) -> Encoder:
    from selector.sources._python_text import PythonTextEncoder

    return PythonTextEncoder(spec, module, identity)


_READERS = {"image": _image_encoder, "text": _text_encoder}
"""How the networks of a modality are fed and read."""
