"""What a label is, and what an item is called."""

from __future__ import annotations

from enum import StrEnum


class LabelKind(StrEnum):
    """What the labels of a row are; proxies and tasks declare which of them they accept."""

    CLASSES = "classes"  # int (N,)
    MULTILABEL = "multilabel"  # 0/1 (N, L)
    REAL = "real"  # float (N,) or (N, T)


def noun_of(modality: str) -> str:
    """One item of a modality (a name in ``modalities/``), in messages.

    >>> noun_of("image"), noun_of("rows")
    ('image', 'row')
    """
    return modality.removesuffix("s")
