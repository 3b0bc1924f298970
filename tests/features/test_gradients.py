"""Rows of projected gradients, against explicit Jacobians of a small network."""

import numpy as np
import pytest
import torch
from torch import nn

from selector.features.gradients import gradient_rows


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


ITEMS = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.1, -0.7], [-0.4, 0.8, 0.2], [0.9, 0.9, 0.9]])


def jacobian(network: nn.Module) -> np.ndarray:
    """(N, S, P), by forward differences of no one's gradient code: central differences in float64."""
    network = network.double()
    flat = nn.utils.parameters_to_vector(network.parameters()).detach()

    def outputs(vector: torch.Tensor) -> torch.Tensor:
        nn.utils.vector_to_parameters(vector, network.parameters())
        return network(ITEMS.double()).detach()

    step = 1e-5
    columns = [
        (outputs(flat + step * e) - outputs(flat - step * e)) / (2 * step)
        for e in torch.eye(len(flat), dtype=flat.dtype)
    ]
    nn.utils.vector_to_parameters(flat, network.parameters())
    network.float()
    return torch.stack(columns, dim=-1).numpy()


def rows_of(network: nn.Module, **options) -> np.ndarray:
    return gradient_rows(lambda x: network(x[None])[0], ITEMS, list(network.parameters()), **options)


def test_rows_are_the_jacobian_folded_with_random_signs(network) -> None:
    """Width 1: a single signed sum over all parameters, so its square is a quadratic form of the Jacobian."""
    expected = jacobian(network)
    wide = rows_of(network, width=16)  # as wide as the widest parameter: nothing of one parameter is added up
    sizes = [p.numel() for p in network.parameters()]
    rng = torch.Generator().manual_seed(0)
    signs = [2 * torch.randint(0, 2, (n,), generator=rng, dtype=torch.int8).double().numpy() - 1 for n in sizes]
    folded = np.zeros((4, 2, 16))
    start = 0
    for size, sign in zip(sizes, signs, strict=True):
        folded[:, :, :size] += expected[:, :, start : start + size] * sign
        start += size
    assert wide.shape == (4, 32)
    assert wide.reshape(4, 2, 16) * np.sqrt(2) == pytest.approx(folded, abs=1e-6)


def test_inner_products_are_the_tangent_kernel_on_average(network) -> None:
    expected = jacobian(network)
    kernel = np.einsum("nsp,msp->nm", expected, expected) / 2
    found = np.mean([(r := rows_of(network, width=8, seed=seed)) @ r.T for seed in range(300)], axis=0)
    assert found == pytest.approx(kernel, abs=0.05 * kernel.diagonal().max())


def test_parameters_that_an_output_does_not_depend_on_count_as_nothing(network) -> None:
    apart = nn.Parameter(torch.ones(5))
    rows = gradient_rows(lambda x: network(x[None])[0], ITEMS, [*network.parameters(), apart], width=16)
    assert rows == pytest.approx(rows_of(network, width=16))


def test_a_linear_network_gives_rows_as_good_as_its_inputs() -> None:
    """Of a linear network the gradient is the input, so ridge regression on either says the same."""
    from selector import score

    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    inputs = (np.eye(3)[labels] @ rng.standard_normal((3, 6)) + rng.standard_normal((90, 6))).astype(np.float32)
    layer = nn.Linear(6, 1, bias=False)
    rows = gradient_rows(lambda x: layer(x), torch.from_numpy(inputs), [layer.weight], width=6)
    assert score(rows, labels, "ridge").value == pytest.approx(score(inputs, labels, "ridge").value, abs=1e-5)
