"""Registry: names from the folder, objects on first use, errors that name the fix."""

import pytest

from selector.core.errors import ConfigError
from selector.core.registry import Registry


@pytest.fixture
def room(tmp_path, monkeypatch):
    package = tmp_path / "animals"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from selector.core.registry import Registry\nregistry = Registry('animals', 'animal')\n"
    )
    (package / "sea_lion.py").write_text(
        "from animals import registry\n@registry.register('sea-lion')\ndef roar():\n    return 'roar'\n"
    )
    (package / "shared").mkdir()
    (package / "shared" / "__init__.py").write_text("")
    (package / "_helper.py").write_text("raise RuntimeError('helpers are not animals')\n")
    (package / "broken.py").write_text("raise RuntimeError('must not be imported by a listing')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import animals

    yield animals.registry
    import sys

    for name in [n for n in sys.modules if n.partition(".")[0] == "animals"]:
        del sys.modules[name]


def test_listing_imports_nothing_and_get_imports_one_file(room):
    assert room.names() == ["broken", "sea-lion"]
    assert "sea-lion" in room
    assert room.get("sea-lion")() == "roar"


def test_folders_count_only_where_the_room_says_so(room):
    assert "shared" not in room.names()
    assert Registry("animals", "animal", folders=True).names() == ["broken", "sea-lion", "shared"]


def test_unknown_name_suggests_the_nearest(room):
    with pytest.raises(
        ConfigError, match=r"unknown animal 'sea-loin'; did you mean 'sea-lion'\? Known: broken, sea-lion"
    ):
        room.get("sea-loin")


def test_a_name_is_taken_once():
    registry: Registry = Registry("selector.tasks", "thing")

    def one(): ...

    def two(): ...

    registry.register("x")(one)
    registry.register("x")(one)  # a reloaded module meets itself
    with pytest.raises(ConfigError, match=r"thing 'x' is already registered by .*one; choose another name for .*two"):
        registry.register("x")(two)
