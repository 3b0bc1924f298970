"""Runners against plain torch, and what they do when memory, numbers or backends fail."""

import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from selector import sources
from selector.core.contracts import Encoder, Progress
from selector.core.errors import ConfigError, SourceError
from selector.core.preprocess import Preprocess
from selector.extract import backend_choice as deciding
from selector.extract import backend_table
from selector.extract import encode as encoding
from selector.extract import prefetch_model as opening
from selector.extract.backend_choice import Agreement, agreement
from selector.extract.backends import eager, open_backend, why_not
from selector.extract.backends.eager import has_bfloat16, unrounded
from selector.extract.encode import CHUNK_ROWS, Runner, extract_together, open_runner, resolve_device
from selector.extract.prefetch_model import LoadAhead, open_ahead
from selector.store import FeatureStore
from selector.store.documents import digest
from selector.store.entry import Entry
from selector.zoo import ModelSpec

SIZE = 32
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "float32", "backend": "eager"}
AUTO: dict[str, Any] = {"device": "cpu", "precision": "auto", "backend": "auto"}


class Small(Encoder):
    """An encoder around any module that takes (B, 3, 32, 32) and gives (B, D)."""

    def __init__(self, module: nn.Module | None, num_features: int, name: str = "small") -> None:
        self.name = name
        self.module = module
        self.preprocess = Preprocess(input_size=(3, SIZE, SIZE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        self.identity = {"source": "test", "name": name}
        self.num_features = num_features
        self.num_parameters = 0

    def encode(self, batch: torch.Tensor) -> torch.Tensor:
        assert self.module is not None
        return self.module(batch)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Small:
    return Small(network(), 96)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth color fields, so that the features differ as those of photos do."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 4, 4)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
    return fine.permute(0, 2, 3, 1).round().to(torch.uint8).contiguous().numpy()


class Pictures:
    """Stands where decoded pixels do."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.hashes = [digest({"pixels": row.tobytes().hex()}) for row in rows]
        self.read = 0

    def batch(self, indices: Any) -> np.ndarray:
        self.read += len(indices)
        return self.rows[np.asarray(indices)]


def runner_of(encoder: Encoder, pixels: np.ndarray, **options: Any) -> Runner:
    """Eager torch in float32 for these pictures alone, where nothing else is asked for."""
    return open_runner(encoder, **{**PLAIN, "sample": pixels, "rows_expected": len(pixels), **options})


def extract_rows(
    runner: Runner, entry: Entry, pixels: Any, hashes: Any, indices: np.ndarray, *progress: Any, model: str = ""
) -> None:
    """Of an encoder that is read in one place."""
    (failure,) = extract_together(runner, [entry], pixels, hashes, indices, *progress, model=model)
    if failure is not None:
        raise failure


def reference(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    """Plain torch, one image at a time, contiguous layout, normalized by hand."""
    assert encoder.module is not None
    mean, std = (np.array(v, np.float64) for v in (encoder.preprocess.mean, encoder.preprocess.std))
    rows = []
    for picture in pixels:
        x = ((picture / 255.0 - mean) / std).transpose(2, 0, 1)[None]
        with torch.no_grad():
            rows.append(encoder.module(torch.from_numpy(x).float())[0].numpy())
    return np.stack(rows)


def tiny(architecture: str) -> Encoder:
    spec = ModelSpec(name=architecture, source=f"timm:{architecture}", weights="none")
    loaded: Encoder = sources.registry.get("timm").load(spec)
    return loaded


def test_features_are_those_of_plain_torch(small):
    pixels = pictures(70)
    runner = runner_of(small, pixels)
    rows = runner.encode(pixels)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, reference(small, pixels), rtol=1e-4, atol=1e-5)
    assert runner.identity == {"backend": "eager", "precision": "float32"}
    assert runner.encode(pixels[:0]).shape == (0, 96)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_a_row_does_not_depend_on_its_batch(architecture):
    encoder = tiny(architecture)
    _, height, width = encoder.preprocess.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (40, height, width, 3), dtype=np.uint8)
    runner = runner_of(encoder, pixels)
    rows = runner.encode(pixels)
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(runner.encode(pixels[order]), rows[order])  # to the last bit
    assert np.array_equal(runner.encode(pixels[7:8]), rows[7:8])  # also alone


def test_the_encoder_is_left_as_it_was(small):
    pixels = pictures(8)
    before = {k: v.clone() for k, v in small.module.state_dict().items()}
    runner_of(small, pixels, precision="bfloat16").encode(pixels)
    assert all(torch.equal(v, before[k]) for k, v in small.module.state_dict().items())
    assert all(p.requires_grad for p in small.module.parameters())


def test_an_encoder_without_a_torch_module_runs_as_it_is():
    class Frozen(Small):
        def encode(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.mean((2, 3))

    pixels = pictures(150)
    encoder = Frozen(None, 3)
    runner = open_runner(encoder, device="auto", precision="auto", backend="auto", sample=pixels, rows_expected=10_000)
    assert runner.identity == {"backend": "eager", "precision": "float32"}
    expected = ((pixels / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).mean((1, 2))
    np.testing.assert_allclose(runner.encode(pixels), expected, rtol=1e-4, atol=1e-4)


def prepared(store: FeatureStore, encoder: Encoder, pixels: Pictures) -> tuple[Runner, Entry]:
    runner = runner_of(encoder, pixels.rows[:128], rows_expected=len(pixels.rows))
    entry = store.remember({"s": 1}, {**encoder.identity, **runner.identity}, {"num_features": encoder.num_features})
    return runner, entry


def test_rows_are_appended_in_chunks_and_progress_is_told(small, clock, tmp_path):
    pixels = Pictures(pictures(600))
    runner, entry = prepared(FeatureStore(tmp_path), small, pixels)
    told: list[Progress] = []
    extract_rows(runner, entry, pixels, pixels.hashes, np.arange(600), told.append, model="m")
    assert len(list(tmp_path.rglob("0*.safetensors"))) == 3
    assert [told[0].done, told[-1].done, told[-1].total] == [0, 600, 600]
    assert {(p.stage, p.unit, p.model) for p in told} == {("extract", "images", "m")}
    np.testing.assert_allclose(entry.rows(pixels.hashes), reference(small, pixels.rows), rtol=1e-4, atol=1e-5)
    extract_rows(runner, entry, pixels, pixels.hashes, np.arange(0))
    assert pixels.read == 600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that chunks go by: they stand still until a test moves them."""
    now = [0.0]
    monkeypatch.setattr("selector.extract.encode.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_kill_of_a_slow_network_loses_seconds_not_rows(small, clock, tmp_path):
    pixels = Pictures(pictures(160))
    runner, entry = prepared(FeatureStore(tmp_path), small, pixels)
    stored = []

    def later(step: Progress) -> None:
        stored.append(entry.stored)
        clock[0] = 4 * step.done / runner.batch_size  # 4 s a batch of 16
        if step.done == 144:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_rows(runner, entry, pixels, pixels.hashes, np.arange(160), later)
    assert stored == [0, 0, 0, 0, 64, 64, 64, 112, 112, 112]  # 12 s of work, never more


def test_an_interrupted_extraction_resumes_to_the_same_bytes(small, tmp_path):
    pixels = Pictures(pictures(700))
    runner, calm = prepared(FeatureStore(tmp_path / "calm"), small, pixels)
    extract_rows(runner, calm, pixels, pixels.hashes, np.arange(700))
    runner, entry = prepared(FeatureStore(tmp_path / "torn"), small, pixels)

    def stop(step: Progress) -> None:
        if step.done >= 600:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_rows(runner, entry, pixels, pixels.hashes, np.arange(700), stop)
    assert 0 < len(entry.missing(pixels.hashes)) <= 700 - 2 * CHUNK_ROWS
    again = FeatureStore(tmp_path / "torn").resolve({"s": 1})
    assert again is not None
    missing = again.missing(pixels.hashes)[::-1]  # also when the images come in another order
    extract_rows(runner, again, pixels, pixels.hashes, missing)
    assert again.rows(pixels.hashes).tobytes() == calm.rows(pixels.hashes).tobytes()


@pytest.mark.parametrize("count", [12, 40])  # rows of the only batch are due at once, those of one of several are not
def test_features_that_are_not_finite_are_refused(count, tmp_path):
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) / 0

    pixels = Pictures(pictures(count))
    runner, entry = prepared(FeatureStore(tmp_path), Small(Broken(), 3), pixels)
    with pytest.raises(
        SourceError, match=r"small: features are not finite \(NaN or infinity\) in float32; .*damaged\."
    ):
        extract_rows(runner, entry, pixels, pixels.hashes, np.arange(count))
    assert entry.stored == 0


def test_an_error_while_reading_pixels_is_passed_on(small, clock, tmp_path):
    class Gone(Pictures):
        def batch(self, indices: Any) -> np.ndarray:
            if 300 in indices:
                raise OSError("the disk went away")
            return super().batch(indices)

    pixels = Gone(pictures(400))
    runner, entry = prepared(FeatureStore(tmp_path), small, pixels)
    with pytest.raises(OSError, match="the disk went away"):
        extract_rows(runner, entry, pixels, pixels.hashes, np.arange(400))
    assert entry.stored == CHUNK_ROWS


class Greedy(nn.Module):
    """Fails like an allocator on batches above ``most``."""

    def __init__(self, most: int, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.most, self.error = most, error
        self.sizes: list[int] = []

    def __deepcopy__(self, memo):
        return self  # so that the test sees what the runner's copy was given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return x.mean((2, 3))


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_the_batch_is_halved_when_memory_runs_out(error, tmp_path, caplog):
    module = Greedy(10, error)
    pixels = Pictures(pictures(100))
    runner, entry = prepared(FeatureStore(tmp_path), Small(module, 3), pixels)
    extract_rows(runner, entry, pixels, pixels.hashes, np.arange(100))
    assert runner.batch_size == runner.facts["batch_size"] == 8
    assert (module.sizes[:2], set(module.sizes[1:])) == ([16, 8], {8})
    np.testing.assert_allclose(
        entry.rows(pixels.hashes), reference(Small(module, 3), pixels.rows), rtol=1e-4, atol=1e-5
    )
    assert "out of memory on cpu; going on with batches of 8" in caplog.text


def test_memory_too_small_for_one_image_is_said():
    runner = runner_of(Small(Greedy(0), 3), pictures(4))
    with pytest.raises(SourceError, match=r"memory of cpu is too small for a single image of \(3, 32, 32\)"):
        runner.encode(pictures(4))


def test_other_errors_of_a_network_are_not_taken_for_memory():
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2, 3) @ x

    runner = runner_of(Small(Wrong(), 3), pictures(4))
    with pytest.raises(RuntimeError, match=r"shape|size|dimension"):
        runner.encode(pictures(4))
    assert runner.batch_size == 16


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_items_that_were_decided_on_are_not_run_again(tmp_path, precision):
    small, pixels, store = Small(network(), 96), Pictures(pictures(300)), FeatureStore(tmp_path)
    runner = runner_of(small, pixels.rows[:128], precision=precision, rows_expected=300)
    assert (runner.judged is not None) is (precision == "auto" and has_bfloat16("cpu"))
    entry, part = (store.remember({"s": n}, {"n": n, **runner.identity}, {"num_features": 96}) for n in "ab")
    indices = np.random.default_rng(0).permutation(300)
    told: list[Any] = []
    extract_together(runner, [entry], pixels, pixels.hashes, indices, told.append, sample=np.arange(128))
    assert pixels.read == 300 - (0 if runner.judged is None else 128)
    assert told[-1].done == told[-1].total == 300
    rows = entry.rows(pixels.hashes)
    np.testing.assert_array_equal(rows, runner.encode(pixels.rows))  # each under its own hash, to the last bit
    extract_together(runner, [part], pixels, pixels.hashes, np.arange(100, 200), sample=np.arange(128))
    np.testing.assert_array_equal(part.rows(pixels.hashes[100:200]), rows[100:200])


# ---------------------------------------------------------------------------- precision

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16("cpu"), reason="this processor has no bfloat16 arithmetic")


def test_agreement_is_what_it_says():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((50, 12)).astype(np.float32) + 5
    b = a + 0.3 * rng.standard_normal((50, 12)).astype(np.float32)
    found = agreement(a, b)
    centered = [x - a.mean(0) for x in (a, b)]
    cosines = [np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(*centered, strict=True)]
    assert found.cosine == pytest.approx(np.median(cosines), abs=1e-6)
    nearest = [NearestNeighbors(n_neighbors=1, metric="cosine").fit(x).kneighbors()[1][:, 0] for x in centered]
    assert found.neighbors == pytest.approx((nearest[0] == nearest[1]).mean())
    assert 0.5 < found.neighbors < 1


@pytest.mark.parametrize(
    ("cosine", "neighbors", "images", "good"),
    [
        (0.9975, 1.0, 16, False),
        (0.999, 0.8, 32, True),
        (0.996, 0.96, 128, True),
        (0.994, 1.0, 128, False),
        (1.0, 0.94, 128, False),
    ],
)
def test_few_images_are_judged_by_their_cosine_alone(cosine, neighbors, images, good):
    assert Agreement(cosine, neighbors, images).good() == good


def test_many_rows_are_compared_on_some_of_them_from_everywhere():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((5000, 8)).astype(np.float32)
    b = a.copy()
    b[3000:] = rng.standard_normal((2000, 8))  # two fifths are other rows
    found = agreement(a, b)
    assert found.images == 1024
    assert 0.15 < found.neighbors < 0.4  # a row, its neighbor and those between are of the first three fifths
    b = a.copy()
    b[:] = rng.standard_normal(b.shape)
    assert abs(agreement(a, b).cosine) < 0.1


class Residual(nn.Module):
    """A small branch on a large residual path, as in deep transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branch = nn.Conv2d(3, 8, 5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_full((len(x), 8), 1000.0) + self.branch(x).mean((2, 3))


@needs_bfloat16
def test_residual_sums_of_pictures_on_a_cpu_are_not_rounded():
    encoder, pixels = Small(Residual(), 8), pictures(64)
    runner = runner_of(encoder, pixels, precision="bfloat16")
    expected = reference(encoder, pixels)
    assert np.unique(torch.from_numpy(expected).bfloat16().float()).size <= 2  # what rounding them would leave
    assert agreement(expected, runner.encode(pixels)).cosine > 0.999


@needs_bfloat16
def test_auto_takes_bfloat16_where_the_features_agree(small, monkeypatch):
    monkeypatch.setattr(backend_table, "look_up", lambda *_: None)  # a processor that nobody has measured
    pixels = pictures(128)
    runner = runner_of(small, pixels, **AUTO)
    assert runner.identity == {"backend": "eager", "precision": "bfloat16", "arithmetic": "mixed"}
    assert runner.facts["agreement_cosine"] >= 0.995
    assert runner.facts["agreement_neighbors"] >= 0.95
    assert runner.facts["judged_on"] == 128
    assert agreement(reference(small, pixels), runner.encode(pixels)).good()


@needs_bfloat16
def test_auto_keeps_float32_where_bfloat16_fails(caplog):
    class Strict(nn.Module):
        """Asks for the precision that its weights were made in, as a kernel of its own may."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 8, 5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = self.layer(x).mean((2, 3))
            if rows.dtype != torch.float32:
                raise RuntimeError("expected scalar type Float but found BFloat16")
            return rows

    encoder, pixels = Small(Strict(), 8), pictures(128)
    with caplog.at_level("INFO"):
        runner = runner_of(encoder, pixels, precision="auto")
    assert runner.identity == {"backend": "eager", "precision": "float32"}
    assert "runs in float32: bfloat16 fails (expected scalar type Float but found BFloat16)" in caplog.text
    np.testing.assert_allclose(runner.encode(pixels), reference(encoder, pixels), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="expected scalar type Float"):  # who asks for it is told
        runner_of(encoder, pixels, precision="bfloat16").encode(pixels)


def test_auto_keeps_float32_where_they_do_not():
    class Fragile(nn.Module):
        """A small difference of large numbers, rounded where the convolution gives them."""

        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Conv2d(3, 3, 1, 4)
            nn.init.dirac_(self.lift.weight)
            nn.init.constant_(self.lift.bias, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lift(x).flatten(1) - 1000

    assert runner_of(Small(Fragile(), 192), pictures(128), **AUTO).identity["precision"] == "float32"


def test_few_images_are_not_enough_to_lower_the_precision(small):
    few = runner_of(small, pictures(127), **AUTO)
    assert (few.identity["precision"], few.facts["judged_on"]) == ("float32", 127)
    decided = {**few.identity, **few.facts}
    same = runner_of(small, pictures(128), **AUTO, rows_expected=511, decided=decided)
    assert same.identity["precision"] == "float32"  # what was decided stays
    if has_bfloat16("cpu"):
        many = runner_of(small, pictures(128), precision="auto", rows_expected=512, decided=decided)
        assert many.identity["precision"] == "bfloat16"  # unless a much larger target makes it worth while


def test_what_was_decided_is_done_again_without_measuring():
    module = Greedy(1000)
    decided = {"backend": "eager", "precision": "float32", "batch_size": 4, "device": "cpu", "judged_on": 128}
    runner = runner_of(Small(module, 3), pictures(128), **AUTO, rows_expected=5000, decided=decided)
    assert module.sizes == []
    assert (runner.batch_size, runner.facts) == (4, {"batch_size": 4, "device": "cpu", "judged_on": 128})
    elsewhere = runner_of(Small(module, 3), pictures(4), **AUTO, decided={**decided, "device": "cuda"})
    assert elsewhere.batch_size == 16  # another machine's batch size means nothing here


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"precision": "bfloat"}, r"unknown precision 'bfloat'; did you mean 'bfloat16'\? Known: auto, float32, bfl"),
        ({"backend": "tensorrt"}, r"unknown backend 'tensorrt'. Known: auto, eager, compile, openvino"),
        ({"device": "gpu"}, r"unknown device 'gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        ({"device": "cuda:99"}, r"device 'cuda:99' is not available \(\d+ of this kind found\)"),
    ],
)
def test_wrong_choices_are_named(small, choice, text):
    with pytest.raises(ConfigError, match=text):
        runner_of(small, pictures(4), **choice)


def test_the_device_that_auto_means():
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"


def test_a_backend_that_is_gone_is_replaced_with_a_warning(small, caplog):
    decided = {"backend": "openvino", "precision": "float32", "batch_size": 32, "device": "cpu", "judged_on": 128}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selector.extract.backends.openvino.importlib.util.find_spec", lambda name: None)
        runner = runner_of(small, pictures(8), **AUTO, decided=decided)
        with pytest.raises(SourceError, match=r"backend 'openvino' cannot run here: openvino is not installed \(pip"):
            runner_of(small, pictures(8), backend="openvino")
    assert runner.identity["backend"] == "eager"
    assert "was extracted with openvino, which cannot run here" in caplog.text


def remember(store: FeatureStore, backend: str, speedup: float, setup: float) -> None:
    measured = [{"speedup": speedup, "setup": setup, "model": "other"}] * 2
    store.put("backend", deciding._machine(backend, "cpu"), {"measured": measured})


first_choice = next((name for name in ("openvino", "compile") if not why_not(name, "cpu")), None)
needs_another = pytest.mark.skipif(first_choice is None, reason="neither openvino nor a compiler is here")


class Slow(nn.Module):
    """A network whose time is known to be long: it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling():  # a wait is more than torch 2.10 compiles; a trace keeps none
            time.sleep(0.02)
        return self.network(x)


@needs_another
def test_another_backend_is_tried_when_what_was_measured_says_that_it_pays(tmp_path, monkeypatch):
    class Tried(Exception):
        pass

    def eager_alone(backend: str, *args: Any) -> Any:
        if backend != "eager":
            raise Tried
        return open_backend(backend, *args)

    assert first_choice is not None
    store, encoder, sample = FeatureStore(tmp_path), Small(Slow(), 96), pictures(128)
    asked = {"backend": "auto", "store": store}
    monkeypatch.setattr(deciding, "open_backend", eager_alone)
    remember(store, first_choice, speedup=0.9, setup=0.0)
    runner_of(encoder, sample, **asked, rows_expected=1_000_000)  # slower here: not tried
    remember(store, first_choice, speedup=2.0, setup=10.0)
    runner_of(encoder, sample, **asked, rows_expected=1000)  # would not be paid back
    assert runner_of(encoder, sample, **asked).identity["backend"] == "eager"
    with pytest.raises(Tried):
        runner_of(encoder, sample, **asked, rows_expected=1_000_000)


@needs_another
def test_a_faster_backend_is_taken_measured_and_remembered(tmp_path):
    """Traced or compiled, the wait of ``Slow`` is gone: the other backend is faster for certain."""
    assert first_choice is not None
    store, encoder, sample = FeatureStore(tmp_path), Small(Slow(), 96), pictures(128)
    runner = runner_of(encoder, sample, backend="auto", rows_expected=1_000_000, store=store)
    if first_choice == "openvino":
        assert runner.identity == {"backend": "openvino", "precision": "float32"}
    (found,) = deciding._measured(store, first_choice, "cpu")
    assert found["speedup"] > 0
    assert found["setup"] > 0
    np.testing.assert_allclose(runner.encode(sample[:40]), reference(encoder, sample[:40]), rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------------------- openvino

needs_openvino = pytest.mark.skipif(bool(why_not("openvino", "cpu")), reason=why_not("openvino", "cpu") or "it is here")


@needs_openvino
@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit"])
def test_openvino_gives_the_features_of_torch(architecture, tmp_path):
    encoder = tiny(architecture)
    _, height, width = encoder.preprocess.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (40, height, width, 3), dtype=np.uint8)
    plain = runner_of(encoder, pixels).encode(pixels)
    runner = runner_of(encoder, pixels, backend="openvino", store=FeatureStore(tmp_path))
    assert runner.identity == {"backend": "openvino", "precision": "float32"}
    rows = runner.encode(pixels)
    np.testing.assert_allclose(rows, plain, rtol=1e-3, atol=1e-3 * np.abs(plain).max())
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(runner.encode(pixels[order]), rows[order])


@needs_openvino
def test_openvino_keeps_to_the_threads_that_it_is_given(small, monkeypatch):
    monkeypatch.setenv("SELECTOR_THREADS", "1")
    pixels = pictures(32)
    rows = runner_of(small, pixels, backend="openvino").encode(pixels)
    np.testing.assert_allclose(rows, reference(small, pixels), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr("selector.extract.backends.openvino.given_threads", lambda: "many")
    with pytest.raises(SourceError, match=r"cannot be compiled by OpenVINO: .*INFERENCE_NUM_THREADS"):
        runner_of(small, pixels, backend="openvino")


@needs_openvino
def test_a_compiled_model_is_kept_and_made_again_when_damaged(small, tmp_path, caplog):
    store = FeatureStore(tmp_path)
    pixels = pictures(40)
    decided = {"backend": "openvino", "precision": "float32", "batch_size": 32, "device": "cpu", "judged_on": 128}

    def encoded(encoder: Encoder) -> np.ndarray:
        return runner_of(encoder, pixels, **AUTO, decided=decided, store=store).encode(pixels)

    first = encoded(small)
    (blob,) = tmp_path.rglob("*.blob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selector.extract.backends.openvino._converted", None)  # would fail if it were called
        assert np.array_equal(encoded(small), first)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    assert np.array_equal(encoded(small), first)
    assert "is damaged; it is made again" in caplog.text
    other = Small(network(1), 96)
    other.identity = {"source": "test", "name": "other weights"}
    assert not np.allclose(encoded(other), first)
    assert len(list(tmp_path.rglob("*.blob"))) == 2


@needs_openvino
def test_openvino_takes_gray_networks_and_those_that_keep_the_traced_batch():
    class Fixed(nn.Module):
        """Its trace holds the batch as a number."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(int(x.shape[0]), -1)[:, ::16] + torch.zeros(int(x.shape[0]), 1)

    pixels = pictures(40)
    fixed = Small(Fixed(), 192)
    rows = runner_of(fixed, pixels, backend="openvino").encode(pixels)
    np.testing.assert_allclose(rows, reference(fixed, pixels), rtol=1e-4, atol=1e-4)
    gray = Small(nn.Flatten(), SIZE * SIZE)
    gray.preprocess = Preprocess(input_size=(1, SIZE, SIZE), mean=(0.13,), std=(0.31,))
    plain = runner_of(gray, pixels).encode(pixels)
    rows = runner_of(gray, pixels, backend="openvino").encode(pixels)
    np.testing.assert_allclose(rows, plain, rtol=1e-4, atol=1e-4)


@needs_openvino
def test_openvino_sends_nothing_home(tmp_path):
    code = """
import os, sys, threading
opened = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        opened.append((event, args))
        raise OSError("no network here")
sys.addaudithook(watch)
import numpy as np
from tests.extract.test_encode import Small, network, pictures
from selector.extract.encode import open_runner
runner = open_runner(Small(network(), 96), device="cpu", precision="float32", backend="openvino",
                     sample=pictures(8), rows_expected=8)
assert runner.encode(pictures(8)).shape == (8, 96)
assert "openvino" in sys.modules
assert not opened, opened
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert not os.listdir(os.environ["HOME"]), os.listdir(os.environ["HOME"])
"""
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    top = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=top, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_conversion_that_changes_the_features_is_refused(small, monkeypatch):
    class Turned:
        """A backend whose features are another network's."""

        name, precision, batch_size, mixed = "openvino", "float32", 32, False

        def start(self, pixels: np.ndarray) -> Any:
            return lambda: np.random.default_rng(0).standard_normal((len(pixels), 96)).astype(np.float32)

        def resized(self, batch_size: int) -> None:
            return None

        def in_precision(self, precision: str) -> None:
            return None

    monkeypatch.setattr(deciding, "why_not", lambda name, device: "")
    monkeypatch.setattr(deciding, "open_backend", lambda b, *a: Turned() if b != "eager" else open_backend(b, *a))
    with pytest.raises(SourceError, match=r"small: openvino returns features that differ from torch in float32"):
        runner_of(small, pictures(64), backend="openvino")
    runner = runner_of(small, pictures(64), backend="auto", rows_expected=10**9)
    assert runner.identity["backend"] == "eager"


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not("compile", "cpu")), reason=why_not("compile", "cpu") or "it is here")
def test_a_compiled_network_gives_the_features_of_eager_torch(small):
    pixels = pictures(40)
    runner = runner_of(small, pixels, backend="compile")
    assert runner.identity == {"backend": "compile", "precision": "float32"}
    np.testing.assert_allclose(runner.encode(pixels), reference(small, pixels), rtol=1e-3, atol=1e-4)


def test_without_a_compiler_nothing_is_compiled(small, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert why_not("compile", "cpu") == "no C++ compiler is found"
    with pytest.raises(SourceError, match=r"backend 'compile' cannot run here: no C\+\+ compiler is found"):
        runner_of(small, pictures(4), backend="compile")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_gives_the_features_of_the_cpu(small, precision):
    pixels = pictures(700)
    runner = runner_of(small, pixels, device="cuda", precision=precision)
    assert agreement(reference(small, pixels), runner.encode(pixels)).cosine > 0.999


@pytest.mark.gpu
def test_float32_of_a_gpu_is_not_rounded_to_tf32(small):
    pixels = pictures(64)
    runner = runner_of(small, pixels, device="cuda")
    allowed = torch.backends.cudnn.allow_tf32
    np.testing.assert_allclose(runner.encode(pixels), reference(small, pixels), rtol=1e-4, atol=1e-5)
    assert torch.backends.cudnn.allow_tf32 == allowed  # the caller's own setting


def switches() -> dict[str, str]:
    """Every switch for TF32, as text."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    found = {}
    for name, ask in {
        "all": lambda: torch.backends.fp32_precision,
        "matmul": lambda: cuda.matmul.fp32_precision,
        "conv": lambda: cudnn.conv.fp32_precision,
        "rnn": lambda: cudnn.rnn.fp32_precision,
        "older": torch.get_float32_matmul_precision,
        "older cudnn": lambda: cudnn.allow_tf32,
    }.items():
        try:
            found[name] = str(ask())
        except RuntimeError:  # both sets were used, and disagree
            found[name] = "torch does not say"
    return found


@pytest.fixture
def usual_switches() -> Iterator[None]:
    newer = (torch.backends, torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    kept = [switch.fp32_precision for switch in newer]
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolution
    for switch, value in zip(newer, kept, strict=True):
        switch.fp32_precision = value


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has the older switches only")
@pytest.mark.parametrize("program", ["nothing", "high", "medium", "matmul", "conv", "all"])
def test_float32_for_a_gpu_is_not_rounded_whatever_a_program_set_and_its_settings_come_back(program, usual_switches):
    """The switches are there without a GPU."""
    if program in ("high", "medium"):
        torch.set_float32_matmul_precision(program)
    elif program == "matmul":
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    elif program == "conv":
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    elif program == "all":
        torch.backends.fp32_precision = "tf32"
    before = switches()
    with unrounded(torch.device("cuda"), torch.float32):
        inside = switches()
    after = switches()
    wanted = {"matmul": "ieee", "conv": "ieee", "rnn": "ieee", "older": "highest", "older cudnn": "False"}
    assert {name: inside[name] for name in wanted} == wanted  # torch.compile asks the older ones, and none may raise
    assert after.items() >= {(k, v) for k, v in before.items() if v != "torch does not say"}
    with unrounded(torch.device("cpu"), torch.float32), unrounded(torch.device("cuda"), torch.bfloat16):
        assert switches() == after


def test_a_rate_on_a_card_is_not_that_of_its_first_batch(small, monkeypatch):
    """The first one loads libraries: eager torch pays for that in a batch, a compiled network before."""
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(deciding, "time", clock)
    monkeypatch.setattr(deciding, "open_backend", lambda *_: None)
    passes: list[int] = []

    def run(backend: Any, batch: Any) -> Any:
        passes.append(len(batch))
        clock.now += 0.1 if len(passes) > 1 else 5.0
        return np.zeros((len(batch), 2), np.float32)

    trial = deciding._Trial(small, "cuda", 128, np.zeros((128, 4, 4, 3), np.uint8), None, run, {})
    assert trial.measure("eager", "float32").shape == (128, 2)
    assert trial.rates["eager", "float32"] == pytest.approx(1280)
    assert trial.setup["eager", "float32"] == pytest.approx(5.0)


class Timed(nn.Module):
    """Moves a clock by a fixed time an image, and more in batches that are not of its favorite size."""

    def __init__(self, favorite: int) -> None:
        super().__init__()
        self.favorite = favorite
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TIME.now += len(x) * 1e-3 * (1 + abs(np.log2(len(x) / self.favorite)))
        return self.weight * x.mean((2, 3))


TIME = types.SimpleNamespace(now=0.0, perf_counter=lambda: TIME.now)


@pytest.mark.parametrize("favorite", [4, 32])
def test_the_batch_size_is_searched_once_and_remembered(favorite, tmp_path, monkeypatch):
    monkeypatch.setattr(deciding, "time", TIME)  # no other program has a part in it
    encoder, pixels, store = Small(Timed(favorite), 3), pictures(128), FeatureStore(tmp_path)
    assert runner_of(encoder, pixels, rows_expected=500).batch_size == 16  # few images are not worth a search
    asked = {"rows_expected": 5000, "store": store}
    runner = runner_of(encoder, pixels, **asked)
    assert runner.batch_size == runner.facts["batch_size"] == favorite
    encoder.module.favorite = 16  # what is remembered is not measured again
    assert runner_of(encoder, pixels, **asked).batch_size == favorite
    facts = {**runner.facts, **runner.identity, "batch_size": 16}
    assert runner_of(encoder, pixels, **asked, decided=facts).batch_size == favorite


def test_a_batch_size_that_memory_forced_is_remembered(tmp_path):
    encoder, pixels, store = Small(Greedy(10), 3), pictures(40), FeatureStore(tmp_path)
    runner_of(encoder, pixels, store=store).encode(pixels)
    assert runner_of(encoder, pixels, store=store).batch_size == 8


# ---------------------------------------------------------------------------- short scans


def known(monkeypatch: pytest.MonkeyPatch, setup: float = 0.0, **speeds: float) -> None:
    """What the table says of every network on this processor: how fast its ways are (``eager_bfloat16=2.0``)."""
    ways = [(name, precision) for name in ("eager", "openvino") for precision in ("float32", "bfloat16")]
    of_ways = {way: speeds.get("_".join(way), 1.0 if way[0] == "eager" else 0.5) for way in ways}
    row = backend_table.Known("openvino", of_ways, setup, keeps=True)
    monkeypatch.setattr(backend_table, "look_up", lambda *_: row)
    monkeypatch.setattr(deciding, "WORTHWHILE", 0.0)
    monkeypatch.setattr(eager, "has_bfloat16", lambda _: True)


def batches_run(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """(backend, precision, images) of every batch that is run to decide."""
    ran: list[tuple[str, str, int]] = []
    original = deciding._Trial.measure

    def measure(self: Any, name: str, precision: str, images: int | None = None) -> Any:
        ran.append((name, precision, len(self.sample) if images is None else images))
        return original(self, name, precision, images)

    monkeypatch.setattr(deciding._Trial, "measure", measure)
    return ran


def test_a_short_scan_decides_by_the_table_and_a_long_one_by_measuring(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, eager_bfloat16=2.0)
    ran = batches_run(monkeypatch)
    sample = pictures(128)
    runner = runner_of(small, sample, **AUTO, rows_expected=2000)  # a trial would take an eighth of the time
    assert {images for *_, images in ran} == {16}  # a batch checks what the table says
    assert runner.identity["backend"] == "eager"
    ran.clear()
    monkeypatch.setattr(deciding, "_pays", lambda *_: False)
    runner_of(small, sample, **AUTO, rows_expected=1_000_000)
    assert max(images for *_, images in ran) == 128


class Ponderous(nn.Module):
    """Torch takes a second for an image, by the clock of the tests."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        TIME.now += len(x)
        return x.flatten(1)[:, ::64]


def test_the_rows_of_the_batch_that_checks_the_table_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known(monkeypatch, eager_bfloat16=1.01)
    monkeypatch.setattr(deciding, "time", TIME)
    ran = batches_run(monkeypatch)
    encoder, pixels = Small(Ponderous(), 48), Pictures(pictures(200))
    runner = runner_of(encoder, pixels.rows[:128], **AUTO, rows_expected=200)
    assert {images for *_, images in ran} == {16}
    assert runner.judged is not None
    assert len(runner.judged) == 16
    entry, every = FeatureStore(tmp_path).entry({"n": 1}), np.arange(200)
    extract_together(runner, [entry], pixels, pixels.hashes, every, sample=every[:128])
    assert pixels.read == 200 - 16
    kept = entry.rows(pixels.hashes)
    np.testing.assert_array_equal(kept[:16], runner.judged)
    np.testing.assert_array_equal(kept, runner.encode(pixels.rows))


def test_a_package_that_would_save_much_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known(monkeypatch, setup=1.0, openvino_bfloat16=2.0)
    monkeypatch.setattr(deciding, "_mentioned", False)
    monkeypatch.setattr(deciding, "why_not", lambda *_: "not installed")
    trial: Any = SimpleNamespace(
        encoder=Small(Ponderous(), 48),
        device="cpu",
        rates={("eager", "float32"): 1.0},  # an image a second
    )
    for expected, said in ((10, 0), (200, 1), (200, 1)):  # 4 and 99 seconds would be saved
        deciding._mention_openvino(trial, "float32", expected)
        assert caplog.text.count("zoo-selector[openvino]") == said
    assert "read in about 101 s instead of 200 s" in caplog.text


@needs_openvino
def test_the_likely_backend_is_opened_ahead_where_that_pays_and_is_not_opened_again(small, monkeypatch, tmp_path):
    store = FeatureStore(tmp_path)
    known(monkeypatch, openvino_float32=100.0)
    assert open_ahead(small, **PLAIN, rows_expected=500, store=store) == {}  # a backend was asked for
    assert open_ahead(small, **AUTO, rows_expected=63, store=store) == {}  # too few to judge it
    opened = open_ahead(small, **AUTO, rows_expected=500, store=store)
    assert list(opened) == [("openvino", "float32")]
    monkeypatch.setattr(
        deciding, "open_backend",
        lambda name, *args: pytest.fail("it was opened again") if name == "openvino" else open_backend(name, *args),
    )  # fmt: skip
    keeps = deciding._keeps
    monkeypatch.setattr(
        deciding, "_keeps", lambda trial, *way: keeps(trial, *way) and trial.rates.update({way[:2]: 1e9}) is None
    )
    sample = pictures(128)
    runner = runner_of(small, sample, **AUTO, rows_expected=200, store=store, opened=opened)
    assert runner.identity == {"backend": "openvino", "precision": "float32"}
    np.testing.assert_allclose(runner.encode(sample), reference(small, sample), rtol=1e-3, atol=1e-3)
    known(monkeypatch, setup=1e6, openvino_float32=2.0)
    assert open_ahead(small, **AUTO, rows_expected=500, store=store) == {}


@needs_openvino
def test_what_an_earlier_round_decided_is_opened_ahead_without_a_trial_and_once(small, monkeypatch, tmp_path):
    plain: dict[str, Any] = {"device": "cpu", "rows_expected": 500, "store": FeatureStore(tmp_path)}
    decided = {"backend": "openvino", "precision": "float32", "batch_size": 8, "device": "cpu"}
    monkeypatch.setattr(small, "probe", lambda: pytest.fail("it was timed"))
    asked = {"precision": "float32", "backend": "openvino"}
    opened = open_ahead(small, **plain, **asked, decided=decided)
    assert [(way, backend.batch_size) for way, backend in opened.items()] == [(("openvino", "float32"), 8)]
    monkeypatch.setattr(encoding, "open_backend", lambda *_: pytest.fail("it was opened again"))
    runner = open_runner(small, **plain, **asked, sample=pictures(1), decided=decided, opened=opened)
    assert runner.identity == {"backend": "openvino", "precision": "float32"}
    monkeypatch.undo()
    smaller = {**decided, "batch_size": 4}  # opened for another size
    assert open_runner(small, **plain, **asked, sample=pictures(1), decided=smaller, opened=opened).batch_size == 4
    assert open_ahead(small, **plain, **asked, decided={**decided, "backend": "eager"}) == {}


def test_what_cannot_be_opened_ahead_is_left_for_its_turn(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known(monkeypatch, openvino_float32=100.0)

    def refuses(*_: Any) -> Any:
        raise SourceError("no conversion")

    monkeypatch.setattr(opening, "open_backend", refuses)
    assert open_ahead(small, **AUTO, rows_expected=500, store=FeatureStore(tmp_path)) == {}


@pytest.mark.parametrize(("limit", "again"), [(None, ["large"]), ("1GB", ["small", "large"])])
def test_small_networks_stay_loaded_for_the_next_round(limit, again, monkeypatch):
    loaded: list[str] = []

    def load(spec: ModelSpec) -> Encoder:
        loaded.append(spec.name)
        encoder = Small(torch.nn.Flatten(), 3 * 32 * 32)
        encoder.num_parameters = 10**9 if spec.name == "large" else 1
        return encoder

    if limit is not None:
        monkeypatch.setenv("SELECTOR_MAX_MEMORY", limit)
    ahead = LoadAhead(load)
    specs = [ModelSpec(name=name, source="timm:test_resnet") for name in ("small", "large")]
    first = [ahead.take(spec) for spec in specs]
    loaded.clear()
    ahead.start(specs[0])
    second = [ahead.take(spec) for spec in specs]
    assert loaded == again
    assert (second[0] is first[0]) == (limit is None)


@needs_openvino
@pytest.mark.parametrize(
    ("rates", "cosine", "way"),
    [
        ({"bfloat16": 1e9}, 0.999, ("openvino", "bfloat16")),
        ({"bfloat16": 1e9, "float32": 1e9}, 0.9, ("openvino", "float32")),  # converted by now, and faster as it is
        ({"bfloat16": 1e9, "float32": 1e-9}, 0.9, ("eager", "float32")),
        ({"bfloat16": 1e-9, "float32": 1e9}, 0.999, ("openvino", "float32")),
    ],
)
def test_the_quickest_way_of_the_table_that_keeps_the_features_is_taken(
    small: Small, rates: dict[str, float], cosine: float, way: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, openvino_bfloat16=100.0, openvino_float32=50.0, eager_bfloat16=20.0)
    original = deciding._Trial.agreement

    def agreement(self: Any, name: str, precision: str, *args: Any, **options: Any) -> deciding.Agreement:
        found = original(self, name, precision, *args, **options)
        if name == "eager":
            pytest.fail("what bfloat16 does to a network is judged once")
        self.rates["openvino", precision] = rates[precision]
        return deciding.Agreement(cosine, 0.5, 16) if precision == "bfloat16" else found

    monkeypatch.setattr(deciding._Trial, "agreement", agreement)
    runner = runner_of(small, pictures(100), **AUTO)
    assert (runner.identity["backend"], runner.identity["precision"]) == way


@pytest.mark.parametrize(("images", "worth"), [(63, 0.0), (100, 1e6)])
def test_nothing_is_tried_for_too_few_images_or_too_little_to_save(
    small: Small, images: int, worth: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(monkeypatch, openvino_bfloat16=100.0)
    monkeypatch.setattr(deciding, "WORTHWHILE", worth)
    monkeypatch.setattr(deciding, "_keeps", lambda *_: pytest.fail("it was tried"))
    assert runner_of(small, pictures(images), **AUTO).identity == {"backend": "eager", "precision": "float32"}


@needs_openvino
def test_a_conversion_runs_the_network_once(monkeypatch):
    from selector.extract.backends import openvino

    batches: list[int] = []

    class Counting(Small):
        def encode(self, batch: torch.Tensor) -> torch.Tensor:
            batches.append(len(batch))
            return super().encode(batch)

    openvino._converted(openvino.quiet_openvino(), Counting(network(), 96), 16)
    assert batches == [2]  # the trace of two images, which torch does not check by running it again


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("test_vit", "attention"), ("mobilenetv2_035", "depthwise"), ("test_resnet", "convolution")],
)
def test_families_are_told_apart_by_their_layers(architecture, family):
    import timm

    assert backend_table.family_of(timm.create_model(architecture)) == family


def test_every_row_of_the_shipped_table_can_be_used():
    table = backend_table._table()
    assert {cpu for cpu, _ in table} >= {"amx", "avx512_bf16"}
    for row in table.values():
        assert row.setup > 0
        assert len(row.speeds) == 4
        ways = row.ways(100.0, converts=True, lowers=True)
        assert list(ways.values()) == sorted(ways.values())
        assert set(row.ways(100.0, converts=False, lowers=False)) == {("eager", "float32")}
        assert next(iter(row.ways(100.0, converts=True, lowers=True)))[0] == "openvino"
