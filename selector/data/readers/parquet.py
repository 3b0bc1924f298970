"""A parquet file, or a folder of them, in the Hugging Face image convention.

The image column is a struct of ``bytes`` and ``path`` (or plain binary), the label column an int
whose class names stand in the schema's metadata (or strings, or numbers). Files are split by name:
``train.parquet``, ``test-00000-of-00002.parquet``, in the folder or in its ``data`` folder.
"""

from __future__ import annotations

import bisect
import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.core.contracts import Items, RawImage
from selector.core.errors import TargetError, first_line
from selector.core.input_files import CELL_BYTES, check_unpacked
from selector.core.table import Table
from selector.data._boxes import is_boxes
from selector.data._files import files_of, split_of
from selector.data._hashing import FileMemory
from selector.data._items import SubsetItems
from selector.data._tabular import other_columns, path_pictures
from selector.data.columns import IMAGE_COLUMNS, MASK_COLUMNS, Columns, LazyColumns, reads_text, table_of
from selector.data.reader import Options, reader, split_rank
from selector.modalities.image import content_hash, read_image_file

if TYPE_CHECKING:
    import pyarrow as pa

_KEPT_GROUPS = 4
_VALUE_BYTES = 8  # of a value in a list, at least: its place in the list

DAMAGE = (OSError, ValueError, TypeError, LookupError, RuntimeError, MemoryError, ArithmeticError)
"""What pyarrow raises on a damaged file; its own errors are of these classes."""


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

    def __getstate__(self) -> dict[str, object]:
        """For another process (isolated models): files and places, without the lock and what was read."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._kept = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> RawImage:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect.bisect_right(self._ends, index)
        start = self._ends[place - 1] if place else 0
        number, _ = self._groups[place]
        try:
            with self._lock:  # one reader at a time: threads that decode would each read the same group
                column = self._group(place)
        except DAMAGE as error:  # it was whole when it was hashed
            raise OSError(errno.EIO, first_line(error), str(self._files[number])) from None
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


def column_cells(path: Path, name: str) -> Iterator[list[object]]:
    """A column of a file, some rows at a time, as Python objects.

    Raises:
        TargetError: the footer says another number of rows, or the cells take more memory than is allowed.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows, size = file.metadata.num_rows, path.stat().st_size
        texts, inner = _leaves(file.metadata, name)
    _measured(path, CELL_BYTES * rows + inner, size)
    # as codes of different values, so that a value that is repeated a million times is measured before it is
    with pq.ParquetFile(path, read_dictionary=texts or None) as file:
        unpacked, count = CELL_BYTES * rows, 0
        for batch in file.iter_batches(batch_size=4096 if texts else 256, columns=[name]):
            cells = batch.column(0)
            unpacked += _unpacked(cells)
            _measured(path, unpacked, size)
            count += len(cells)
            yield cells.to_pylist()
        if count != rows:
            raise TargetError(
                f"{path}: column {name!r} holds {count} cells, and the footer says {rows} rows; the file is damaged: write "
                "it again."
            )


def _leaves(metadata: Any, name: str) -> tuple[list[str], int]:
    """Paths of the texts that a column consists of; and bytes of the objects that its lists become, by the footer."""
    texts, inner = [], 0
    for number in range(metadata.num_columns):
        leaf = metadata.schema.column(number)
        if leaf.path != name and not leaf.path.startswith(f"{name}."):
            continue
        if leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type != "DECIMAL":
            texts.append(leaf.path)
        if leaf.max_repetition_level:
            values = (metadata.row_group(group).column(number).num_values for group in range(metadata.num_row_groups))
            inner += _VALUE_BYTES * sum(values)
    return texts, inner


def _unpacked(cells: Any) -> int:
    """Bytes of cells as Python objects, of which texts are codes so far."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(cells, pa.DictionaryArray):
        if not (_is_string(cells.type.value_type) or _is_bytes(cells.type.value_type)):
            return _VALUE_BYTES * len(cells)
        return pc.sum(pc.binary_length(cells.dictionary).take(cells.indices)).as_py() or 0
    if isinstance(cells, pa.StructArray):
        return sum(map(_unpacked, cells.flatten()))
    if _inner(cells.type) is not None:
        return int(4 * (cells.nbytes - cells.flatten().nbytes)) + _unpacked(cells.flatten())
    return int(4 * cells.nbytes)


def _measured(path: Path, unpacked: int, size: int, *, in_parts: bool = False) -> None:
    try:
        check_unpacked(unpacked, size, in_parts=in_parts)
    except ValueError as error:
        raise TargetError(f"{path}: {error}.") from None


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, str | os.PathLike) and bool(files_of(Path(x)))


@reader("parquet", "a parquet file or a folder of them", _accepts, rank=30, columns=True)
def _read(x: str | os.PathLike[str], options: Options) -> Table:
    root = Path(x).absolute()
    with readable(root):
        return table_of(parquet_columns(root, options), options)


@contextmanager
def readable(root: Path) -> Iterator[None]:
    """Where a file is read.

    Raises:
        TargetError: it is damaged.
    """
    try:
        yield
    except DAMAGE as error:
        raise TargetError(f"{root}: not a readable parquet file ({first_line(error)}); write it again.") from None


def parquet_columns(root: Path, options: Options, *, paths: bool = False) -> Columns:
    """The columns of a file, or of those of a folder; within ``readable``.

    Args:
        paths: a column of texts may name images by their paths.
    """
    import pyarrow.parquet as pq

    files = sorted(files_of(root), key=lambda path: (split_rank(split_of(path)), path.name))
    schema = pq.read_schema(files[0])
    folder = root if root.is_dir() else root.parent
    counts = [pq.read_metadata(path).num_rows for path in files]
    for path, count in zip(files, counts, strict=True):
        _measured(path, 2 * CELL_BYTES * count, path.stat().st_size)  # a name and a label each
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise TargetError(f"{files[0]}: two columns are called '{twice}'; rename one.")
    splits = [split_of(path) for path, count in zip(files, counts, strict=True) for _ in range(count)]
    shown = [path.relative_to(folder).as_posix() for path in files]
    lists = [name for name in schema.names if _inner(schema.field(name).type) is not None]
    texts = reads_text(schema.names, options, declared(schema, "Image"))

    def read(name: str) -> list[object]:
        return [cell for path in files for cells in column_cells(path, name) for cell in cells]

    def require(chosen: Sequence[str]) -> None:
        for path in files[1:]:
            other = pq.read_schema(path).names
            if not set(chosen) <= set(other):
                expected = ", ".join(chosen) if texts else " and ".join(f"'{name}'" for name in chosen)
                raise other_columns(path, other, [expected], files[0])

    def pictures_of(
        column: str, rows: Sequence[int] | None = None, *, masks: bool = False
    ) -> tuple[Items, Sequence[str], list[str]]:
        if paths and _is_string(schema.field(column).type):
            return path_pictures(found.columns[column], rows, found.wheres, root, folder, options)
        names = [f"{said}:{row}" for said, count in zip(shown, counts, strict=True) for row in range(count)]
        items: Items = ParquetItems(files, column)
        if masks:
            return items, names, []
        hashes = []
        with FileMemory(str(root), options.hash_mode) as memory:
            for path, said in zip(files, shown, strict=True):
                hashes += _hashes(path, said, column, memory)
        if rows is None:
            return items, names, hashes
        chosen = list(rows)
        return SubsetItems(items, np.array(chosen)), [names[row] for row in chosen], [hashes[row] for row in chosen]

    found = Columns(
        where=str(root) if texts or len(files) > 1 or root.is_dir() else str(files[0]),
        name=root.name if root.is_dir() else root.stem,
        columns=LazyColumns(schema.names, read),
        names=[
            f"{said if not texts else path.name}:{row}"
            for path, said, count in zip(files, shown, counts, strict=True)
            for row in range(count)
        ],
        pictures_of=pictures_of,
        splits=splits if any(splits) else None,
        types={
            "ClassLabel": declared(schema, "ClassLabel"),
            "Image": _pictures(schema),
            "Boxes": [name for name in schema.names if _holds_boxes(schema, name)],
        },
        lists=lists,
        words=[name for name in lists if _is_string(_inner(schema.field(name).type))],
        class_names=lambda column: class_names_of(schema, column),
        origin={"path": str(root)},
        require=require,
        split_column=False,
        facts=_facts(schema),
    )
    return found


def _inner(kind: pa.DataType) -> pa.DataType | None:
    """What a list holds."""
    import pyarrow as pa

    known = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if known else None


def _is_string(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _pictures(schema: pa.Schema) -> list[str]:
    """Columns that are declared to be images; and of an undeclared table those of bytes and path."""
    import pyarrow as pa

    def looks(name: str) -> bool:
        kind = schema.field(name).type
        return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}

    said = declared(schema, "Image")
    return said or [name for name in schema.names if looks(name) and name.lower() in (*IMAGE_COLUMNS, *MASK_COLUMNS)]


def _holds_boxes(schema: pa.Schema, name: str) -> bool:
    """Whether a column is a struct of lists, or a list of structs, with fields for boxes and classes."""
    import pyarrow as pa

    kind = schema.field(name).type
    kind = _inner(kind) or kind
    return pa.types.is_struct(kind) and is_boxes(dict.fromkeys((field.name for field in kind), 0))


def _facts(schema: pa.Schema) -> dict[str, object]:
    """What the schema says of the whole set beside its columns: ``classes`` and ``ignore_index``."""
    described = _features(schema)
    classes, ignore = described.get("classes"), described.get("ignore_index")
    facts: dict[str, object] = {}
    if isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes):
        facts["names"] = classes
    if isinstance(ignore, int):
        facts["ignore_index"] = ignore
    return facts


def _hashes(path: Path, shown: str, column: str, memory: FileMemory) -> list[str]:
    import pyarrow.parquet as pq

    status = path.stat()
    known = memory.get(shown, status)
    if known is not None and known["column"] == column:
        return list(known["hashes"])
    hashes: list[str] = []
    unpacked = 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=64, columns=[column]):
        for value in batch.column(0):
            content = _image_bytes(value, path, len(hashes))
            unpacked += len(content)
            hashes.append(content_hash(content))
        _measured(path, unpacked, status.st_size, in_parts=True)
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
        if not _is_bytes(value.type):
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
        return memoryview(read_image_file(beside))
    except OSError as error:
        raise TargetError(f"{file}: row {row}: {beside} cannot be read ({error.strerror}).") from None


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
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


def _declared_names(described: object) -> Any:
    """The first ``names`` within the description of a column."""
    if isinstance(described, dict):
        if described.get("names"):
            return described["names"]
        described = [value for value in described.values() if isinstance(value, dict | list)]
    if isinstance(described, list):
        return next((names for names in map(_declared_names, described) if names), None)
    return None
