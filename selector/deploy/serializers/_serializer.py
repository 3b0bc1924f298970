"""The contract of a serializer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from selector.core.errors import ConfigError

AGAIN = "run 'selector confirm' again, or use the version that wrote it"
"""What to do about a folder that cannot be read."""

Run = Callable[[Any], Any]
"""A batch as the network takes it, on the processor -> its outputs as the task takes them."""

Keep = Callable[[Any, Any], Any]
"""(outputs of one item, the item) -> what is kept of them until all items are read."""


Settings = TypeVar("Settings")
"""How the items of a modality are prepared."""


class Serializer(ABC, Generic[Settings]):
    """What generic code of this room asks of a modality."""

    # the folder

    @abstractmethod
    def checked(self, preprocess: Mapping[str, object], path: Path) -> dict[str, object]:
        """``preprocess`` of ``config.json``.

        Raises:
            ConfigError: it cannot be that; the message names the file and the field.
        """

    @abstractmethod
    def read(self, folder: Path, data: Mapping[str, object]) -> Settings:
        """The preprocessing of a saved model.

        Raises:
            ConfigError: a file that it needs is missing, or is another one.
        """

    def files(self, preprocess: Settings) -> dict[str, str]:
        """Texts that lie beside the weights, by name: what ``read`` needs beside the configuration."""
        return {}

    def library_files(self, preprocess: Settings) -> dict[str, str]:
        """Texts that only the library of the network looks for, by name."""
        return {}

    def shape(self, preprocess: Settings) -> tuple[int, ...] | None:
        """Of an item as a network takes it, where all have one: such networks can be written as a torch program."""
        return None

    # use

    @abstractmethod
    def noun(self, preprocess: Settings) -> str:
        """One item, in messages."""

    @abstractmethod
    def collect(
        self, given: object, preprocess: Settings, pairs: bool | None, columns: Sequence[str]
    ) -> list[tuple[str, object]]:
        """(name, item) of everything that was given to predict.

        Args:
            columns: of tables, the one that holds the items, or the two of pairs.

        Raises:
            ConfigError: nothing, or something that the model does not read.
        """

    @abstractmethod
    def outputs(
        self, run: Run, items: Sequence[Any], preprocess: Settings, batch_size: int, device: str, keep: Keep
    ) -> tuple[list[object | None], list[str]]:
        """Outputs of each item, and the reason (or nothing) why there are none."""

    # the model card

    @abstractmethod
    def example(self, pairs: bool) -> str:
        """Python text of what ``predict`` is given."""

    @abstractmethod
    def pipeline(self, preprocess: Settings, task: str, *, of_maps: bool) -> str:
        """The hub's name of what the model does."""

    @abstractmethod
    def facts(self, preprocess: Settings, pairs: bool) -> str:
        """Rows of the table of facts: how items are prepared."""

    @abstractmethod
    def tensor(self, preprocess: Settings) -> str:
        """What the network takes, in a sentence."""


AnySerializer: TypeAlias = Serializer[Any]
"""Of a modality that is not known."""


def listed(given: object, expected: str) -> list[object]:
    """What was given, as a list.

    Raises:
        ConfigError: it is no sequence.
    """
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"expected {expected}. Got {type(given).__name__}.")
    return list(given)


def cell(text: object) -> str:
    """Names come from zoo files and folders: nothing in them may be read as Markdown or HTML."""
    shown = str(text if text is not None else "–").replace("\n", " ").replace("\r", " ")
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        shown = shown.replace(sign, escaped)
    return shown
