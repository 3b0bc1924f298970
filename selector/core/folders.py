"""Where what is remembered on this machine lies."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """``SELECTOR_CACHE``, or the user's cache folder: hashes of files, lists of model names, the store."""
    return Path(os.environ.get("SELECTOR_CACHE") or platformdirs.user_cache_dir("selector"))
