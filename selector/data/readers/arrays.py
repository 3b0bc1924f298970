"""A tuple of items and labels in memory: images (arrays, tensors, Pillow images or their paths), texts, lists of words, or
ready features. What lies beside images may also be masks or boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selector.core.contracts import Items, RawText
from selector.core.errors import TargetError
from selector.core.table import Table
from selector.data._items import ListItems, is_picture, is_tensor
from selector.data._memory import STRINGS, annotation_of, raw_image, rows_of
from selector.data._sentences import words_table
from selector.data._tabular import path_pictures
from selector.data.reader import Options, annotated, reader, refuse_masked
from selector.modalities.image import content_hash, is_image_name
from selector.modalities.text import text_hash
from selector.modalities.tokens.tokenizer import is_pair

Kind = Literal["images", "paths", "features", "words", "texts"]


def kind_of(items: Any, labels: object) -> Kind | None:
    """What a first element of a pair is; by its first rows where that tells."""
    if is_tensor(items) or (isinstance(items, np.ndarray) and items.dtype.kind not in STRINGS):
        return "images" if items.ndim >= 3 else "features"
    if isinstance(items, Mapping):
        return "features"
    rows = rows_of(items)
    if rows is None:
        return None
    if rows and all(is_picture(row) for row in rows):
        return "images"
    if rows and all(is_image_name(row) for row in rows):
        return "paths"
    if rows and _is_list_of_words(rows[0]) and not all(_is_tuple_pair(row) for row in rows) and _are_lists(labels):
        return "words"
    if not rows or any(isinstance(row, str) or is_pair(row) for row in rows):
        return "texts"
    return None


def _is_tuple_pair(x: object) -> bool:
    return isinstance(x, tuple) and is_pair(x)


def _is_list_of_words(x: object) -> bool:
    x = x.tolist() if isinstance(x, np.ndarray) else x
    return isinstance(x, list | tuple) and all(isinstance(word, str) for word in x)


def _are_lists(x: object) -> bool:
    """Lists of labels; an array (N, L) are several labels of each text."""
    rows = rows_of(x) or ()
    return bool(rows) and (isinstance(rows[0], list | tuple) or getattr(rows[0], "ndim", 0) > 0)


def _accepts(x: object, options: Options) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and kind_of(*x) is not None


@reader(
    "arrays",
    "a tuple (uint8 images (N, H, W[, C]), images, paths, texts, lists of words, float features (N, D) or a mapping of names to them; labels)",
    _accepts,
)
def _read(x: tuple[object, object], options: Options) -> Table:
    items, labels = x
    kind = kind_of(items, labels)
    if kind == "features":
        return features_table(items, labels, options)
    if kind == "words":
        return _words(items, labels, options)
    if kind == "texts":
        return _texts(items, labels, options)
    return _images(items, labels, options) if kind == "images" else _paths(items, labels, options)


# ---------------------------------------------------------------------------- images


def _images(images: Any, labels: Any, options: Options) -> Table:
    where = options.name or "arrays"
    for part in [images] if isinstance(images, np.ndarray) else rows_of(images) or ():
        refuse_masked(part, "the images", where)
    if isinstance(images, np.ndarray) and (images.dtype != np.uint8 or images.ndim not in (3, 4)):
        raise TargetError(
            f"{where}: images are {images.dtype} {images.shape}; expected uint8 (N, H, W) or (N, H, W, 1|3|4). "
            f"Convert values in 0..1 with (images * 255).round().astype('uint8')."
        )
    if isinstance(images, np.ndarray):
        items: Any = images
        if images.ndim == 4 and images.shape[3] not in (1, 3, 4) and images.shape[1] in (1, 3, 4):  # (N, C, H, W)
            items = images.transpose(0, 2, 3, 1)
        hashes = [content_hash(image) for image in items]
    else:
        rows = images if is_tensor(images) else rows_of(images) or ()
        items = [raw_image(image, f"{where}: row {row}") for row, image in enumerate(rows)]
        hashes = [content_hash(image) for image in items]
    return _beside(where, ListItems(items), [f"row {i}" for i in range(len(items))], hashes, labels, options)


def _paths(paths: Any, labels: object, options: Options) -> Table:
    where = options.name or "paths"
    rows = [os.fspath(path) for path in rows_of(paths) or ()]
    places = [f"{where}: row {row}" for row in range(len(rows))]
    items, names, hashes = path_pictures(rows, None, places, None, Path.cwd(), options)
    return _beside(where, items, names, hashes, labels, options)


def _beside(
    where: str, items: Items, names: Sequence[str], hashes: list[str], labels: object, options: Options
) -> Table:
    role, column, schema = annotation_of(labels, where)
    table = Table(where, options.name or where, "image", items, names, hashes)
    return annotated(table, column, options, role=role, schema=schema)


# ---------------------------------------------------------------------------- features


def features_table(given: object, labels: object, options: Options, origin: dict[str, object] | None = None) -> Table:
    """Ready features (N, D), or several arrays of them by name, of which row i is of the same item."""
    where = options.name or "features"
    named = dict(sorted((str(name), rows) for name, rows in given.items())) if isinstance(given, Mapping) else {}
    if isinstance(given, Mapping) and not named:
        raise TargetError(f"{where}: the mapping is empty; expected arrays (N, D) by name.")
    parts = {name: _floats(rows, f"{where}: '{name}'") for name, rows in named.items()} or {"": _floats(given, where)}
    first, *others = parts
    for name in others:
        if len(parts[name]) != len(parts[first]):
            raise TargetError(
                f"{where}: '{name}' has {len(parts[name])} rows and '{first}' {len(parts[first])}; they must be features "
                "of the same items in the same order."
            )
    # a row is what it is in all of the arrays, so that each of them is divided into the same splits, folds and blocks
    rows = np.concatenate(list(parts.values()), axis=1) if others else parts[first]
    table = Table(
        where=where,
        name=where,
        modality="rows",
        items=ListItems([]),
        names=[f"row {i}" for i in range(len(rows))],
        hashes=[content_hash(row) for row in rows],
        origin=origin,
        features=rows,
        feature_widths={name: rows.shape[1] for name, rows in parts.items()} if named else {},
    )
    return annotated(table, labels, options)


def _floats(features: Any, where: str) -> np.ndarray:
    """float32 (N, D), finite."""
    if is_tensor(features):
        features = features.detach().cpu().float().numpy()
    refuse_masked(features, "the features", where)
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        raise TargetError(f"{where}: features are {features.dtype} {features.shape}; expected floats (N, D).")
    rows = np.ascontiguousarray(features, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise TargetError(
            f"{where}: features hold NaN or inf in {len(bad)} of {len(rows)} rows (first: row {bad[0]}); "
            f"remove these rows or repair what made them."
        )
    return rows


# ---------------------------------------------------------------------------- texts


def _texts(items: object, labels: object, options: Options) -> Table:
    texts: list[RawText] = []
    where = options.name or "texts"
    for row, text in enumerate(rows_of(items) or ()):
        if isinstance(text, str):
            texts.append(str(text))
        elif is_pair(text):
            texts.append((text[0], text[1]))
        else:
            raise TargetError(f"{where}: row {row} is a {type(text).__name__}; expected a text or a pair of texts.")
    if len({isinstance(text, str) for text in texts}) > 1:
        raise TargetError(f"{where}: some rows are texts and some are pairs; give all of one kind.")
    names = [f"row {i}" for i in range(len(texts))]
    table = Table(where, where, "text", ListItems(texts), names, [text_hash(text) for text in texts])
    return annotated(table, labels, options)


def _words(items: object, labels: object, options: Options) -> Table:
    where = options.name or "sentences"
    words, tags = rows_of(items) or [], rows_of(labels) or []
    if _may_be_pairs(words, tags):
        raise TargetError(
            f"{where}: lists of two strings with two labels of 0 or 1 each may be sentences of two words or pairs with "
            "several labels; give pairs as tuples of two texts, or labels of words by their names."
        )
    names = [f"row {i}" for i in range(len(words))]
    return words_table(where, where, names, words, tags, options)


def _may_be_pairs(words: Sequence[object], labels: Sequence[object]) -> bool:
    def listed(cell: object) -> list[object]:
        return list(cell) if isinstance(cell, list | tuple | np.ndarray) else []

    two = all(isinstance(own, list) and len(own) == 2 for own in words)
    return two and all(len(found := listed(tags)) == 2 and all(tag in (0, 1) for tag in found) for tags in labels)
