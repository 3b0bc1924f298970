"""Scores of the coming tasks: which are run, what a row of a box is, and that a killed run goes on."""

import numpy as np
import pytest
import torch

from benchmarks.suite import table
from benchmarks.tasks import cells, scores
from benchmarks.tasks.cells import Cell, Outcome
from benchmarks.tasks.scores import COMBINED, Facet
from selector import score
from selector.core.contracts import LabelKind


def test_only_encoders_that_were_measured_are_scored(tmp_path):
    truth = tmp_path / "truth.csv"

    def measure(cell):
        if cell.encoder == "bad":
            raise ValueError("no")
        return Outcome("r2", 0.1, 0.1, {})

    names = [("good", "frozen"), ("good", "full"), ("bad", "full")]
    cells.run([Cell("regression", "houses", e, "linear", s) for e, s in names], measure, truth, threads=1)
    assert scores.measured(truth) == [("houses", "good")]


@pytest.fixture
def facets(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5)).astype(np.float32)
    real = Facet("pooled", "price", LabelKind.REAL, x, x[:, 0] + 0.1 * rng.standard_normal(40), np.arange(40))
    flat = Facet("pooled", "flat", LabelKind.REAL, x, np.ones(40), np.arange(40))
    monkeypatch.setattr(scores, "facets", lambda *_: iter([real, flat]))
    return real, flat


def test_rows_hold_the_packages_scores_and_what_cannot_be_scored_is_said(facets, tmp_path):
    out = tmp_path / "scores.csv"
    scores.score_encoder("houses", "net", tmp_path, out)
    rows = {(r["facet"], r["score"]): r for r in table.whole_rows(out)}
    x, y = facets[0].features, facets[0].labels
    for name in ("logme", "knn", "ridge"):
        assert float(rows["price", name]["value"]) == pytest.approx(score(x, y, name, label_kind="real").value)
    assert 0 < float(rows["price", COMBINED]["value"]) <= 1
    assert rows["flat", "logme"]["status"] == "failed"
    assert rows["flat", "logme"]["reason"]
    assert ("flat", COMBINED) not in rows
    assert scores.done(out) == {("houses", "net")}


def test_an_encoder_whose_last_row_is_missing_is_scored_again(facets, tmp_path):
    out = tmp_path / "scores.csv"
    scores.score_encoder("houses", "net", tmp_path, out)
    out.write_text("\n".join(out.read_text().splitlines()[:-1]) + "\n")
    assert scores.done(out) == set()


@pytest.mark.parametrize("kind", list(LabelKind))
def test_no_score_that_needs_a_source_head_is_run(kind):
    names = scores.scores_of(kind)
    assert {"knn", "logme"} <= set(names)
    assert not {"leep", "nce", "energy"} & set(names)


def test_a_region_is_the_mean_of_the_maps_inside_its_box():
    """On maps that rise linearly to the right, the mean of a box is the value at its middle."""

    class Net:
        strides = (8.0, 16.0, 32.0)

    size = (128, 192)
    layers = [
        ((torch.arange(size[1] // s) + 0.5) * s).expand(1, 1, size[0] // s, size[1] // s).contiguous()
        for s in (8, 16, 32)
    ]
    boxes = torch.tensor([[40.0, 30, 80, 90], [32, 32, 160, 96]])
    found = scores.regions(Net(), layers, boxes, size)
    assert found.shape == (2, 3)
    assert torch.allclose(found, torch.tensor([[60.0] * 3, [96.0] * 3]), atol=0.5)
