"""From an item to what an encoder reads: settings, plain and hashable; the work is done in ``modalities``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import xxhash

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
CropMode = Literal["center", "squash", "border"]


@dataclass(frozen=True)
class Preprocess:
    """From a decoded image to the tensor that an encoder reads.

    Attributes:
        input_size: (channels, height, width).
        mean, std: per channel, applied to values in 0..1.
        interpolation: how the image is resized.
        crop_pct: share of the resized image's side that the crop keeps (timm's convention).
        crop_mode: ``center`` (resize the short side, cut the middle), ``squash`` (resize to the
            size without keeping the aspect), ``border`` (resize the long side, pad).
    """

    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"

    modality: ClassVar[str] = "image"

    def pixels_key(self) -> str:
        """The part that decides the uint8 pixels: encoders with an equal key share them."""
        _, height, width = self.input_size
        padding = "-" + "-".join(str(value) for value in self.fill()) if self.crop_mode == "border" else ""
        return f"{height}x{width}-{self.interpolation}-{self.crop_mode}-{self.crop_pct:g}{padding}"

    @property
    def extent(self) -> tuple[int, int]:
        """How large an item is as the network reads it: (height, width)."""
        return self.input_size[1:]

    def fill(self) -> tuple[int, int, int]:
        """RGB of the pixels beyond the image: the mean when a border is padded, as in timm, else black."""
        if self.crop_mode != "border":
            return 0, 0, 0
        values = [round(255 * value) for value in self.mean]
        red, green, blue = values if len(values) == 3 else values[:1] * 3
        return red, green, blue

    def on_canvas(self, size: tuple[int, int]) -> Preprocess:
        """For whole images squashed to (height, width): places in relative coordinates stay what they are."""
        return replace(self, input_size=(self.input_size[0], *size), crop_mode="squash", crop_pct=1.0)

    def overridden(self, changes: Mapping[str, object]) -> Preprocess:
        """A copy with the given fields changed (lists, as YAML gives them, become tuples)."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
        return replace(self, **fields)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types; ``from_dict`` reads it back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Preprocess:
        """The inverse of ``to_dict``."""
        return cls().overridden(data)


LongTexts = Literal["truncate", "window"]
TruncationSide = Literal["right", "left"]


@dataclass(frozen=True)
class TextPreprocess:
    """From a text to the token ids that an encoder reads.

    Attributes:
        tokenizer: the tokenizer in the JSON form of the ``tokenizers`` library: all that is needed
            to tokenize again, on any machine.
        max_length: tokens a row at most, special ones included.
        prompt: put before every text (``"query: "``); of a pair before the first one.
        include_prompt: whether its tokens, and those that the tokenizer puts before it, count in poolings over tokens.
            Where they do not, those behind the text do, as in sentence-transformers.
        long_texts: what does not fit is cut off, or read in overlapping windows whose features are
            averaged.
        pad_id: fills rows up; the network never looks at it.
        token_types: whether the network gets token types: which text of a pair a token belongs to.
        words: the texts are lists of words (``Words``) and a row of features is a word. Long ones are
            always read in windows, so that every word has a row and all models have the same rows.
        truncation_side: where a text that does not fit is cut off.
        tokens_per_word: how many tokens, about, are what one is elsewhere: several where tokens are
            characters. Budgets of tokens (batches, the text that costs are measured on) are multiplied by it.
    """

    tokenizer: str = field(repr=False)
    max_length: int
    prompt: str = ""
    long_texts: LongTexts = "truncate"
    pad_id: int = 0
    token_types: bool = False
    words: bool = False
    truncation_side: TruncationSide = "right"
    tokens_per_word: int = 1
    include_prompt: bool = True

    modality: ClassVar[str] = "text"

    @property
    def extent(self) -> tuple[int, int]:
        """How large an item is as the network reads it: (tokens, 1)."""
        return self.max_length, 1

    def tokens_key(self) -> str:
        """What decides the tokens: encoders with an equal key share them."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types; of the tokenizer only the hash, its JSON is kept apart."""
        return {
            "tokenizer": xxhash.xxh3_128_hexdigest(self.tokenizer.encode()),
            "max_length": self.max_length,
            "prompt": self.prompt,
            "long_texts": self.long_texts,
            "pad_id": self.pad_id,
            "token_types": self.token_types,
            **({"words": True} if self.words else {}),
            **({"truncation_side": self.truncation_side} if self.truncation_side != "right" else {}),
            **({"tokens_per_word": self.tokens_per_word} if self.tokens_per_word != 1 else {}),
            **({} if self.include_prompt else {"include_prompt": False}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tokenizer: str) -> TextPreprocess:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "tokenizer": tokenizer})


@dataclass(frozen=True)
class RowsPreprocess:
    """Ready features are read as they are.

    Attributes:
        width: features a row.
        name: of the array, where a file holds several.
    """

    width: int
    name: str = ""

    modality: ClassVar[str] = "rows"

    @property
    def extent(self) -> tuple[int, int]:
        """How large an item is: (features, 1)."""
        return self.width, 1

    def to_dict(self) -> dict[str, object]:
        """Plain JSON types; ``from_dict`` reads it back."""
        return {"width": self.width, "name": self.name}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RowsPreprocess:
        """The inverse of ``to_dict``."""
        return cls(**data)


AnyPreprocess: TypeAlias = "Preprocess | TextPreprocess | RowsPreprocess"
