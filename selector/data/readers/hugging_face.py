"""A ``datasets.Dataset`` with an image and a label column (a ``DatasetDict`` is a dict of splits)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from selector.core.contracts import Modality, RawImage
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import IMAGE_COLUMNS, is_dataset, of_type, reads_text
from selector.data._roles import MASK_COLUMNS, BoxCells, is_boxes, roles_of
from selector.data._words import takes_words
from selector.data.reader import Options, find_column, reader
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

    where = options.name or x.info.dataset_name or "dataset"
    typed = {name: type(feature).__name__ for name, feature in x.features.items()}
    pictures = [name for name, kind in typed.items() if kind == "Image"]
    image_column = find_column(
        where,
        "image",
        options.image_column,
        list(typed),
        IMAGE_COLUMNS,
        sorted(pictures, key=lambda name: name.lower() in MASK_COLUMNS),
    )
    if typed[image_column] != "Image":
        raise TargetError(
            f"{where}: column '{image_column}' is a {typed[image_column]}; expected a datasets.Image "
            f"(dataset.cast_column('{image_column}', datasets.Image()))."
        )
    first = x.with_format(None).remove_columns(pictures)[0] if len(x) else {}
    roles = roles_of(
        where,
        list(typed),
        options,
        LABEL_COLUMNS,
        items=[image_column],
        typed_labels=[n for n, t in typed.items() if t == "ClassLabel"],
        pictures=[name for name in pictures if name != image_column],
        boxes=[name for name in typed if is_boxes(first.get(name))],
    )
    items = _pictures(x, image_column)
    try:
        hashes = [content_hash(items[index]) for index in range(len(items))]
    except OSError as error:
        raise TargetError(f"{where}: {error.filename} cannot be read ({error.strerror}).") from None
    names = [f"row {index}" for index in range(len(items))]
    columns: dict[str, Any] = {}
    schema: dict[str, Any] = {"class_names": {}}
    for role, chosen in roles.items():
        for name in chosen:
            own = _class_names(x.features[name])
            if role == "mask":
                if typed[name] != "Image":
                    raise TargetError(
                        f"{where}: column '{name}' is a {typed[name]}; expected a datasets.Image of masks."
                    )
                columns[name] = _pictures(x, name)
            elif role == "boxes":
                columns[name] = BoxCells(list(x.with_format(None)[name]), names, where)
            else:
                columns[name] = list(x[name])
            if own and role == "label":
                schema["class_names"][name] = own
            elif own:
                schema["names"] = own
    return Table(
        where=where,
        name=options.name or where,
        modality=Modality.IMAGE,
        items=items,
        names=names,
        hashes=hashes,
        columns=columns,
        roles=roles,
        schema={**schema, **options.schema()},
    )


def _pictures(x: Any, column: str) -> HuggingFaceItems:
    import datasets

    return HuggingFaceItems(x.cast_column(column, datasets.Image(decode=False)), column)


def _class_names(feature: Any) -> list[str] | None:
    """Names of the first ClassLabel that a feature is or holds."""
    if type(feature).__name__ == "ClassLabel":
        return list(feature.names)
    inner = getattr(feature, "feature", None)  # of lists: what they hold
    if inner is not None:
        return _class_names(inner)
    if isinstance(feature, dict):
        return next((names for names in map(_class_names, feature.values()) if names), None)
    if isinstance(feature, list):
        return next((names for names in map(_class_names, feature) if names), None)
    return None
