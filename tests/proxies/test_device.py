"""The torch path gives what numpy gives: here on the CPU, and on a GPU where there is one."""

import numpy as np
import pytest

import selector.proxies as proxies

NAMES = ["logme", "hscore", "ridge", "lda", "fisher", "cka", "knn", "transrate"]


def compare(mixture, device, convert=lambda x: x):
    for n, d in ((150, 20), (50, 80)):
        x, labels = mixture(n, d)
        for name in NAMES:
            expected = proxies.score(x, labels, name, intervals=True)
            found = proxies.score(convert(x), labels, name, intervals=True, device=device)
            assert found.value == pytest.approx(expected.value, rel=1e-8, abs=1e-9), name
            assert found.low == pytest.approx(expected.low, rel=1e-6, abs=1e-8), name
    real = x[:, :2]
    assert proxies.score(x, real, "logme", device=device).value == pytest.approx(
        proxies.score(x, real, "logme").value, rel=1e-8
    )


def test_torch_sums_on_the_cpu_equal_numpy(mixture):
    compare(mixture, "cpu")


@pytest.mark.gpu
def test_the_gpu_equals_the_cpu(mixture):
    import torch

    compare(mixture, "cuda")
    compare(mixture, None, lambda x: torch.from_numpy(np.asarray(x)).cuda())
