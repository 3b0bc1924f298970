"""Every test has caches of its own, never the user's, and no network."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

# how long an example takes is a matter of the machine and of what else it does
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def caches_below(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SELECTOR_CACHE", str(folder / "cache"))
    patch.setenv("SELECTOR_STORE", str(folder / "store"))
    patch.setenv("SELECTOR_HISTORY", str(folder / "history.sqlite"))
    patch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def shared_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a session use: never the user's own cache folders and history."""
    with pytest.MonkeyPatch.context() as patch:
        caches_below(tmp_path_factory.mktemp("shared-cache"), patch)
        patch.setenv("COLUMNS", "160")  # tables are as wide in a worker of pytest-xdist as anywhere
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # each command would compile the package anew: a second
        patch.setenv("RAY_worker_niceness", "0")  # at Ray's 15 its workers starve beside the tests of another core
        yield


@pytest.fixture(scope="module", autouse=True)
def module_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a module use: a confirmed run of another module of this worker is none of their history."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("module-cache")
        caches_below(folder, patch)
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Points the user's cache folders and history into the test's own directory, which goes with it."""
    folder = tmp_path_factory.mktemp("cache")
    caches_below(folder, monkeypatch)
    yield
    shutil.rmtree(folder, ignore_errors=True)  # a suite of four thousand tests filled a disk with them


@pytest.fixture
def own_logging() -> Iterator[None]:
    """A command configures the root logger; in this process it must not stay so."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before, level
    logging.getLogger("selector").setLevel(logging.NOTSET)


def draw(label: int, seed: int, size: int = 48) -> Image.Image:
    """A noisy image whose stripes turn with the class: easy for a good encoder, not trivial."""
    rng = np.random.default_rng(1000 * label + seed)
    y, x = np.mgrid[:size, :size] / size
    angle = np.pi * (label + rng.uniform(-0.15, 0.15)) / 3
    wave = np.sin(2 * np.pi * 5 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    picture = 128 + 60 * wave[..., None] + rng.normal(0, 25, (size, size, 3))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def image_folder(root: Path, per_class: int = 20, classes: tuple[str, ...] = ("across", "leaning", "upright")) -> Path:
    """A class folder of PNG files under ``root``; ``leaning/003.png`` and so on."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            draw(label, i).save(root / name / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in three classes; read only, copy it before changing anything."""
    return image_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and datasets that ``SELECTOR_ASSETS`` names."""
    value = os.environ.get("SELECTOR_ASSETS")
    if not value or not Path(value).is_dir():
        pytest.skip("SELECTOR_ASSETS is not set to a folder of real models and datasets")
    return Path(value)


def mounted(folder: Path, size: str = "300k") -> Iterator[Path]:
    """A small file system of its own, where this user may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small disk")
