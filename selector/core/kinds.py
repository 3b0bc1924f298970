"""The kinds that decide who reads what: what an item is, and what a label is."""

from __future__ import annotations

from enum import StrEnum


class LabelKind(StrEnum):
    """What the labels of a row are; proxies and tasks declare which of them they accept."""

    CLASSES = "classes"  # int (N,)
    MULTILABEL = "multilabel"  # 0/1 (N, L)
    REAL = "real"  # float (N,) or (N, T)


class Modality(StrEnum):
    """What an item of a target is."""

    IMAGE = "image"
    TEXT = "text"
    ROWS = "rows"  # ready features: nothing to extract

    @property
    def noun(self) -> str:
        """One item, in messages."""
        return {"image": "image", "text": "text", "rows": "row"}[self.value]
