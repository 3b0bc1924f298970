"""Networks of texts made by a factory: whatever reads tokens and gives a row per token (ELMo, word vectors)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from selector.core.contracts import TextPreprocess
from selector.core.errors import SourceError
from selector.modalities.text import Tokens
from selector.sources._encoder import seeded
from selector.sources._text import MAX_LENGTH, TextEncoder, probe_tokens, read_tokenizer, running
from selector.sources._text_module import TextModule
from selector.sources._text_path import TextPath

if TYPE_CHECKING:
    from selector.sources._network import Network
    from selector.zoo import ModelSpec


class Embedder(TextModule):
    """A factory's module, called with (ids, mask), both int64 (R, T): states (R, T, D), or a list of them, one a layer."""

    def layers(self, tokens: Tokens, ways: Sequence[TextPath], wanted: set[str]) -> list[list[Tensor]]:
        """See ``TextModule``."""
        return [[way.pool(states, tokens) for way in ways] for states in self.states(tokens)]

    def states(self, tokens: Tokens) -> list[Tensor]:
        """(R, T, D) of each layer."""
        states = self.backbone(tokens.ids, tokens.mask)
        return list(states) if isinstance(states, list | tuple) else [states]


class PythonTextEncoder(TextEncoder):
    """A text encoder around a factory's module.

    Attributes of the module that are read: ``tokenizer`` (JSON of the ``tokenizers`` library, unless the
    zoo names one), ``blocks`` (names of its layers, for partial fine-tuning), ``max_length``.

    Raises:
        SourceError: as for ``TextEncoder``; no tokenizer, or the module does not give states (R, T, D).
    """

    def __init__(self, spec: ModelSpec, module: nn.Module, identity: dict[str, Any]) -> None:
        changes: dict[str, Any] = {"max_length": int(getattr(module, "max_length", MAX_LENGTH))}
        changes |= {} if spec.text is None else spec.text.changes()
        preprocess = TextPreprocess(tokenizer=_tokenizer(spec, module), **changes)
        self._model, self._kwargs = spec.model_id, dict(spec.kwargs)
        embedder = Embedder(module).eval()
        with running(spec):
            embedder.depth = len(embedder.states(probe_tokens(preprocess)))
        # a factory's network may read from left to right: the mean is right for either
        super().__init__(spec, embedder, identity, preprocess, ("mean", "mean"))

    def read_parts(self) -> tuple[list[str], int]:
        """All of it: which of its parts decide a layer, only the module knows."""
        module = self.module.backbone
        return list(getattr(module, "blocks", ())), sum(p.numel() for p in module.parameters())

    def describe(self) -> dict[str, Any]:
        """See ``TextEncoder``."""
        return {"source": "python", "model": self._model, "kwargs": self._kwargs, "reads": "text"}


def build_embedder(network: Network, recipe: Mapping[str, Any]) -> Embedder:
    """The module that a recipe describes, in eval mode, from the seeded random start."""
    with seeded():
        return Embedder(
            network.create(None), TextPath(**recipe["path"]), int(recipe["features"]), int(recipe["outputs"])
        ).eval()


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
