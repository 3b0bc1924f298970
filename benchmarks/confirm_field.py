"""What the benchmarks on confirmation run on: a set, a seed, and the encoders with the size at which they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.assets import assets_folder
from benchmarks.confirm_rows import one_thread_count
from benchmarks.suite.image_sets import WITHOUT_SPLIT, decode
from selector import sources, tasks
from selector.core.contracts import Preprocess, Target
from selector.data import load_target
from selector.modalities.pixels.prepared import Pixels, open_pixels_many
from selector.tuning import TuningCandidate
from selector.zoo import ModelSpec, load_zoo

ZOO = Path(__file__).parent / "assets-zoo.yaml"
# name: side at which it is trained; None for its own (up to 32 pixels, or fixed)
ENCODERS: dict[str, int | None] = {
    "mlc_resnet8": None,
    "cifar_resnet20": None,
    "svhn_cnn": None,
    "mnist_cnn": None,
    "usps_cnn": None,
    "mnv1_025": 64,
    "mn_edgetpu075": 64,
    "efflite0": 64,
}


def begin(out: Path) -> tuple[Path, dict[str, ModelSpec]] | None:
    """Folder of the assets and the zoo's entries by name; makes ``out`` and settles torch's threads. None without assets."""
    assets = assets_folder("models/ and data/")
    if assets is None:
        return None
    out.mkdir(parents=True, exist_ok=True)
    one_thread_count()
    return assets, {spec.name: spec for spec in load_zoo(ZOO, trust=True).models}


def target_of(assets: Path, name: str, images: int, seed: int) -> Target:
    """At most so many images; the seed draws them and the splits that the set does not bring."""
    if name in WITHOUT_SPLIT:
        raw, labels = WITHOUT_SPLIT[name]()
        pixels = np.stack([np.asarray(decode(one)) for one in raw])
        return load_target((pixels, labels), name=name, max_samples=images, seed=seed)
    return load_target(assets / "data" / name, max_samples=images, seed=seed)


def sized(spec: ModelSpec) -> ModelSpec:
    """The entry at the size at which it is trained here."""
    side = ENCODERS[spec.name]
    if side is None:
        return spec
    return spec.model_copy(update={"preprocess": spec.preprocess.model_copy(update={"input_size": (3, side, side)})})


@dataclass
class Field:
    """One set and seed, and the encoders on it."""

    name: str
    target: Target
    specs: Sequence[ModelSpec]
    steps: int
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        self.task = tasks.registry.get("classification")
        self._opened: dict[str, Pixels] = {}
        self.candidates = [self._candidate(spec) for spec in self.specs]
        for candidate in self.candidates:  # decoding is paid by neither
            self.pixels_for(candidate.load().image_preprocess)

    def pixels_for(self, preprocess: Preprocess) -> Pixels:
        """Decoded images, one folder for all."""
        key = preprocess.pixels_key()
        if key not in self._opened:
            target = self.target
            opened, _ = open_pixels_many(
                target.items, target.hashes, target.names, [preprocess], folder=self.folder / "pixels"
            )
            self._opened |= opened
        return self._opened[key]

    @staticmethod
    def _candidate(spec: ModelSpec) -> TuningCandidate:
        entry = sized(spec)
        return TuningCandidate(
            spec.name, load=lambda: sources.registry.get(spec.source_name).load(entry), identity={"n": spec.name}
        )
