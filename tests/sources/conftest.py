"""Fixtures of the sources' tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from selector.core.atomic import cache_folder, write_memory
from selector.sources import _index, registry
from tests.support.hub import Asker


@pytest.fixture
def known_names(own_caches: None) -> None:
    """The lists of model names in the test's own cache, so that its processes need not make them again."""
    for source in ("timm", "torchvision"):
        registry.get(source).expand("resnet18*")
    for name, found in _index._read.items():
        write_memory(cache_folder() / name, found)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Asker]:
    made = Asker(tmp_path)
    yield made
    made.close()
