"""Reading one class an item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from selector.core.contracts import LabelKind
from selector.core.kinds import noun_of
from selector.core.task import Table
from selector.tasks._annotations import ArrayAnnotations
from selector.tasks._read_labels import (
    check_classes,
    check_slips,
    declared_names,
    encode_classes,
    labels_of,
    number_notes,
)


class ClassLabels(ArrayAnnotations):
    """Class numbers (N,)."""

    def review(self, splits: np.ndarray, names: Sequence[str]) -> list[str]:
        """Nothing to note.

        Raises:
            TargetError: a class that a split lacks.
        """
        check_classes(self.where, self.labels, self.class_names, splits, self.noun)
        return []


class ClassificationReading:
    """``Task.accepts`` and ``Task.read`` of classification."""

    role: ClassVar[str] = "label"

    def accepts(self, table: Table) -> str | None:
        """Any table with one column of labels: what other tasks did not take is classes, or told why not."""
        if "label" not in table.roles:
            return missing_label(table)
        if len(table.roles["label"]) > 1:
            return f"the data have {len(table.roles['label'])} label columns"
        return None

    def read(self, table: Table) -> ClassLabels:
        """Class numbers, sorted by name or as the input declares them; see ``encode_classes``."""
        column = table.roles["label"][0]
        raw, noun = labels_of(table), noun_of(table.modality)
        if table.schema.get("written") and table.schema.get("task") is None:
            check_slips(table, raw)
        fixed = declared_names(table, column)
        codes, class_names, notes = encode_classes(table.where, noun, lambda: table.names, raw, fixed)
        if fixed is None and table.schema.get("task") is None:
            notes += number_notes(raw, LabelKind.CLASSES)
        return ClassLabels(codes, class_names, codes, table.where, noun, tuple(notes))


def missing_label(table: Table) -> str:
    """Why a table has no label an item."""
    if "words" in table.roles:
        return "the data have a label a word, which is tagging"
    return f"the data have no column of labels (they have {' and '.join(table.roles) or 'none'})"
