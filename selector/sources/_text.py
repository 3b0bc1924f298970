"""Texts and words, whatever the source: where features are read off a network, and the encoder around a torch module.

A source says how its network is built and how it is described in a saved model; everything else of a text
encoder is here. torch is imported by what a source builds, not by this module.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast, get_args

from selector.core.contracts import Encoder, Words
from selector.core.documents import LONGEST
from selector.core.errors import SourceError
from selector.core.input_files import read_file
from selector.core.preprocess import TextPreprocess
from selector.modalities.text import TextTokenizer, Tokens
from selector.modalities.tokens.tokenizer import parse_tokenizer
from selector.sources._network import Network, running
from selector.sources._text_path import LAST, MEAN, WORD_POOLINGS, TextPath, TextPooling
from selector.sources._weights import identity_at

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selector.sources._text_module import Embedder, TextModule
    from selector.zoo import ModelSpec


MAX_LENGTH = 512
"""Tokens read of a text when neither the zoo nor the model says less: attention costs the square of it."""

_ELSEWHERE = {"avg": "images", "first": "words"}
"""Poolings that are not over the tokens of a text, and what they are for."""

_PROBE = ("The quick brown fox jumps over the lazy dog.", "A second text.")


class TextEncoder(Encoder):
    """A torch module that reads texts or words: its features, its variants, its heads.

    A source extends it by ``describe``.

    Args:
        spec: the zoo entry; ``layer`` and ``pooling`` say where features are read.
        usual: (pooling of a whole text, pooling of a word) where the entry says nothing.
        own: the path that the model itself asks for, where it has one.

    Raises:
        SourceError: no such layer or pooling, a network that does not run on a text, features that are not finite.
    """

    module: TextModule
    preprocess: TextPreprocess
    path: TextPath

    def __init__(
        self,
        spec: ModelSpec,
        module: TextModule,
        identity: dict[str, object],
        preprocess: TextPreprocess,
        usual: tuple[TextPooling, TextPooling],
        own: TextPath | None = None,
    ) -> None:
        import torch

        self.name = spec.name
        self.identity = identity
        self.preprocess = preprocess
        self.module = module.eval()
        self._usual, self._own = usual[bool(preprocess.words)], None if preprocess.words else own
        self._probe = probe_tokens(preprocess)
        with running(spec.name):
            self.path = self._path_of(spec)
            with torch.no_grad():
                features = self.encode(self._probe)
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            found = "they hold NaN or infinity" if features.ndim == 2 else f"their shape is {tuple(features.shape)}"
            raise SourceError(
                f"{spec.name}: features of a test text are not finite (2, D): {found}; the weights may be damaged."
            )
        self.num_features = int(features.shape[1])
        self._take_what_is_read()

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """``source`` and what its ``build`` needs beside path, features and outputs: plain JSON."""

    def read_parts(self) -> tuple[list[str], int]:
        """Names within ``backbone`` of the blocks up to the layer that is read, and the parameters so far: what lies
        behind decides nothing."""
        names = list(self.module.blocks)
        depth = self.path.depth(len(names))
        behind = [self.module.backbone.get_submodule(name) for name in names[depth:]]
        unread = sum(p.numel() for block in behind for p in block.parameters())
        return names[:depth], sum(p.numel() for p in self.module.backbone.parameters()) - unread

    def _take_what_is_read(self) -> None:
        names, self.num_parameters = self.read_parts()
        self.blocks = tuple(f"backbone.{name}" for name in names)

    def _path_of(self, spec: ModelSpec) -> TextPath:
        own = self._own
        if own is not None and spec.pooling in (None, own.pooling) and spec.layer in (None, own.layer):
            return own
        pooling = pooling_of(spec, self.preprocess, own.pooling if own is not None else self._usual)
        layer = spec.layer or (MEAN if own is None else LAST)
        require_layer(spec.name, layer, self.module.depth)
        return TextPath(layer, pooling)

    def probe(self) -> Tokens:
        """See ``contracts.Encoder``."""
        return self._probe

    def encode(self, batch: Tokens) -> Tensor:
        """Features (B, D)."""
        return self.module.read(batch, [self.path])[0]

    def variant(self, spec: ModelSpec) -> TextEncoder:
        """See ``contracts.Encoder``."""
        other = copy.copy(self)
        other.name = spec.name
        other.identity = identity_at(self.identity, spec)
        other.path = self._path_of(spec)
        other._take_what_is_read()
        return other

    def encode_variants(self, batch: Tokens, variants: Sequence[Encoder]) -> list[Tensor]:
        """See ``contracts.Encoder``."""
        return self.module.read(batch, [cast(TextEncoder, variant).path for variant in variants])

    def with_head(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> TextModule:
        """A fresh module Tokens -> (B, num_outputs), in eval mode; see ``contracts.Encoder``."""
        from selector.sources import registry

        recipe = self.recipe(num_outputs, input_size)
        headed: Any = registry.get(str(recipe["source"])).build(recipe)
        state = self.module.backbone.state_dict()
        headed.backbone.load_state_dict({name: state[name] for name in headed.backbone.state_dict()})
        return cast("TextModule", headed)

    def recipe(self, num_outputs: int, input_size: tuple[int, int] | None = None) -> dict[str, object]:
        """Plain JSON for ``build`` of the same source."""
        if input_size is not None:
            raise SourceError(f"{self.name}: a text model has no image size; leave 'resolution' out.")
        recipe = {**self.describe(), "path": asdict(self.path), "features": self.num_features, "outputs": num_outputs}
        plain: dict[str, object] = json.loads(json.dumps(recipe))
        return plain


def pooling_of(spec: ModelSpec, preprocess: TextPreprocess, usual: TextPooling) -> TextPooling:
    """How the tokens of a text, or of a word, become its row: what the spec says, else what is usual for the network.

    Raises:
        SourceError: a pooling of images, of whole texts for words, or of words for texts.
    """
    pooling = cast(TextPooling, spec.pooling or usual)
    if preprocess.words and pooling not in WORD_POOLINGS:
        raise SourceError(
            f"{spec.name}: pooling '{pooling}' is over whole texts; words take {' or '.join(WORD_POOLINGS)}."
        )
    if not preprocess.words and pooling in _ELSEWHERE:
        known = ", ".join(sorted({*get_args(TextPooling)} - {*_ELSEWHERE}))
        raise SourceError(f"{spec.name}: pooling '{pooling}' is for {_ELSEWHERE[pooling]}; texts take {known}.")
    return pooling


def require_layer(name: str, layer: str, layers: int) -> None:
    """Whether a network of so many layers can be read there.

    Raises:
        SourceError: no such layer.
    """
    if layer not in (MEAN, LAST, *(str(i) for i in range(1, layers + 1))):
        raise SourceError(f"{name}: there is no layer '{layer}'; expected 'mean', 'last' or a number in 1..{layers}.")


def probe_tokens(preprocess: TextPreprocess) -> Tokens:
    """Two texts that every network is tried on."""
    texts = [Words(text.split()) for text in _PROBE] if preprocess.words else _PROBE
    return Tokens.of(TextTokenizer(preprocess)(texts), preprocess.pad_id)


def read_tokenizer(spec: ModelSpec) -> str:
    """The ``tokenizer.json`` that a zoo entry names.

    Raises:
        SourceError: it is not there or not readable.
    """
    assert spec.text is not None
    assert spec.text.tokenizer is not None
    path = spec.text.tokenizer.path()
    try:
        backend = parse_tokenizer(read_file(path, LONGEST).decode("utf-8"))
    except (OSError, ValueError, SourceError) as error:
        raise SourceError(f"{spec.name}: tokenizer {path} cannot be read: {error}") from None
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())


class PythonTextEncoder(TextEncoder):
    """A text encoder around a factory's module.

    Attributes of the module that are read: ``tokenizer`` (JSON of the ``tokenizers`` library, unless the
    zoo names one), ``blocks`` (names of its layers, for partial fine-tuning), ``max_length``.

    Raises:
        SourceError: as for ``TextEncoder``; no tokenizer, or the module does not give states (R, T, D).
    """

    def __init__(self, spec: ModelSpec, module: nn.Module, identity: dict[str, object]) -> None:
        from selector.sources._text_module import Embedder

        changes: dict[str, Any] = {"max_length": int(getattr(module, "max_length", MAX_LENGTH))}
        changes |= {} if spec.text is None else spec.text.changes()
        preprocess = TextPreprocess(tokenizer=_tokenizer(spec, module), **changes)
        self._model, self._kwargs = spec.model_id, dict(spec.kwargs)
        embedder = Embedder(module).eval()
        with running(spec.name):
            embedder.depth = len(embedder.states(probe_tokens(preprocess)))
        # a factory's network may read from left to right: the mean is right for either
        super().__init__(spec, embedder, identity, preprocess, ("mean", "mean"))

    def read_parts(self) -> tuple[list[str], int]:
        """All of it: which of its parts decide a layer, only the module knows."""
        module = self.module.backbone
        return list(getattr(module, "blocks", ())), sum(p.numel() for p in module.parameters())

    def describe(self) -> dict[str, object]:
        """See ``TextEncoder``."""
        return {"source": "python", "model": self._model, "kwargs": self._kwargs, "reads": "text"}


def build_embedder(network: Network, recipe: Mapping[str, Any]) -> Embedder:
    """The module that a recipe describes, in eval mode, from the seeded random start."""
    from selector.sources._encoder import seeded
    from selector.sources._text_module import Embedder

    with seeded():
        return Embedder(
            network.create(None), TextPath(**recipe["path"]), int(recipe["features"]), int(recipe["outputs"])
        ).eval()


def _tokenizer(spec: ModelSpec, module: nn.Module) -> str:
    if spec.text is not None and spec.text.tokenizer is not None:
        return read_tokenizer(spec)
    own: Sequence[object] | None = getattr(module, "tokenizer", None)
    if isinstance(own, str):
        return own
    raise SourceError(
        f"{spec.name}: no tokenizer; give the module an attribute 'tokenizer' (JSON of the tokenizers library), or name "
        "a file with 'text: {tokenizer: {file: tokenizer.json}}'."
    )
