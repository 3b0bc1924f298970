"""Saved models that read texts or tag words: files of texts, the tokenizer beside the weights, and outputs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from io import TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from selector.core.contracts import RawText, Words
from selector.core.documents import LONGEST, checked
from selector.core.errors import ConfigError, TargetError, first_line
from selector.core.input_files import read_file
from selector.core.preprocess import LongTexts, TextPreprocess, TruncationSide
from selector.data._text_rows import json_lines as read_json_lines
from selector.data._text_rows import read_csv, read_utf8
from selector.data.readers.parquet import DAMAGE, column_cells
from selector.deploy.serializers import serializer
from selector.deploy.serializers._serializer import AGAIN, Keep, Run, Serializer, cell, listed
from selector.modalities.text import TextTokenizer, TokenizedText, why_unusable
from selector.modalities.tokens.table import TokenTable
from selector.modalities.tokens.tokenizer import is_pair

LINES, JSON_LINES = (".txt",), (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv", ".parquet")
_OTHERS = (".json", ".conll", ".conllu", ".conllup", ".iob", ".iob2", ".bio", ".bioes")
_KNOWN = (*LINES, *JSON_LINES, *TABLES, *_OTHERS)
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,7}$")
_LONGEST = 4096  # characters of a path


class LiteralText(str):
    """A text that is never taken for the name of a file."""


def file_of(item: Any, line: str, *, table: bool = False) -> Path | None:
    """The file that an argument means; None where it is a text.

    Args:
        line: what a line of a .jsonl file holds, for messages.
        table: whether a column was named.
    Raises:
        ConfigError: there is no such file, or none of a kind that is read.
    """
    named = isinstance(item, str) and not isinstance(item, LiteralText) and _is_path(item)
    if not isinstance(item, os.PathLike) and not named:
        return None
    path = Path(item)
    if path.is_file() and path.suffix.lower() in (*JSON_LINES, *TABLES, *(() if table else LINES)):
        return path
    found = "is a file of another kind" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
    raise ConfigError(
        f"{path} {found}; predict reads .txt files (one text per line), .jsonl files ({line} per line) and a column of .csv, .tsv "
        "and .parquet files. If it is meant as a text, put it into one of these: what stands in a file is never taken "
        "for a path."
    )


def _is_path(text: str) -> bool:
    """Whether a string means a file, be it there or not: a wrong path must not be predicted as if it were a text."""
    if len(text) >= _LONGEST or "\n" in text or "://" in text:
        return False
    folder, name = os.path.split(text)
    match = _SUFFIX.search(name.lower())
    suffix = match[0] if match else ""
    if not (folder or suffix):
        return False
    if os.path.exists(text):  # noqa: PTH110 - takes names that no file can have
        return bool(suffix or text.strip("/\\."))
    known = suffix in _KNOWN
    if len(text.split()) > 1:  # a path with blanks, or a text that ends with the name of a file
        return known and bool(folder) and os.path.isdir(folder)  # noqa: PTH112
    return known or bool(folder and suffix)


def lines(path: Path | TextIOBase) -> Iterator[tuple[str, str]]:
    """(name, text) of each line of a .txt file or an open one; nothing but a line feed ends one.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    named = str(getattr(path, "name", path)).strip("<>") if isinstance(path, TextIOBase) else str(path)
    found = (path.read() if isinstance(path, TextIOBase) else _read(path)).split("\n")
    if not found[-1]:
        found.pop()
    if not found:
        raise ConfigError(f"{named} is empty; expected one text per line.")
    for number, line in enumerate(found, 1):
        yield f"{named}:{number}", line.removesuffix("\r")


def column(path: Path, columns: Sequence[str], most: int = 2) -> Iterator[tuple[str, RawText]]:
    """(name, text) of each row of a table; pairs of two columns.

    Args:
        columns: none for the only column, or the one that is called ``text``.
        most: columns that the model reads, 1 or 2.
    Raises:
        ConfigError: it cannot be read, lacks a column, or it is open which one is meant.
    """
    names, rows = _table(path, columns)
    asked = list(columns) or (names if len(names) == 1 else [name for name in names if name == "text"])
    missing = [name for name in asked if name not in names]
    if not 1 <= len(asked) <= most or missing:
        what = f"text_column={asked!r}: expected one column of texts{', or the two of pairs' if most > 1 else ''};"
        if missing:
            what = f"text_column={asked!r}: {', '.join(map(repr, missing))} is missing;"
        elif not asked:
            what = "which column holds the texts?"
        listed = ", ".join(names) or "none"
        raise ConfigError(f"{path}: {what} name it with text_column (--text-column). Columns: {listed}.")
    if not rows:
        raise ConfigError(f"{path} is empty; expected one text per row.")
    for line, row in rows:
        cells = ["" if row[name] is None else str(row[name]) for name in asked]
        yield f"{path}:{line}", cells[0] if len(cells) == 1 else (cells[0], cells[1])


def _parquet(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, object]]]]:
    import pyarrow.parquet as pq

    try:
        names = list(pq.read_schema(path).names)
        wanted = [name for name in dict.fromkeys(columns or (*names[: len(names) == 1], "text")) if name in names]
        cells = {name: [cell for part in column_cells(path, name) for cell in part] for name in wanted}
    except DAMAGE as error:
        raise ConfigError(f"{path} cannot be read as parquet ({first_line(error)}).") from None
    rows = zip(*cells.values(), strict=True)
    return names, [(number, dict(zip(wanted, row, strict=True))) for number, row in enumerate(rows, 1)]


def _table(path: Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """Column names, and (line, cells) of each row, of the columns asked for at least."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet(path, columns)
        if kind in JSON_LINES:
            rows = [(number, row) for number, row in read_json_lines(path, "an object") if isinstance(row, dict)]
            names = list(dict.fromkeys(name for _, row in rows for name in row))
            return names, [(number, dict.fromkeys(names) | row) for number, row in rows]
        return read_csv(path)
    except TargetError as error:
        raise ConfigError(str(error)) from None


def json_lines(path: Path, line: str) -> Iterator[tuple[str, object]]:
    """(name, value) of each line of a .jsonl file that is not blank.

    Args:
        line: what each should hold, for messages.
    Raises:
        ConfigError: it cannot be read, has no such line, or one that is not JSON.
    """
    _read(path)  # its errors say what predict expects
    none = True
    try:
        for number, value in read_json_lines(path, line):
            none = False
            yield f"{path}:{number}", value
    except TargetError as error:
        raise ConfigError(str(error)) from None
    if none:
        raise ConfigError(f"{path} is empty; expected {line} per line.")


def _read(path: Path) -> str:
    try:
        return read_utf8(path)
    except TargetError as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error})") from None


TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_SHOWN = 60  # characters of a text that name it
_CHUNK = 1000  # texts tokenized at once
_LINE = "a text in quotes, or a list of two,"
_WORDS_LINE = "a list of words"
_KEYS = ("tokens", "words")


class _TextSettings(BaseModel):
    """As ``TextPreprocess.to_dict`` writes it; of the tokenizer its hash."""

    model_config = ConfigDict(extra="forbid", strict=True)  # "12" is no length: what is checked is what is used

    tokenizer: str
    max_length: int = Field(ge=4, le=1_000_000)
    prompt: str = Field(default="", validation_alias=AliasChoices("prompt", "prefix"))  # its name before 0.2.0
    long_texts: LongTexts = "truncate"
    pad_id: int = Field(default=0, ge=0, lt=2**31)
    token_types: bool = False
    words: bool = False
    truncation_side: TruncationSide = "right"
    tokens_per_word: int = Field(default=1, ge=1, le=1_000_000)
    include_prompt: bool = True


@serializer("text")
class TextSerializer(Serializer[TextPreprocess]):
    """See ``Serializer``."""

    def checked(self, preprocess: Mapping[str, object], path: Path) -> dict[str, object]:
        """See ``Serializer``."""
        return checked(_TextSettings, preprocess, path, AGAIN, "preprocess").model_dump(exclude_unset=True)

    def read(self, folder: Path, data: Mapping[str, object]) -> TextPreprocess:
        """See ``Serializer``; the tokenizer is checked against the configuration."""
        path = folder / TOKENIZER
        try:
            preprocess = TextPreprocess.from_dict(data, read_file(path, LONGEST).decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the tokenizer {path} cannot be read ({error}); save the model again.") from None
        if preprocess.to_dict()["tokenizer"] != data["tokenizer"]:
            raise ConfigError(
                f"the tokenizer {path} is not the one that the model was trained with; save the model again."
            )
        return preprocess

    def files(self, preprocess: TextPreprocess) -> dict[str, str]:
        """See ``Serializer``."""
        return {TOKENIZER: preprocess.tokenizer}

    def library_files(self, preprocess: TextPreprocess) -> dict[str, str]:
        """See ``Serializer``."""
        return {TOKENIZER_CONFIG: json.dumps(_settings(preprocess), indent=1) + "\n"}

    def noun(self, preprocess: TextPreprocess) -> str:
        """See ``Serializer``."""
        return "sentence" if preprocess.words else "text"

    def collect(
        self, given: object, preprocess: TextPreprocess, pairs: bool | None, columns: Sequence[str]
    ) -> list[tuple[str, object]]:
        """See ``Serializer``; a text is its own name, one without content has its place."""
        found: list[tuple[str, Any]] = []
        found += _expand_words(given, columns) if preprocess.words else _expand(given, pairs, columns)
        return [(shown if (shown := _written(item)).strip() else name, item) for name, item in found]

    def outputs(
        self, run: Run, items: Sequence[Any], preprocess: TextPreprocess, batch_size: int, device: str, keep: Keep
    ) -> tuple[list[object | None], list[str]]:
        """Outputs float32 (1, K) of each text, (words, K) of each list of words; and why there are none, or nothing.

        Texts of like length go through the network together, ``batch_size`` at most and no more tokens than
        the extraction takes at once.
        """
        reasons = [why_unusable(text) for text in items]
        table = TokenTable(preprocess, _tokenized(items, reasons, _tokenizer(preprocess)), device)
        found: list[Any | None] = [None] * len(items)
        for part in table.cut(np.flatnonzero([not reason for reason in reasons]), batch_size):
            rows = run(table.batch(part))
            sizes = [len(items[i]) if preprocess.words else 1 for i in part]
            for i, own in zip(part, np.split(rows, np.cumsum(sizes)[:-1]), strict=True):
                found[i] = keep(own, items[i])
        return found, reasons

    def example(self, pairs: bool) -> str:
        """See ``Serializer``."""
        return '("a text", "another")' if pairs else '"a text"'

    def pipeline(self, preprocess: TextPreprocess, task: str, *, of_maps: bool) -> str:
        """See ``Serializer``."""
        return "token-classification" if preprocess.words else "text-classification"

    def facts(self, preprocess: TextPreprocess, pairs: bool) -> str:
        """See ``Serializer``."""
        windows = preprocess.words or preprocess.long_texts == "window"
        long = "read in overlapping windows" if windows else "cut off"
        prompt = f"; `{cell(preprocess.prompt)}` is put before each" if preprocess.prompt else ""
        texts = "pairs of texts" if pairs else "texts"
        return f"| input | {texts}, tokenized by tokenizer.json; longer than {preprocess.max_length} tokens: {long}{prompt} |"

    def tensor(self, preprocess: TextPreprocess) -> str:
        """See ``Serializer``."""
        if preprocess.words:
            return (
                "The input is a list of sentences, the output a row of logits a token: a word's are those of its first "
                "token, or the mean over its tokens."
            )
        return "The input is a list of texts, or of pairs (tuples); the output their logits."


def _settings(preprocess: TextPreprocess) -> dict[str, object]:
    """What ``transformers.AutoTokenizer`` looks for beside ``tokenizer.json``."""
    tokens = json.loads(preprocess.tokenizer)
    known = {token["id"]: token["content"] for token in tokens.get("added_tokens", ())}
    pad = {"pad_token": known[preprocess.pad_id]} if preprocess.pad_id in known else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": preprocess.max_length,
        "truncation_side": preprocess.truncation_side,
        **pad,
    }


# ---------------------------------------------------------------------------- what is given


def _expand(texts: object, pairs: bool | None, columns: Sequence[str]) -> list[tuple[str, RawText]]:
    """(name, text) of everything that ``texts`` stands for.

    Args:
        texts: a text, a pair, a .txt file or an open file with a text per line, a .jsonl file with a text or a pair a
            line, a table, or a sequence of them. A tuple of two strings is a pair, unless the model reads single texts.
        columns: of tables, the one of the texts or the two of pairs; none for the only column or ``text``.
        pairs: whether the model reads pairs; None where its record does not say: all must be of one kind then.

    Raises:
        ConfigError: nothing there, an item that is no text, or a pair where a text is expected or the reverse.
    """
    alone = isinstance(texts, str | os.PathLike | TextIOBase) or (
        pairs is not False and isinstance(texts, tuple) and is_pair(texts)
    )
    given = [texts] if alone else listed(texts, "texts, pairs of texts or files")
    found = [named for place, item in enumerate(given) for named in _named(place, item, columns)]
    if not found:
        raise ConfigError("there are no texts to predict; give texts, or .txt files with one text per line.")
    wanted = is_pair(found[0][1]) if pairs is None else pairs
    for name, text in found:
        if is_pair(text) != wanted:
            raise ConfigError(_mistaken(name, pairs))
    return found


def _named(place: int, item: object, columns: Sequence[str]) -> Iterator[tuple[str, RawText]]:
    if isinstance(item, TextIOBase):
        yield from lines(item)
        return
    file = file_of(item, _LINE, table=bool(columns))
    if file is not None and (columns or file.suffix.lower() in TABLES):
        yield from column(file, columns)
    elif file is None:
        text = _text(item)
        if text is None:
            raise ConfigError(f"expected a text, a pair of texts or a file. Got {type(item).__name__}.")
        parts = [shortened(part) for part in ((text,) if isinstance(text, str) else text)]
        yield (" | ".join(parts) if any(parts) else f"text {place}"), text
    elif file.suffix.lower() in JSON_LINES:
        for name, value in json_lines(file, _LINE):
            text = _text(value.get("text") if isinstance(value, dict) else value)
            if text is None:
                raise ConfigError(f'{name}: expected {_LINE} or an object such as {{"text": "a text"}}.')
            yield name, text
    else:
        yield from lines(file)


def _text(item: Any) -> RawText | None:
    """A text or a pair; None for anything else."""
    return item if isinstance(item, str) else (item[0], item[1]) if is_pair(item) else None


def _mistaken(name: str, pairs: bool | None) -> str:
    if pairs is None:
        return "some of the items are texts and some are pairs of texts; give all of one kind."
    if pairs:
        return (
            f"{name}: found a single text; the model reads pairs. Give (first, second), or a .jsonl file with a list of "
            "two texts per line."
        )
    return f"{name}: found a pair of texts; the model reads single texts. Give each as a string."


def shortened(text: str) -> str:
    """What names a text in a result: its begin, on one line."""
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN else one_line[: _SHOWN - 1] + "…"


def _written(item: RawText | Words) -> str:
    """A text, a pair or a sentence as a result shows it."""
    if isinstance(item, Words):
        return item.text
    return item if isinstance(item, str) else " | ".join(item) if any(item) else ""


def _expand_words(sentences: object, columns: Sequence[str]) -> list[tuple[str, Words]]:
    """(name, words) of everything that ``sentences`` stands for.

    Args:
        sentences: a text, whose words stand apart by blanks; a list or tuple of words; a .txt file with
            one sentence per line; a .jsonl file with one list of words per line, or an object with one under
            ``tokens`` or ``words``; or a list of these.

    Raises:
        ConfigError: nothing there, or an item that is none of these.
    """
    alone = isinstance(sentences, str | os.PathLike | Words | TextIOBase)
    given = [sentences] if alone else listed(sentences, "texts, lists of words or files")
    if not given:
        raise ConfigError("there are no sentences to predict; give texts, lists of words, or .txt or .jsonl files.")
    return [named for place, item in enumerate(given) for named in _named_words(place, item, columns)]


def _named_words(place: int, item: Any, columns: Sequence[str]) -> Iterator[tuple[str, Words]]:
    file = None if isinstance(item, TextIOBase) else file_of(item, _WORDS_LINE, table=bool(columns))
    if isinstance(item, TextIOBase):
        yield from _of_texts(item)
    elif file is not None and (columns or file.suffix.lower() in TABLES):
        yield from ((name, Words(str(text).split())) for name, text in column(file, columns, most=1))
    elif file is not None:
        yield from _of_lists(file) if file.suffix.lower() in JSON_LINES else _of_texts(file)
    elif isinstance(item, str) or _is_words(item):
        words = Words(item.split() if isinstance(item, str) else item)
        yield shortened(words.text) or f"sentence {place}", words
    else:
        raise ConfigError(f"expected a text, a list of words or a file. Got {type(item).__name__}.")


def _of_texts(path: Path | TextIOBase) -> Iterator[tuple[str, Words]]:
    return ((name, Words(text.split())) for name, text in lines(path))


def _of_lists(path: Path) -> Iterator[tuple[str, Words]]:
    for name, row in json_lines(path, _WORDS_LINE):
        words = next((row[key] for key in _KEYS if key in row), None) if isinstance(row, Mapping) else row
        if not isinstance(words, list) or not _is_words(words):
            raise ConfigError(f'{name}: expected a list of words, or an object such as {{"tokens": ["a", "word"]}}.')
        yield name, Words(words)


def _is_words(item: object) -> bool:
    return isinstance(item, list | tuple) and all(isinstance(word, str) for word in item)


@lru_cache(maxsize=4)
def _tokenizer(preprocess: TextPreprocess) -> TextTokenizer:
    """Reading a tokenizer takes longer than a short text does."""
    return TextTokenizer(preprocess)


def _tokenized(
    texts: Sequence[RawText | Words], reasons: Sequence[str], tokenize: TextTokenizer
) -> Iterator[list[TokenizedText | None]]:
    for begin in range(0, len(texts), _CHUNK):
        bad = reasons[begin : begin + _CHUNK]
        usable = [text for text, reason in zip(texts[begin : begin + _CHUNK], bad, strict=True) if not reason]
        made = iter(tokenize(usable))
        yield [None if reason else next(made) for reason in bad]
