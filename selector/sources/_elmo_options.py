"""``options.json`` of a published ELMo. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from selector.core import documents
from selector.core.errors import SourceError, did_you_mean, first_line

_OF_THE_TRAINING = frozenset(
    {
        *("all_clip_norm_val", "batch_size", "bidirectional", "dropout", "learning_rate", "n_epochs", "n_gpus"),
        *("n_negative_samples_batch", "n_tokens_vocab", "n_train_tokens", "sample_softmax", "share_embedding_softmax"),
        "unroll_steps",
    }
)
"""Options that the training writes and that decide nothing here."""


class _StrictOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Width = Annotated[
    int, Field(ge=1, le=65_536)
]  # bounds far beyond any model: options of others must not fill the memory
_Count = Annotated[int, Field(ge=0, le=64)]


class _Embedding(_StrictOptions):
    dim: _Width


class _CharCnn(_StrictOptions):
    activation: Literal["relu", "tanh"]
    filters: tuple[tuple[_Width, _Width], ...] = Field(min_length=1, max_length=64)
    embedding: _Embedding
    n_characters: Literal[261, 262]  # as it was trained, and with the row that masks words out
    max_characters_per_token: int = Field(ge=4, le=1024)
    n_highway: _Count = 0


class _Lstm(_StrictOptions):
    dim: _Width
    projection_dim: _Width
    n_layers: Annotated[_Count, Field(ge=1)] = 1
    cell_clip: PositiveFloat | None = None
    proj_clip: PositiveFloat | None = None
    use_skip_connections: bool


class ElmoOptions(_StrictOptions):
    """``options.json``: ``char_cnn`` and ``lstm``, as bilm-tf and AllenNLP write and read it."""

    char_cnn: _CharCnn
    lstm: _Lstm

    @property
    def num_filters(self) -> int:
        """Channels of all convolutions together."""
        return sum(count for _, count in self.char_cnn.filters)


def read_options(data: object, where: str) -> ElmoOptions:
    """Check what stands in ``options.json``.

    Args:
        data: its content.
        where: the model and the file, for messages.
    Raises:
        SourceError: an option is missing, wrong or unknown; the first one is named.
    """
    if not isinstance(data, dict):
        raise SourceError(f"{where}: expected a mapping with 'lstm' and 'char_cnn', found {type(data).__name__}.")
    if data.get("bidirectional", True) is not True:
        raise SourceError(
            f"{where}: bidirectional is {data['bidirectional']!r}; only models that read both ways are read."
        )
    try:
        options = ElmoOptions.model_validate({k: v for k, v in data.items() if k not in _OF_THE_TRAINING})
    except ValidationError as error:
        raise SourceError(f"{where}: {_first_problem(error, data)}") from None
    widest = max(width for width, _ in options.char_cnn.filters)
    if widest > options.char_cnn.max_characters_per_token:
        raise SourceError(
            f"{where}: char_cnn.filters are up to {widest} characters wide, but a word has at most "
            f"{options.char_cnn.max_characters_per_token} (char_cnn.max_characters_per_token)."
        )
    return options


def _first_problem(error: ValidationError, data: Mapping[str, object]) -> str:
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    if found["type"] == "missing":
        return f"option '{place}' is missing."
    if found["type"] == "extra_forbidden":
        section, _, key = place.rpartition(".")
        model: Any = {"": ElmoOptions, "char_cnn": _CharCnn, "lstm": _Lstm, "char_cnn.embedding": _Embedding}[section]
        known = sorted(model.model_fields)
        return (
            f"unknown option '{place}'{did_you_mean(key, known) or '.'} Known{f' in {section}' if section else ''}: "
            f"{', '.join(known)}."
        )
    return f"option '{place}' is {found['input']!r}: {found['msg'][:1].lower()}{found['msg'][1:]}."


def read_json(path: Path, model: str) -> object:
    """The content of ``options.json``.

    Raises:
        SourceError: it is damaged.
    """
    try:
        return documents.read_json(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{model}: {path} cannot be read: {first_line(error)}") from None
