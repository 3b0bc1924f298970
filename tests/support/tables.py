"""Tables as they are written and held in memory: text files, features that parquet declares, a torch dataset."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from torch.utils.data import Dataset


def csv(path: Path, rows: Sequence[str], header: str = "text,label") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def json_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def declared(table: pa.Table, **features: Any) -> pa.Table:
    """The table with the features of its columns, as the Hugging Face libraries write them."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def class_label(names: Sequence[str]) -> dict[str, Any]:
    return {"_type": "ClassLabel", "names": list(names)}


class Pairs(Dataset[Any]):
    """A torch dataset over a list of what it gives."""

    def __init__(self, pairs: Sequence[Any], classes: list[str] | None = None) -> None:
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]
