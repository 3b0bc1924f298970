"""A parquet file, or a folder of them, in the Hugging Face image convention.

The image column is a struct of ``bytes`` and ``path`` (or plain binary), the label column an int
whose class names stand in the schema's metadata (or strings, or numbers). Files are split by name:
``train.parquet``, ``test-00000-of-00002.parquet``, in the folder or in its ``data`` folder.
"""

from __future__ import annotations

import bisect
import json
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selector.core.contracts import Modality, RawImage
from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._columns import IMAGE_COLUMNS, reads_text
from selector.data._files import files_of, parquet_files, split_of
from selector.data._hashing import FileMemory
from selector.data._roles import MASK_COLUMNS, BoxCells, is_boxes, roles_of
from selector.data._words import takes_words
from selector.data.reader import Options, find_column, reader, split_rank
from selector.modalities.image import content_hash

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label")
_KEPT_GROUPS = 4


class ParquetItems:
    """Images of several parquet files; a few row groups are kept in memory at a time."""

    def __init__(self, files: list[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self._files, self._column = files, column
        self._groups: list[tuple[int, int]] = []
        self._ends: list[int] = []
        total = 0
        for number, path in enumerate(files):
            metadata = pq.ParquetFile(path).metadata
            for group in range(metadata.num_row_groups):
                total += metadata.row_group(group).num_rows
                self._groups.append((number, group))
                self._ends.append(total)
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> RawImage:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect.bisect_right(self._ends, index)
        start = self._ends[place - 1] if place else 0
        with self._lock:  # one reader at a time: threads that decode would each read the same group
            column = self._group(place)
        number, _ = self._groups[place]
        return bytes(_image_bytes(column[index - start], self._files[number], index - start))

    def _group(self, place: int) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        number, group = self._groups[place]
        column = pq.ParquetFile(self._files[number]).read_row_group(group, columns=[self._column])[self._column]
        self._kept[place] = column
        if len(self._kept) > _KEPT_GROUPS:
            self._kept.popitem(last=False)
        return column


def is_text_file(path: Path, options: Options) -> bool:
    """Whether a parquet file holds texts rather than images, by its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False  # reading it says why
    return reads_text(schema.names, options, declared(schema, "Image"))


def _accepts(x: Any, options: Options) -> bool:
    if not isinstance(x, str | os.PathLike):
        return False
    files = files_of(Path(x))
    return bool(files) and not is_text_file(files[0], options) and not takes_words(x, options)


@reader(
    "parquet",
    "a parquet file or a folder of them",
    _accepts,
)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(x).absolute()
    files = parquet_files(root) if root.is_dir() else [root]
    files.sort(key=lambda path: (split_rank(split_of(path)), path.name))
    where = str(files[0])
    try:
        schema = pq.read_schema(files[0])
        pictures = [name for name in schema.names if name in declared(schema, "Image") or _holds_pictures(schema, name)]
        image_column = find_column(
            where, "image", options.image_column, schema.names, IMAGE_COLUMNS, _one_picture(schema, pictures)
        )
        roles = roles_of(
            where,
            schema.names,
            options,
            LABEL_COLUMNS,
            items=[image_column],
            typed_labels=declared(schema, "ClassLabel"),
            pictures=[name for name in pictures if name != image_column],
            boxes=[name for name in schema.names if _holds_boxes(schema, name)],
        )
        chosen = [name for columns in roles.values() for name in columns]
        splits: list[str] = []
        names: list[str] = []
        hashes: list[str] = []
        cells: dict[str, Any] = {name: [] for name in chosen}
        folder = root if root.is_dir() else root.parent
        with FileMemory(str(root), options.trust) as memory:
            for path in files:
                other = pq.read_schema(path)
                if not {image_column, *chosen} <= set(other.names):
                    named = ", ".join(f"'{name}'" for name in chosen)
                    raise TargetError(
                        f"{path}: columns {', '.join(other.names)}; expected '{image_column}' and "
                        f"{named} as in {files[0].name}. Keep the files of one data set "
                        "in a folder."
                    )
                for name in chosen:
                    if name not in roles.get("mask", ()):
                        cells[name] += pq.read_table(path, columns=[name])[name].to_pylist()
                shown = path.relative_to(folder).as_posix()
                own = _hashes(path, shown, image_column, memory)
                splits += [split_of(path)] * len(own)
                names += [f"{shown}:{row}" for row in range(len(own))]
                hashes += own
    except (pa.ArrowException, OSError) as error:
        raise TargetError(
            f"{root}: not a readable parquet file ({str(error).splitlines()[0]}); write it again."
        ) from None
    for name in roles.get("mask", ()):
        cells[name] = ParquetItems(files, name)
    for name in roles.get("boxes", ()):
        cells[name] = BoxCells(cells[name], names, str(root))
    declared_names = {name: class_names_of(schema, name) for name in chosen}
    facts = _facts(schema)
    for role in ("mask", "boxes"):
        for name in roles.get(role, ()):
            facts.setdefault("names", declared_names[name] or facts.get("classes"))
    known = {key: value for key, value in facts.items() if value is not None and key != "classes"}
    return Table(
        where=str(root),
        name=options.name or (root.name if root.is_dir() else root.stem),
        modality=Modality.IMAGE,
        items=ParquetItems(files, image_column),
        names=names,
        hashes=hashes,
        columns=cells,
        roles=roles,
        schema={**known, "class_names": {name: own for name, own in declared_names.items() if own}, **options.schema()},
        splits=splits if any(splits) else None,
        origin={"path": str(root)},
    )


def _one_picture(schema: pa.Schema, pictures: list[str]) -> list[str]:
    """Columns that are declared to be images, those with a usual name of masks last."""
    return sorted((name for name in declared(schema, "Image")), key=lambda name: name.lower() in MASK_COLUMNS)


def _holds_pictures(schema: pa.Schema, name: str) -> bool:
    import pyarrow as pa

    kind = schema.field(name).type
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _holds_boxes(schema: pa.Schema, name: str) -> bool:
    """Whether a column is a struct of lists, or a list of structs, with a field for boxes."""
    import pyarrow as pa

    kind = schema.field(name).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if not pa.types.is_struct(kind):
        return False
    fields = {field.name: None for field in kind}
    return is_boxes({**dict.fromkeys(fields, 0)})


def _facts(schema: pa.Schema) -> dict[str, Any]:
    """What the schema says of the whole set beside its columns: ``classes`` and ``ignore_index``."""
    described = _features(schema)
    classes, ignore = described.get("classes"), described.get("ignore_index")
    return {
        "classes": [str(name) for name in classes] if isinstance(classes, list) and classes else None,
        "ignore_index": ignore if isinstance(ignore, int) else None,
    }


def _hashes(path: Path, shown: str, column: str, memory: FileMemory) -> list[str]:
    import pyarrow.parquet as pq

    status = path.stat()
    known = memory.get(shown, status)
    if known is not None and known["column"] == column:
        return list(known["hashes"])
    hashes: list[str] = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=64, columns=[column]):
        for value in batch.column(0):
            hashes.append(content_hash(_image_bytes(value, path, len(hashes))))
    memory.put(shown, status, {"column": column, "hashes": hashes})
    return hashes


def _image_bytes(value: Any, file: Path, row: int) -> memoryview:
    """The encoded image of a cell: a struct of bytes and path, or binary."""
    import pyarrow as pa

    path = None
    if pa.types.is_struct(value.type):
        fields = {field.name for field in value.type}
        if value.is_valid and "path" in fields:
            path = value["path"].as_py()
        value = value["bytes"] if value.is_valid and "bytes" in fields else None
    if value is not None and value.is_valid:
        if not (pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type)):
            raise TargetError(
                f"{file}: row {row}: the image column holds {value.type}; expected a struct of bytes and path, or binary."
            )
        return memoryview(value.as_buffer())
    if not path:
        return memoryview(b"")  # an item without an image: decoding reports it with all other bad ones
    beside = (file.parent / path).resolve()
    if not beside.is_relative_to(file.parent.resolve()):
        raise TargetError(f"{file}: row {row}: the path '{path}' leads outside {file.parent}; store the bytes instead.")
    try:
        return memoryview(beside.read_bytes())
    except OSError as error:
        raise TargetError(f"{file}: row {row}: {beside} cannot be read ({error.strerror}).") from None


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def declared(schema: pa.Schema, kind: str) -> list[str]:
    """Columns whose declared type (``Image``, ``ClassLabel``) is the given one."""
    described = _features(schema)
    return [
        name for name in schema.names if isinstance(described.get(name), dict) and described[name].get("_type") == kind
    ]


def class_names_of(schema: pa.Schema, column: str) -> list[str] | None:
    """The class names that are declared for a column: of what it holds, or of what its lists or boxes hold."""
    described = _features(schema).get(column)
    if isinstance(described, list) and all(isinstance(name, str) for name in described):
        return described  # names alone
    names = _declared_names(described)
    if isinstance(names, dict):  # an older form: {"0": "cat", "1": "dog"}
        names = [names[str(i)] for i in range(len(names))]
    return [str(name) for name in names] if names else None


def _declared_names(described: Any) -> Any:
    """The first ``names`` within the description of a column."""
    if isinstance(described, dict):
        if described.get("names"):
            return described["names"]
        described = [value for value in described.values() if isinstance(value, dict | list)]
    if isinstance(described, list):
        return next((names for names in map(_declared_names, described) if names), None)
    return None
