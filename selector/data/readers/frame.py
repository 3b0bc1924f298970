"""A ``pandas.DataFrame`` of texts, of lists of words, or with a column of images or of their paths."""

from __future__ import annotations

from typing import Any

from selector.core.errors import TargetError
from selector.core.task import Table
from selector.data._memory import memory_columns
from selector.data.columns import table_of
from selector.data.reader import Options, reader


def _accepts(x: Any, options: Options) -> bool:
    # by name: an object that is not theirs must not cost the import
    return any(
        base.__module__.partition(".")[0] == "pandas" and base.__name__ == "DataFrame" for base in type(x).__mro__
    )


@reader("frame", "a pandas.DataFrame of texts or images and labels", _accepts, columns=True)
def _read(x: Any, options: Options) -> Table:
    where = options.name or "table"
    known = [str(name) for name in x.columns]
    if len(set(known)) < len(known):
        raise TargetError(f"{where}: a column name occurs twice ({', '.join(known)}); rename one.")
    columns = {name: x.iloc[:, place].tolist() for place, name in enumerate(known)}
    return table_of(memory_columns(where, columns, options, "row"), options)
