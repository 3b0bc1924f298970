"""Embedders of texts made by a factory: whatever reads tokens and gives a row a token (ELMo, word vectors)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from selector.core.contracts import Encoder, TextPreprocess
from selector.core.errors import SourceError
from selector.modalities.text import Tokens
from selector.sources._text import LAST, MEAN, TextPath, first_line, require_layer, text_pooling
from selector.sources._text_files import MAX_LENGTH, probe_tokens, read_tokenizer, word_pooling

if TYPE_CHECKING:
    from selector.zoo import ModelSpec


class Embedder(nn.Module):
    """A factory's module, called with (ids, mask), both int64 (R, T).

    It gives states (R, T, D) or a list of them, one a layer; ``mean``, ``last`` and numbers choose.
    """

    def __init__(self, backbone: nn.Module, path: TextPath, num_features: int = 0, num_outputs: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        self.path = path
        self.selector_head = nn.Linear(num_features, num_outputs) if num_outputs else None

    def features(self, tokens: Tokens) -> Tensor:
        """(B, D)."""
        return self.read(self.states(tokens), tokens)

    def states(self, tokens: Tokens) -> list[Tensor]:
        """(R, T, D) of each layer."""
        states = self.backbone(tokens.ids, tokens.mask)
        return list(states) if isinstance(states, list | tuple) else [states]

    def read(self, layers: Sequence[Tensor], tokens: Tokens) -> Tensor:
        """(B, D) from the states."""
        if self.path.layer == MEAN:
            return torch.stack([self.path.pool(layer, tokens) for layer in layers]).mean(0)
        return self.path.pool(layers[-1 if self.path.layer == LAST else int(self.path.layer) - 1], tokens)

    def forward(self, tokens: Tokens) -> Tensor:
        """Outputs (B, K) of the head."""
        return cast(Tensor, self.get_classifier()(self.features(tokens)))

    def get_classifier(self) -> nn.Linear:
        """The head."""
        assert self.selector_head is not None
        return self.selector_head


class PythonTextEncoder(Encoder):
    """An embedder around a factory's module.

    Attributes of the module that are read: ``tokenizer`` (JSON of the ``tokenizers`` library, unless the
    zoo names one), ``blocks`` (names of its layers, for partial fine-tuning), ``max_length``.

    Raises:
        SourceError: no tokenizer, no such layer or pooling, or the module does not give states (R, T, D).
    """

    module: Embedder
    preprocess: TextPreprocess

    def __init__(self, spec: ModelSpec, module: nn.Module, identity: dict[str, Any]) -> None:
        self.name = spec.name
        self.identity = identity
        tokenizer = _tokenizer(spec, module)
        length = int(getattr(module, "max_length", MAX_LENGTH))
        changes = {"max_length": length} | ({} if spec.text is None else spec.text.changes())
        self.preprocess = TextPreprocess(tokenizer=tokenizer, **changes)
        self._model, self._kwargs = spec.model_id, dict(spec.kwargs)
        # a factory's network may read from left to right: the mean is right for either
        words = self.preprocess.words
        pooling: Any = word_pooling(spec, "mean") if words else text_pooling(spec.name, spec.pooling, "mean")
        self.module = Embedder(module, TextPath(spec.layer or MEAN, pooling)).eval()
        self._probe = probe_tokens(self.preprocess)
        try:
            with torch.no_grad():
                states = self.module.states(self._probe)
                require_layer(spec.name, self.module.path.layer, len(states))
                features = self.module.read(states, self._probe)
        except SourceError:
            raise
        except Exception as error:  # whatever the factory's code raises
            raise SourceError(f"{spec.name}: the module does not run on a text: {first_line(error)}") from error
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise SourceError(
                f"{spec.name}: features of a test text have shape {tuple(features.shape)} or are not finite."
            )
        self.num_features = int(features.shape[1])
        self.num_parameters = sum(p.numel() for p in module.parameters())
        self.blocks = tuple(f"backbone.{name}" for name in getattr(module, "blocks", ()))

    def probe(self) -> Tokens:
        """See ``contracts.Encoder``."""
        return self._probe

    def encode(self, batch: Tokens) -> Tensor:
        """Features (B, D)."""
        return self.module.features(batch)

    def with_head(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> nn.Module:
        """See ``contracts.Encoder``."""
        headed = build_embedder(self.recipe(num_outputs, input_size))
        headed.backbone.load_state_dict(self.module.backbone.state_dict())
        return headed

    def recipe(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> dict[str, Any]:
        """See ``contracts.Encoder``."""
        if input_size is not None:
            raise SourceError(f"{self.name}: a text model has no image size; leave 'resolution' out.")
        recipe: dict[str, Any] = {
            "source": "python",
            "model": self._model,
            "kwargs": self._kwargs,
            "path": asdict(self.module.path),
        }
        recipe |= {"reads": "text", "features": self.num_features, "outputs": num_outputs}
        plain: dict[str, Any] = json.loads(json.dumps(recipe))
        return plain


def build_embedder(recipe: Mapping[str, Any]) -> Embedder:
    """The module that a recipe describes, in eval mode, from the seeded random start."""
    from selector.sources._encoder import seeded
    from selector.sources.python import PythonNetwork

    with seeded():
        module = PythonNetwork(recipe["model"], recipe["kwargs"]).create(None)
        return Embedder(module, TextPath(**recipe["path"]), int(recipe["features"]), int(recipe["outputs"])).eval()


def _tokenizer(spec: ModelSpec, module: nn.Module) -> str:
    if spec.text is not None and spec.text.tokenizer is not None:
        return read_tokenizer(spec)
    own: Sequence[Any] | None = getattr(module, "tokenizer", None)
    if isinstance(own, str):
        return own
    raise SourceError(
        f"{spec.name}: no tokenizer; give the module an attribute 'tokenizer' (JSON of the tokenizers library), or name "
        "a file with 'text: {tokenizer: {file: tokenizer.json}}'."
    )
