"""ELMo from its published files: ``elmo:path/to/folder`` or ``elmo:org/name`` (hub).

A model is ``options.json`` and ``weights.hdf5`` as bilm-tf and AllenNLP write and read them, also under the
published names (``elmo_2x4096_512_2048cnn_2xhighway_options.json`` and ``…_weights.hdf5``). It reads
words, spelled in characters (bytes); each word has a state from its characters and one from each layer of
LSTMs, which are layers 1, 2 and 3 here. Features are the mean over the layers and the words unless the
zoo says otherwise; fine-tuned, the mix of the layers is learned.

HDF5 files hold arrays, no code; h5py (extra ``elmo``) is needed to load them, not to use a saved model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selector.core.contracts import Encoder
from selector.core.errors import SourceError, WeightsMissing, ZooError, first_line
from selector.core.preprocess import TextPreprocess
from selector.sources import _hub, _weights, source
from selector.sources._text import TextEncoder

if TYPE_CHECKING:
    from torch import nn

    from selector.sources._elmo import ElmoNetwork
    from selector.sources._elmo_options import ElmoOptions
    from selector.zoo import ModelSpec

MAX_LENGTH = 2048
"""Bytes read of a text unless the zoo says otherwise: some 400 words, as many as other models read."""

TOKENS_PER_WORD = 4
"""Bytes to what is one token of other models."""

_OPTIONS, _WEIGHTS = "options.json", "weights.hdf5"
_PUBLISHED = tuple(
    f"elmo_{kind}_"
    for kind in (
        "2x4096_512_2048cnn_2xhighway",
        "2x4096_512_2048cnn_2xhighway_5.5B",
        "2x2048_256_2048cnn_1xhighway",
        "2x1024_128_2048cnn_1xhighway",
    )
)


@dataclass(frozen=True)
class _Files:
    options: _hub.HubFile
    weights: _hub.HubFile | None  # None for a random start


@source("elmo")
class ElmoSource:
    """The ``elmo:`` source."""

    def expand(self, pattern: str) -> list[str]:
        """The reference itself; neither the hub nor folders are listed by a wildcard."""
        if any(char in pattern for char in "*?["):
            raise ZooError(f"elmo:{pattern}: name the model in full; a wildcard cannot list the hub.")
        return [pattern]

    def layers(self, spec: ModelSpec) -> list[str]:
        """Numbers of the layers, the characters' first; empty where the options cannot be read (loading will say why)."""
        try:
            options = _options(spec, _find(spec))
        except SourceError:
            return []
        return [str(i + 1) for i in range(options.lstm.n_layers + 1)]

    def identify(self, spec: ModelSpec) -> dict[str, object]:
        """See ``contracts.Source``."""
        if spec.kwargs:
            raise SourceError(
                f"{spec.name}: kwargs.{next(iter(spec.kwargs))} is not read; the network is what {_OPTIONS} says."
            )
        if spec.text is not None and spec.text.tokenizer is not None:
            raise SourceError(f"{spec.name}: ELMo reads characters and has no tokenizer; leave 'text.tokenizer' out.")
        files = _find(spec)
        return {
            "source": "elmo",
            "weights": _weights.RANDOM_START if files.weights is None else files.weights.content,
            "options": files.options.content,
            **_weights.settings_identity(spec),
            "versions": _weights.versions("tokenizers", "torch"),
        }

    def load(self, spec: ModelSpec) -> Encoder:
        """See ``contracts.Source``."""
        from selector.sources._bounded import bounded_settings
        from selector.sources._elmo import ElmoNetwork, load_weights
        from selector.sources._encoder import seeded

        identity = self.identify(spec)
        files = _find(spec)
        options = _options(spec, files)
        weights = [] if files.weights is None else [_hub.fetch(files.weights, spec.name)]
        try:
            with seeded(), bounded_settings(spec.name, {_OPTIONS: options}, *weights):
                network = ElmoNetwork(options, options.lstm.n_layers + 1)
        except (RuntimeError, MemoryError) as error:
            raise SourceError(
                f"{spec.name}: a network as {_OPTIONS} says cannot be built: {first_line(error)}"
            ) from error
        for path in weights:
            load_weights(network.backbone, options, path, spec.name)
        return ElmoEncoder(spec, network, identity, _preprocess(spec, options), ("mean", "first"))

    def build(self, recipe: Mapping[str, object]) -> nn.Module:
        """See ``contracts.Source``."""
        from selector.sources._elmo import build_headed

        return build_headed(recipe)


class ElmoEncoder(TextEncoder):
    """ELMo as an encoder of texts or words; see ``TextEncoder``."""

    module: ElmoNetwork

    def describe(self) -> dict[str, object]:
        """See ``TextEncoder``."""
        options = self.module.options.model_dump(mode="json")
        depth = self.path.depth(self.module.depth)
        return {"source": "elmo", "model": "elmo", "options": options, "depth": depth}


def _preprocess(spec: ModelSpec, options: ElmoOptions) -> TextPreprocess:
    from selector.sources._elmo import tokenizer_json

    changes = {} if spec.text is None else spec.text.changes()
    words = bool(changes.get("words"))
    made = TextPreprocess(tokenizer_json(words=words), max_length=MAX_LENGTH, tokens_per_word=TOKENS_PER_WORD)
    made = replace(made, **changes)
    # windows share an eighth of their length, and a word must lie whole in the half of it that is read in one of them
    fewest = 16 * options.char_cnn.max_characters_per_token
    if (words or made.long_texts == "window") and made.max_length < fewest:
        raise SourceError(
            f"{spec.name}: text.max_length {made.max_length} counts bytes and would cut words in two at the edges of "
            f"windows; give {fewest} or more."
        )
    return made


def _options(spec: ModelSpec, files: _Files) -> ElmoOptions:
    from selector.sources._elmo_options import read_json, read_options

    path = _hub.fetch(files.options, spec.name)
    return read_options(read_json(path, spec.name), f"{spec.name}: {path}")


# ---------------------------------------------------------------------------- files


def _find(spec: ModelSpec) -> _Files:
    """Where the two files are: beside a weights file, in a folder, or in the hub's cache.

    Raises:
        WeightsMissing: they are not on this machine and may not or cannot be fetched.
        SourceError: the folder is no model of ELMo.
    """
    if spec.weights is not None and spec.weights != "none":
        path = spec.weights.path()
        beside = [path.with_name(f"{path.name.removesuffix(_WEIGHTS)}{_OPTIONS}"), path.with_name(_OPTIONS)]
        options = next((file for file in beside if file.is_file()), None)
        if options is None:
            raise WeightsMissing(f"{spec.name}: weights file {path} needs its {_OPTIONS} beside it.")
        return _Files(_local(options), _local(path))
    folder = Path(spec.base or ".") / spec.model_id
    if folder.is_dir():
        weights = None if spec.weights == "none" else _local(_only(spec, folder, ".hdf5", _WEIGHTS))
        return _Files(_local(_only(spec, folder, _OPTIONS, _OPTIONS)), weights)
    if spec.model_id.startswith((".", "/")):
        raise WeightsMissing(
            f"{spec.name}: there is no folder {folder}; give one with {_OPTIONS} and {_WEIGHTS} in it."
        )
    repo, revision = _hub.split_revision(spec.model_id)
    options_file = _hub.find(repo, _names(_OPTIONS), revision, spec.name)
    if spec.weights == "none":
        return _Files(options_file, None)
    prefix = options_file.filename.removesuffix(_OPTIONS)
    names = (f"{prefix}{_WEIGHTS}", *(("model.hdf5",) if not prefix else ()))
    return _Files(options_file, _hub.find(repo, names, revision, spec.name))


def _names(ending: str) -> tuple[str, ...]:
    return (ending, *(f"{prefix}{ending}" for prefix in _PUBLISHED))


def _only(spec: ModelSpec, folder: Path, ending: str, usual: str) -> Path:
    if (folder / usual).is_file():
        return folder / usual
    found = sorted(path for path in folder.iterdir() if path.name.endswith(ending) and path.is_file())
    if not found:
        raise WeightsMissing(
            f"{spec.name}: folder {folder} has no {usual}; expected the published files of an ELMo ({_OPTIONS} and "
            f"{_WEIGHTS}, whatever stands before these names)."
        )
    if len(found) > 1:
        raise SourceError(
            f"{spec.name}: folder {folder} has several files *{ending} ({found[0].name}, {found[1].name}); keep each model "
            f"in a folder of its own, or name one with 'weights: {{file: ...}}'."
        )
    return found[0]


def _local(path: Path) -> _hub.HubFile:
    return _hub.HubFile("", path.name, None, _weights.content_hash(path), path)
