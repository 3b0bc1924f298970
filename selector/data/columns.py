"""From the columns of a table, whatever holds them (CSV, JSONL, parquet, ``datasets``, pandas), to items and annotations.

A table is one of words (a list of words and of labels a row), of texts, or of images; which one is told from types and
names of its columns, or by the column that was named. Then one column, or several, are the annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from selector.core.contracts import Items, RawText
from selector.core.errors import TargetError, did_you_mean
from selector.core.table import Table
from selector.core.units import words as split_words
from selector.data._boxes import box_cells, boxes_of_rows, is_boxes, row_columns
from selector.data._items import ListItems, is_picture
from selector.data._sentences import words_table
from selector.data.reader import SPLIT_NAMES, Options, find_column, wanted_labels
from selector.modalities.image import is_image_name
from selector.modalities.text import text_hash

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "image_id")
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "texts", "content", "document", "utterance", "query", "question", "review")
WORD_COLUMNS = ("tokens", "words")
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "fold")
MASK_COLUMNS = (
    "mask", "masks", "mask_path", "mask_file", "annotation", "segmentation", "segmentation_mask", "semantic_mask", "label",
    "labels",
)  # fmt: skip
BOX_COLUMNS = ("objects", "boxes", "bboxes", "annotations")
_TAG_COLUMNS = ("tags", "labels", "label", "ner_tags", "pos_tags", "chunk_tags", "slots")
_TEXT_LABELS = ("label", "labels", "class", "target", "category", "intent", "class_name")
_SAMPLE = 100  # rows that are looked at to tell what a column holds


class LazyColumns(Mapping[str, list[Any]]):
    """Columns that are each read when they are asked for, and then kept."""

    def __init__(self, names: Sequence[str], read: Callable[[str], list[Any]]) -> None:
        self._names, self._read = names, read
        self._kept: dict[str, list[Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._kept:
            self._kept[name] = self._read(name)
        return self._kept[name]


@dataclass
class Columns:
    """A table before it is known what its columns are.

    Attributes:
        where: the input, in messages; ``name`` for people.
        columns: cells by name of the column; read when they are asked for where that costs.
        names: where each row stands, for messages (``line 4``); ``places``: the same with the file, for errors.
        splits: that the files give.
        types: columns by declared type: ``Image``, ``ClassLabel``.
        lists: columns of lists; ``words``: columns of lists of strings.
        class_names: that are declared for a column.
        written: labels are words of a file, of which whole numbers are made.
        origin: what reads it again.
        pictures_of: items, names and hashes of a column of images, or of paths of images; of all rows when none are
            given. Hashes may be empty for masks, which the task hashes when it decodes them.
        picture_columns, picture_role: usual names of that column, and what a message calls it.
        label_columns: usual names of labels of images.
        masks_of: a column of masks that lie in memory, where it holds some.
        require: checks that every file has the columns that were chosen.
        values_tell: values are looked at to find the column of images.
        texts_only: a table without a known column is one of texts, whose column is asked for.
        split_column: whether a column may say the splits of images.
        facts: what the table says of its annotation: ``names``, ``ignore_index``.
    """

    where: str
    name: str
    columns: Mapping[str, Sequence[Any]]
    names: Sequence[str]
    pictures_of: Callable[..., tuple[Items, Sequence[str], list[str]]]  # (column, rows=None, *, masks=False)
    places: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    types: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lists: Sequence[str] = ()
    words: Sequence[str] = ()
    class_names: Callable[[str], Sequence[str] | None] = lambda _: None
    written: bool = False
    origin: dict[str, Any] | None = None
    picture_columns: Sequence[str] = IMAGE_COLUMNS
    picture_role: str = "image"
    label_columns: Sequence[str] = ("label", "labels", "class", "target", "category", "fine_label")
    masks_of: Callable[[str], object] | None = None
    require: Callable[[Sequence[str]], None] = lambda _: None
    values_tell: bool = False
    texts_only: bool = False
    split_column: bool = True
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def known(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    @property
    def wheres(self) -> Sequence[str]:
        """Where each row stands, with the file."""
        return self.places if self.places is not None else [f"{self.where}: {name}" for name in self.names]


def table_of(found: Columns, options: Options) -> Table:
    """Items and annotations of a table.

    Raises:
        TargetError: a column cannot be determined, or holds something else; names the columns there are, or the row.
    """
    if takes_words(found, options):
        return _of_words(found, options)
    if found.values_tell and (valued := _picture_column(found, options)) is not None:
        return _of_pictures(found, replace(options, image_column=valued))
    pictures = found.types.get("Image", ())
    if reads_text(found.known, options, pictures):
        return _of_texts(found, options)
    has_pictures = bool(pictures) or any(name in found.picture_columns for name in found.known)
    if found.texts_only and options.image_column is None and not has_pictures:
        return _of_texts(found, options)
    return _of_pictures(found, options)


def _picture_column(found: Columns, options: Options) -> str | None:
    """The column whose values are images or paths of images, where no name tells which one it is.

    None beside a column of texts, unless that is the one; and where several hold images, of which one may be masks.
    """
    lower = {name.lower() for name in found.known}
    if options.text_column is not None or options.image_column is not None or lower & set(found.picture_columns):
        return None
    free = [
        name for name in found.known if name not in wanted_labels(options, found.known) and name != options.mask_column
    ]
    valued = [name for name in free if _holds_pictures(found.columns[name])]
    valued = [name for name in valued if name.lower() not in MASK_COLUMNS] if len(valued) > 1 else valued
    texts = [name for name in usual_of(free, TEXT_COLUMNS) if name not in valued]
    return valued[0] if len(valued) == 1 and not texts else None


def _holds_pictures(cells: Sequence[object]) -> bool:
    some = [cell for cell in cells[:_SAMPLE] if cell is not None and cell == cell and cell != ""] if len(cells) else []
    return bool(some) and all(is_image_name(cell) or is_picture(cell) for cell in some)


def reads_text(columns: Sequence[str], options: Options, images: Sequence[str] = ()) -> bool:
    """Whether a table is one of texts: a text column was named, or has a usual name and no column of images has.

    Args:
        columns: of the table.
        images: columns that are declared to hold images.
    """
    if options.text_column is not None:
        return True
    if options.image_column is not None or images:
        return False
    lower = {column.lower() for column in columns}
    return bool(lower & set(TEXT_COLUMNS)) and not lower & {*PATH_COLUMNS, *IMAGE_COLUMNS}


def takes_words(found: Columns, options: Options) -> bool:
    """Whether words are what is meant: a column of lists of strings, beside another one of lists.

    A table that has a column of texts as well is one of words only where ``text_column`` or
    ``label_column`` names a column of lists.
    """
    if not found.words or len(found.lists) < 2 or options.image_column is not None:
        return False
    if options.text_column is not None:
        return options.text_column in found.words
    if options.label_column is not None:
        return options.label_column in found.lists
    lower = {column.lower() for column in found.known}
    return not reads_text(found.known, options) and not lower & {*IMAGE_COLUMNS, *PATH_COLUMNS}


# ---------------------------------------------------------------------------- texts


def _of_texts(found: Columns, options: Options) -> Table:
    texts = [options.text_column] if isinstance(options.text_column, str) else list(options.text_column or ())
    where, known = found.where, found.known
    if len(texts) == 1 and texts[0] not in known:  # as on the command line
        texts = split_words(texts[0])
    if len(texts) > 2:
        raise TargetError(f"{where}: text_column names {len(texts)} columns; give one, or two for pairs.")
    taken = [column_of(where, "text", name, known, (), "text_column") for name in texts]
    if len(set(taken)) < len(taken):
        raise TargetError(f"{where}: text_column names '{taken[0]}' twice; give it once, or two columns for pairs.")
    if not taken:
        hint = "; of images name their column with image_column (--image-column)" if found.values_tell else ""
        taken = [column_of(where, "text", None, known, usual_of(known, TEXT_COLUMNS), "text_column", hint)]
    others = [name for name in known if name not in taken]
    labels = wanted_labels(options, known)
    if len(labels) > 1:
        labels = _each_once(where, [column_of(where, "label", name, known, (), "label_column") for name in labels])
    else:
        usual = list(found.types.get("ClassLabel", ())) or usual_of(others, _TEXT_LABELS)
        labels = [column_of(where, "label", labels[0] if labels else None, known, usual, "label_column")]
    found.require([*taken, *labels])
    items = _texts(found, taken)
    return _table(
        found,
        options,
        "text",
        ListItems(items),
        found.names,
        [text_hash(text) for text in items],
        {"label": tuple(labels)},
        {name: found.columns[name] for name in labels},
        _splits(found, [name for name in others if name not in labels], [f"{where}: {name}" for name in found.names]),
    )


def _texts(found: Columns, columns: Sequence[str]) -> list[RawText]:
    texts: list[RawText] = []
    for row, parts in enumerate(zip(*(found.columns[name] for name in columns), strict=True)):
        cells = ["" if part is None else part for part in parts]
        for name, cell in zip(columns, cells, strict=True):
            if not isinstance(cell, str):
                raise TargetError(
                    f"{found.where}: {found.names[row]}: column '{name}' holds {type(cell).__name__} ({str(cell)[:40]}); "
                    "expected text."
                )
        texts.append(cells[0] if len(cells) == 1 else (cells[0], cells[1]))
    return texts


# ---------------------------------------------------------------------------- words


def _of_words(found: Columns, options: Options) -> Table:
    where, known, lists = found.where, found.known, list(found.lists)
    if options.text_column is not None and not isinstance(options.text_column, str):
        raise TargetError(f"{where}: text_column names several columns; lists of words must be in one.")
    words = column_of(
        where, "word", options.text_column, known, usual_of(lists, WORD_COLUMNS) or list(found.words), "text_column"
    )
    candidates = [name for name in lists if name != words]
    candidates = usual_of(candidates, _TAG_COLUMNS) or candidates
    label = column_of(where, "label", options.one_label, known, candidates, "label_column")
    found.require([words, label])
    splits = _splits(
        found, [name for name in known if name not in (words, label)], [f"{where}: {name}" for name in found.names]
    )
    return words_table(
        found.name, where, found.names, found.columns[words], found.columns[label], options,
        splits=splits, class_names=found.class_names(label), origin=found.origin,
    )  # fmt: skip


# ---------------------------------------------------------------------------- images


def _of_pictures(found: Columns, options: Options) -> Table:
    where, known = found.where, found.known
    typed = sorted(found.types.get("Image", ()), key=lambda name: name.lower() in MASK_COLUMNS)
    picture = find_column(where, found.picture_role, options.image_column, known, found.picture_columns, typed)
    others = [name for name in known if name != picture]
    rows = row_columns(others) if options.task in (None, "detection") else None
    if rows is not None and options.box_column is None and options.mask_column is None:
        return _of_box_rows(found, options, picture, rows)
    pictures = [name for name in others if name in typed or _names_pictures(found, name)]
    boxes = [name for name in others if name in found.types.get("Boxes", ()) or _holds_boxes(found, name)]
    roles = roles_of(found, options, picture, pictures, boxes)
    chosen = [name for columns in roles.values() for name in columns]
    found.require([picture, *chosen])
    items, names, hashes = found.pictures_of(picture)
    columns: dict[str, object] = {}
    facts = dict(found.facts)
    for role, chosen_here in roles.items():
        for name in chosen_here:
            if role == "mask":
                columns[name] = found.masks_of(name) if found.masks_of is not None else None
                if columns[name] is None:
                    columns[name], facts["mask_names"], _ = found.pictures_of(name, masks=True)
            elif role == "boxes":
                columns[name] = box_cells(found.columns[name], found.names, where)
            else:
                columns[name] = found.columns[name]
            if role != "label" and (declared := found.class_names(name)):
                facts["names"] = declared
    splits = _splits(found, [name for name in others if name not in chosen]) if found.split_column else found.splits
    return _table(found, options, "image", items, names, hashes, roles, columns, splits, facts)


def _names_pictures(found: Columns, name: str) -> bool:
    """Whether a column without a declared type names mask files: by its name and its first cell."""
    if name.lower() not in MASK_COLUMNS or "Image" in found.types:
        return False
    if found.masks_of is not None and found.masks_of(name) is not None:
        return True
    first = next((cell for cell in found.columns[name][:_SAMPLE] if cell is not None and cell != ""), None)
    return is_image_name(first)


def _holds_boxes(found: Columns, name: str) -> bool:
    if "Boxes" in found.types or name.lower() not in BOX_COLUMNS:
        return False
    return is_boxes(
        next((cell for cell in found.columns[name][:_SAMPLE] if isinstance(cell, Mapping | list) and cell), None)
    )


def roles_of(
    found: Columns, options: Options, picture: str, pictures: Sequence[str], boxes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The annotation columns of images by role; what was named alone, else all that type and name tell.

    Args:
        picture: the column of the items.
        pictures: further columns of images, which are masks; ``boxes``: columns of boxes.

    Raises:
        TargetError: no column can be determined, or one that was named is not there.
    """
    where, columns = found.where, found.known
    if options.mask_column is not None:
        return {"mask": (find_column(where, "mask", options.mask_column, columns, ()),)}
    if options.box_column is not None:
        return {"boxes": (find_column(where, "boxes", options.box_column, columns, ()),)}
    wanted = [find_column(where, "label", name, columns, ()) for name in wanted_labels(options, columns)]
    if wanted:
        role = "mask" if wanted[0] in pictures else "boxes" if wanted[0] in boxes else "label"
        return {role if len(wanted) == 1 else "label": tuple(_each_once(where, wanted))}
    free = [name for name in columns if name not in (picture, *pictures, *boxes)]
    typed = found.types.get("ClassLabel", ())
    label = next((name for name in (*typed, *found.label_columns) if name in free), None)
    mask = next((name for usual in MASK_COLUMNS for name in pictures if name.lower() == usual), None)
    box = next((name for usual in BOX_COLUMNS for name in boxes if name.lower() == usual), None)
    roles: dict[str, tuple[str, ...]] = {
        role: (name,) for role, name in (("label", label), ("mask", mask), ("boxes", box)) if name is not None
    }
    if not roles:
        find_column(where, "label", None, columns, found.label_columns, typed)  # says what is missing
    return roles


def _each_once(where: str, columns: list[str]) -> list[str]:
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise TargetError(f"{where}: label_column names '{twice}' twice; give each column once.")
    return columns


def _of_box_rows(found: Columns, options: Options, picture: str, rows: tuple[str, Sequence[str]]) -> Table:
    """A table with a row a box, whose images occur as often as they have boxes."""
    kind, sides = rows
    others = [name for name in found.known if name not in (picture, *sides)]
    label = find_column(found.where, "label", options.one_label, others, found.label_columns)
    first, cells = boxes_of_rows(
        found.columns[picture], [found.columns[s] for s in sides], found.columns[label], found.wheres
    )
    items, names, hashes = found.pictures_of(picture, first)
    splits = _splits(found, [name for name in others if name != label])
    if splits is not None:
        _check_same_split(found, picture, splits)
        splits = [splits[row] for row in first]
    facts = {"box_format": kind, **found.facts}
    return _table(found, options, "image", items, names, hashes, {"boxes": ("boxes",)}, {"boxes": cells}, splits, facts)


def _check_same_split(found: Columns, picture: str, splits: Sequence[str]) -> None:
    known: dict[str, str] = {}
    for row, (path, split) in enumerate(zip(found.columns[picture], splits, strict=True)):
        if known.setdefault(path, split) != split:
            raise TargetError(
                f"{found.wheres[row]}: {path} is in {split} here and in {known[path]} above; give it one split."
            )


# ---------------------------------------------------------------------------- columns and splits


def _table(
    found: Columns,
    options: Options,
    modality: str,
    items: Items,
    names: Sequence[str],
    hashes: list[str],
    roles: Mapping[str, tuple[str, ...]],
    columns: Mapping[str, object],
    splits: Sequence[str] | None,
    facts: Mapping[str, object] | None = None,
) -> Table:
    declared = {name: list(own) for name in roles.get("label", ()) if (own := found.class_names(name))}
    return Table(
        where=found.where,
        name=options.name or found.name,
        modality=modality,
        items=items,
        names=names,
        hashes=hashes,
        columns=columns,
        roles=roles,
        schema={**(facts or {}), "class_names": declared, "written": found.written, **options.schema()},
        splits=splits,
        origin=found.origin,
    )


def usual_of(columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns with one of the usual names, whatever their case."""
    return [column for column in columns if column.lower() in names]


def column_of(
    where: str,
    role: str,
    wanted: str | None,
    columns: Sequence[str],
    candidates: Sequence[str],
    option: str,
    hint: str = "",
) -> str:
    """The column that plays a role: the one asked for, or the only candidate.

    Args:
        hint: what else a message advises.

    Raises:
        TargetError: there is none, or more than one.
    """
    flag = f"{option} (--{option.replace('_', '-')})"
    if not columns:
        raise TargetError(f"{where}: the table is empty; expected columns of texts and labels, and one row per item.")
    if wanted is not None:
        if wanted not in columns:
            raise TargetError(
                f"{where}: no column '{wanted}'{did_you_mean(wanted, columns) or '.'} Columns: {', '.join(columns)}."
            )
        return wanted
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        named = " and ".join(f"'{name}'" for name in candidates)
        raise TargetError(f"{where}: {named} could each be the {role} column; choose one with {flag}.")
    raise TargetError(
        f"{where}: which column holds the {role}? Columns: {', '.join(columns)}. Name it with {flag}{hint}."
    )


def _splits(found: Columns, others: Sequence[str], places: Sequence[str] | None = None) -> Sequence[str] | None:
    """Splits that the files or a column give; None where neither says anything.

    Args:
        others: columns that play no other role.
    """
    splits = found.splits
    if splits is None and (column := split_column(found.where, others)):
        places = found.wheres if places is None else places
        cells = zip(found.columns[column], places, strict=True)
        splits = [split_word(str(cell or ""), place, column) for cell, place in cells]
    return splits if splits and any(splits) else None


def split_column(where: str, columns: Sequence[str]) -> str | None:
    """The column that says the split of a row: the first of the usual names, before it in another case.

    Args:
        columns: those that play no other role.

    Raises:
        TargetError: a name stands there in several other cases.
    """
    for usual in SPLIT_COLUMNS:
        if usual in columns:
            return usual
        found = [name for name in columns if name.lower() == usual]
        if len(found) > 1:
            raise TargetError(
                f"{where}: {' and '.join(found)} could each be the column of splits; rename the intended one to '{usual}'."
            )
        if found:
            return found[0]
    return None


def split_word(value: str, where: str, column: str) -> str:
    """What a cell of the split column means; empty where it says nothing.

    Raises:
        TargetError: an unknown word.
    """
    word = value.strip().lower()
    if word and word not in SPLIT_NAMES:
        raise TargetError(
            f"{where}: unknown {column} '{value.strip()}'{did_you_mean(word, SPLIT_NAMES) or '.'} Expected train, val or test."
        )
    return SPLIT_NAMES.get(word, "")
