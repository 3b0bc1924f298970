"""Feature sets go when their last user goes, without the garbage collector; threads share the blocks of an interval."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import selector.proxies as proxies
from selector.core.errors import NotApplicable
from selector.features import FeatureSet, threads

EVERY_KIND_OF_PATH = ("logme", "hscore", "knn", "lda", "ncti", "transrate")


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(("n", "d"), [(600, 60), (60, 400)], ids=["tall", "wide"])
def test_feature_sets_leave_nothing_behind(mixture, no_collector, n, d):
    def score_one(seed):
        x, labels = mixture(n, d, 3, seed=seed)
        features = FeatureSet(x, labels)
        for name in EVERY_KIND_OF_PATH:
            proxies.evaluate(features, name, intervals=True)
        _ = features.basis, features.reseeded(1).spectrum, features.source_logits if features.has_source_logits else 0
        return weakref.ref(features), x.nbytes

    tracemalloc.start()
    try:
        score_one(4), score_one(5)  # what is imported and cached once
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        left = [score_one(seed) for seed in range(3)]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert [reference() for reference, _ in left] == [None] * 3
    assert grown < 0.75 * left[0][1]


def test_a_part_that_has_no_value_leaves_nothing_behind(no_collector, caplog):
    features = FeatureSet(np.random.default_rng(0).standard_normal((4, 3)), np.array([0, 1, 1, 1]))
    assert proxies.evaluate(features, "logme", intervals=True).low is None
    with pytest.raises(NotApplicable):
        proxies.evaluate(features, "probe", intervals=True)
    gone = weakref.ref(features)
    del features
    assert gone() is None


def blas_threads():
    """Of numpy and scipy; faiss brings one of its own, which no decomposition uses."""
    return {
        found["num_threads"]
        for found in threadpool_info()
        if "openblas" in found["filepath"] and "scipy" in found["filepath"]
    }


@pytest.mark.parametrize("name", ["logme", "probe", "lda", "ncti"])
@pytest.mark.parametrize(("n", "d"), [(150, 20), (60, 90)])
def test_blocks_computed_together_are_those_computed_in_turn(mixture, name, n, d):
    x, labels = mixture(n, d, 3, separation=0.5)
    in_turn = proxies.score(x, labels, name, intervals=True)
    with threadpool_limits(limits=3, user_api="blas"):
        together = proxies.score(x, labels, name, intervals=True)
    np.testing.assert_allclose(together.blocks, in_turn.blocks, rtol=1e-9, atol=1e-12)


def test_every_block_has_a_thread_with_one_blas_thread():
    seen, meeting = [], threading.Barrier(3, timeout=60)

    def work(item):
        if item < 3:
            meeting.wait()  # three are under way at once, or this breaks
        with threads.capped(5000):  # a large order lifts nothing in here
            seen.append(blas_threads())
        return item

    with threadpool_limits(limits=3, user_api="blas"):
        assert threads.each(work, range(10)) == list(range(10))
        assert blas_threads() == {3}
    assert seen == [{1}] * 10


def test_caps_that_end_in_another_order_restore_what_was():
    with threadpool_limits(limits=3, user_api="blas"):
        first, second = threads.capped(10), threads.capped(10)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}  # the second still holds
        second.__exit__(None, None, None)
        assert blas_threads() == {3}


@pytest.mark.parametrize(("running", "allowed"), [(1, 4), (3, 2), (9, 1)])
def test_a_large_matrix_gets_the_cores_that_are_idle(monkeypatch, tmp_path, running, allowed):
    (tmp_path / "loadavg").write_text(f"0.50 0.40 0.30 {running}/345 999\n")
    monkeypatch.setattr(threads, "_LOADAVG", tmp_path / "loadavg")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    with threadpool_limits(limits=4, user_api="blas"), threads.capped(2000):
        assert blas_threads() == {allowed}
    with threadpool_limits(limits=2, user_api="blas"), threads.capped(2000):
        assert blas_threads() == {min(allowed, 2)}  # what a person set is never exceeded
