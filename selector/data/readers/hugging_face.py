"""A ``datasets.Dataset`` with an image and a label column (a ``DatasetDict`` is a dict of splits)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selector.core.contracts import RawImage
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import IMAGE_COLUMNS, is_dataset, of_type, reads_text
from selector.data._words import takes_words
from selector.data.reader import Found, Options, find_column, reader
from selector.data.readers.parquet import LABEL_COLUMNS
from selector.modalities.image import content_hash


class HuggingFaceItems:
    """Encoded images of a column, read when asked for."""

    def __init__(self, dataset: Any, column: str) -> None:
        self._dataset, self._column = dataset, column

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int, /) -> RawImage:
        cell = self._dataset[index][self._column]
        if cell is None:
            return b""
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        return Path(cell["path"]).read_bytes()


def _accepts(x: Any, options: Options) -> bool:
    if not is_dataset(x) or takes_words(x, options):
        return False
    return not reads_text(list(x.features), options, of_type(x.features, "Image"))


@reader(
    "hugging-face",
    "a datasets.Dataset with an image and a label column",
    _accepts,
)
def _read(x: Any, options: Options) -> Table:
    import datasets

    where = options.name or x.info.dataset_name or "dataset"
    typed = {name: type(feature).__name__ for name, feature in x.features.items()}
    image_column = find_column(
        where, "image", options.image_column, list(typed), IMAGE_COLUMNS, [n for n, t in typed.items() if t == "Image"]
    )
    label_column = find_column(
        where,
        "label",
        options.one_label,
        list(typed),
        LABEL_COLUMNS,
        [n for n, t in typed.items() if t == "ClassLabel"],
    )
    if typed[image_column] != "Image":
        raise TargetError(
            f"{where}: column '{image_column}' is a {typed[image_column]}; expected a datasets.Image "
            f"(dataset.cast_column('{image_column}', datasets.Image()))."
        )
    items = HuggingFaceItems(x.cast_column(image_column, datasets.Image(decode=False)), image_column)
    feature = x.features[label_column]
    try:
        hashes = [content_hash(items[index]) for index in range(len(items))]
    except OSError as error:
        raise TargetError(f"{where}: {error.filename} cannot be read ({error.strerror}).") from None
    return Found(
        where=where,
        name=options.name or where,
        items=items,
        names=[f"row {index}" for index in range(len(items))],
        labels=list(x[label_column]),
        hashes=hashes,
        class_names=list(feature.names) if typed[label_column] == "ClassLabel" else None,
    ).table(options)
