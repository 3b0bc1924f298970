"""Saved models that read texts: their tokenizer beside the weights, and what stands for texts to predict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from selector.contracts import RawText, TextPreprocess, Words
from selector.errors import ConfigError
from selector.texts import Tokeniser, Tokens, why_unusable

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENIZER = "tokenizer.json"
_TEXT_FILES = (".txt",)
_SHOWN = 60  # characters of a text that name it


def read_preprocess(folder: Path, data: Mapping[str, Any]) -> TextPreprocess:
    """The preprocessing of a saved model, its tokenizer checked against the configuration.

    Raises:
        ConfigError: the tokenizer is missing or is another one.
    """
    path = folder / TOKENIZER
    try:
        preprocess = TextPreprocess.from_dict(data, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the tokenizer {path} cannot be read ({error}); save the model again.") from None
    if preprocess.to_dict()["tokenizer"] != data["tokenizer"]:
        raise ConfigError(f"the tokenizer {path} is not the one that the model was trained with; save the model again.")
    return preprocess


def tokenised(
    texts: Sequence[RawText | Words], preprocess: TextPreprocess
) -> tuple[Tokens | None, list[int], list[str]]:
    """Tokens of the usable texts, their positions, and a reason (or nothing) for each text."""
    reasons = [why_unusable(text) for text in texts]
    good = [i for i, reason in enumerate(reasons) if not reason]
    if not good:
        return None, good, reasons
    return Tokens.of(Tokeniser(preprocess)([texts[i] for i in good]), preprocess.pad_id), good, reasons


def expand(texts: Any) -> Iterator[tuple[str, RawText]]:
    """(name, text) of everything that ``texts`` stands for.

    Args:
        texts: a text, a pair, a .txt file with a text a line, or a sequence of them.

    Raises:
        ConfigError: nothing there, or an item that is no text.
    """
    given = [texts] if isinstance(texts, str | os.PathLike) or _is_pair(texts) else list(texts)
    if not given:
        raise ConfigError("there are no texts to predict; give texts, or .txt files with a text a line.")
    for item in given:
        if isinstance(item, os.PathLike) or (isinstance(item, str) and _is_file(item)):
            yield from _lines(Path(item))
        elif isinstance(item, str):
            yield shortened(item), item
        elif _is_pair(item):
            yield " | ".join(shortened(part) for part in item), cast("RawText", tuple(item))
        else:
            raise ConfigError(f"expected a text, a pair of texts or a .txt file. Got {type(item).__name__}.")


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item)


def _is_file(text: str) -> bool:
    return text.endswith(_TEXT_FILES) and len(text) < 4096 and Path(text).is_file()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error}); give a file with a text a line.") from None
    for number, line in enumerate(lines, 1):
        yield f"{path}:{number}", line


def shortened(text: str) -> str:
    """What names a text in a result: its begin, on one line."""
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN else one_line[: _SHOWN - 1] + "…"


def logits(module: Any, tokens: Tokens, device: str) -> np.ndarray:
    """Outputs (B, K) float32."""
    import torch

    with torch.inference_mode():
        found: np.ndarray = module.to(device)(tokens.to(device)).float().cpu().numpy()
    return found
