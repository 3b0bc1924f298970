"""The files of a text model in the Hugging Face layout. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.core.documents import LONGEST, read_json
from selector.core.errors import SourceError, WeightsMissing
from selector.core.input_files import check_status
from selector.sources import _hub, _weights

if TYPE_CHECKING:
    from selector.zoo import ModelSpec

CONFIG, WEIGHTS, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"

_FORMS = ((WEIGHTS, f"{WEIGHTS}.index.json"), (PICKLED, f"{PICKLED}.index.json"))
"""(weights, or the list of their parts), the preferred form first; pickles are read as tensors only."""

_FILES = [name for form in _FORMS for name in form]

TOKENIZERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
)
"""Files of which a tokenizer has at least one."""

_SETTINGS = (
    CONFIG,
    *TOKENIZERS,
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "preprocessor_config.json",
)  # what decides the features, beside the weights


@dataclass(frozen=True)
class ModelFiles:
    """Attributes:
    folder: where the small files lie; None for a network that is described in the zoo alone.
    weights: their files with the hash of the content; empty for a random start.
    """

    folder: Path | None
    weights: tuple[_hub.HubFile, ...] = ()

    def identity(self) -> dict[str, object]:
        """Content hashes, by what they are of."""
        weights = "+".join(file.content for file in self.weights) if self.weights else _weights.RANDOM_START
        found: dict[str, object] = {"weights": weights}
        if self.folder is not None:
            paths = {name: self.folder / name for name in _SETTINGS if (self.folder / name).is_file()}
            for path in paths.values():
                check_status(path.stat(), path, LONGEST)
            found["files"] = {name: _weights.content_hash(path) for name, path in paths.items()}
        return found

    def read(self, name: str) -> dict[str, Any]:
        """A JSON object among the small files; empty when there is none.

        Raises:
            SourceError: it is damaged.
        """
        if self.folder is None or not (self.folder / name).is_file():
            return {}
        try:
            data = read_json(self.folder / name)
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.folder / name} cannot be read: {error}") from None
        return data if isinstance(data, dict) else {"list": data}

    @property
    def pickled(self) -> bool:
        """Whether the weights are in a format that could hold code, and must be read as tensors only."""
        return any(not file.filename.endswith(".safetensors") for file in self.weights)

    def fetched(self, model: str) -> list[Path]:
        """The weights on this machine."""
        return [_hub.fetch(file, model) for file in self.weights]


def find_files(spec: ModelSpec) -> ModelFiles:
    """Where a model's files are: beside a weights file, in a local folder, or in the hub's cache.

    Raises:
        WeightsMissing: they are not on this machine and may not or cannot be fetched.
        SourceError: the folder is no model.
    """
    if spec.weights == "none" and "model_type" in spec.kwargs:
        return ModelFiles(None)
    if spec.weights is not None and spec.weights != "none":
        path = spec.weights.path()
        if path.name not in _FILES:
            raise SourceError(f"{spec.name}: weights file {path} must be called {WEIGHTS}, with {CONFIG} beside it.")
        return _local(spec, path.parent)
    folder = Path(spec.base or ".") / spec.model_id
    if folder.is_dir():
        return _local(spec, folder)
    if spec.model_id.startswith((".", "/")):
        raise WeightsMissing(f"{spec.name}: there is no folder {folder}; give one with {CONFIG} and {WEIGHTS} in it.")
    return _hub_files(spec)


def _local(spec: ModelSpec, folder: Path) -> ModelFiles:
    if not (folder / CONFIG).is_file():
        raise SourceError(
            f"{spec.name}: folder {folder} has no {CONFIG}; expected a model in the Hugging Face layout "
            f"({CONFIG}, {WEIGHTS} and a tokenizer), as save_pretrained writes it."
        )
    if spec.weights == "none":
        return ModelFiles(folder)
    first = next((name for name in _FILES if (folder / name).is_file()), None)
    if first is None:
        raise WeightsMissing(f"{spec.name}: folder {folder} has no {WEIGHTS}, and no {_FORMS[1][0]} either.")
    names = _shards(spec, folder / first)
    for name in names:
        if not (folder / name).is_file():
            raise WeightsMissing(f"{spec.name}: {folder / first} names {name}, which is not beside it.")
    return ModelFiles(
        folder,
        tuple(_hub.HubFile("", name, None, _weights.content_hash(folder / name), folder / name) for name in names),
    )


def _shards(spec: ModelSpec, index: Path) -> list[str]:
    """The files that an index names; a file of weights is its own only part."""
    if index.suffix != ".json":
        return [index.name]
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise SourceError(f"{spec.name}: {index} cannot be read: {error}") from None
    if any(Path(name).name != name for name in names):
        raise SourceError(f"{spec.name}: {index} names files outside its folder; they are not read.")
    return names


def _hub_files(spec: ModelSpec) -> ModelFiles:
    repo, revision = _hub.split_revision(spec.model_id)
    folder = _hub.snapshot(repo, _SETTINGS, revision, spec.name)
    if spec.weights == "none":
        return ModelFiles(folder)
    first = _hub.find(repo, _FILES, revision, spec.name)
    if not first.filename.endswith(".json"):
        return ModelFiles(folder, (first,))
    names = _shards(spec, _hub.fetch(first, spec.name))
    return ModelFiles(folder, tuple(_hub.find(repo, [name], revision, spec.name) for name in names))
