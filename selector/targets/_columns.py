"""What columns of tables are usually called, and whether a table is one of texts."""

from __future__ import annotations

from collections.abc import Sequence

from selector.targets._kinds import Options

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath")
IMAGE_COLUMNS = ("image", "img", "images", "picture", "pixel_values")
TEXT_COLUMNS = ("text", "sentence", "texts", "content", "document", "utterance", "query", "question", "review")


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
