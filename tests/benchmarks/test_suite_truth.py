"""Which cells of the ground truth are run next."""

import pytest

from benchmarks.suite import ground_truth, table


@pytest.fixture
def truth(tmp_path):
    """A column that lacks encoders: four were measured with seed 0."""
    path = tmp_path / "truth.csv"
    for name, accuracy in (("a", 0.5), ("b", 0.9), ("c", 0.8), ("d", 0.7)):
        table.append(path, row(name, 0, accuracy))
    return path


def row(encoder, seed, accuracy):
    return {
        "set": "digits", "encoder": encoder, "strategy": "full", "seed": seed, "status": "ok", "diverged": 0,
        "test_accuracy": accuracy, "rate": 0.003,
    }  # fmt: skip


def names(cells):
    return [(cell.encoder, cell.seed, again) for cell, again in cells]


def test_second_seeds_go_to_the_leaders_of_what_was_measured(truth):
    wanted = names(ground_truth.second_seeds(["digits"], list("abcde"), 0, (1, 1), truth))
    assert wanted == [("b", 1, 0), ("c", 1, 0), ("d", 1, 0)]
    table.append(truth, row("c", 1, 0.8))
    assert names(ground_truth.second_seeds(["digits"], list("abcde"), 0, (1, 1), truth)) == [("b", 1, 0), ("d", 1, 0)]


def test_without_asking_for_them_they_wait_for_the_whole_column(truth):
    for name in "abcd":
        table.append(truth, row(name, 0, 0.5) | {"strategy": "frozen"})
    arguments = (["digits"], list("abcd"), list("abcde"), 0, (1, 1), truth)
    assert names(ground_truth.plan(*arguments)) == []
    table.append(truth, row("e", 0, 0.1))
    assert names(ground_truth.plan(*arguments)) == [("b", 1, 0), ("c", 1, 0), ("d", 1, 0)]
