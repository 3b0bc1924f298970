"""Which columns are compared with which orders, and what comes out."""

import pytest

from benchmarks.tasks import agreement
from benchmarks.tasks.agreement import RANDOM, Cell
from selector.ranking.prior import ModelFacts

NAMES = "abcdef"
FACTS = {name: ModelFacts(parameters=10.0 ** (5 + i)) for i, name in enumerate(NAMES)}


def row(value, outputs="", metric="map", status="ok", val=0.5):
    values = {"val_value": f"{val}", "test_value": f"{value}", "test_by_output": outputs}
    return {"status": status, "metric": metric, **values}


@pytest.fixture
def truth():
    found = {}
    for i, name in enumerate(NAMES):
        outputs = f"price:{i / 10};area:{0.6 - i / 10}"
        found[Cell("regression", "houses", name, "linear", "full")] = row(0.2, outputs, "r2")
        found[Cell("multilabel", "coco", name, "linear", "frozen")] = row(0.9, val=i / 10)
        found[Cell("multilabel", "coco", name, "linear", "full", 0)] = row(i / 10)
        found[Cell("detection", "cells", name, "fcos", "frozen")] = row(i / 10, val=0.9 - i / 10)
        found[Cell("detection", "cells", name, "fcos", "full")] = row(i / 10)
    found[Cell("multilabel", "coco", "f", "linear", "full", 1)] = row(0.7)
    found[Cell("multilabel", "coco", "g", "linear", "full")] = row(1.0, status="failed")
    found[Cell("segmentation", "roads", "a", "linear", "full")] = row(1.0)
    return found


def scored(set_name, variant, facet, score, values):
    column = {"set": set_name, "variant": variant, "facet": facet, "score": score, "status": "ok"}
    return [{**column, "encoder": e, "value": str(v)} for e, v in zip(NAMES, values, strict=True)]


def test_a_set_with_two_values_is_two_columns_and_seeds_are_averaged(truth):
    asked = {q.target: q for q in agreement.questions(truth)}
    assert list(asked) == ["houses: price", "houses: area", "coco", "cells: fcos, frozen", "cells: fcos, full"]
    assert asked["houses: price"].truth == pytest.approx({n: 10.0 * i for i, n in enumerate(NAMES)})
    assert asked["houses: area"].truth["f"] == pytest.approx(10)
    assert asked["coco"].truth["f"] == pytest.approx(60)  # of 0.5 and 0.7
    assert "g" not in asked["coco"].truth
    assert asked["coco"].frozen["f"] == 50
    assert asked["houses: price"].frozen == {}  # the mean over both values says nothing of one
    assert asked["cells: fcos, full"].frozen == {}


def test_a_column_where_nothing_was_learned_is_left_out(truth):
    for i, name in enumerate(NAMES):
        truth[Cell("detection", "crowds", name, "fcos", "full")] = row(i / 1000)
        truth[Cell("detection", "herds", name, "fcos", "full")] = row(i / 100)
    targets = [q.target for q in agreement.questions(truth)]
    assert "crowds: fcos, full" not in targets
    assert "herds: fcos, full" in targets


def test_scores_go_to_the_column_of_their_facet_and_two_facets_are_averaged(truth):
    table = [
        *scored("houses", "pooled", "price", "logme", [0, 1, 2, 3, 4, 5]),
        *scored("houses", "pooled", "area", "logme", [5, 4, 3, 2, 1, 0]),
        *scored("cells", "regions", "what", "logme", [0, 0, 0, 3, 3, 3]),
        *scored("cells", "regions", "where", "logme", [0, 1, 2, 1, 2, 3]),
        *scored("cells", "whole image", "labels", "logme", [5, 4, 3, 2, 1, 0]),
    ]
    rows = {(r["target"], r["order"]): r for r in agreement.compare(agreement.questions(truth), table, FACTS, draws=20)}
    assert rows["houses: price", "logme"]["weighted_tau"] == pytest.approx(1)
    assert rows["houses: area", "logme"]["weighted_tau"] == pytest.approx(1)  # area falls, and so does its score
    assert rows["mean", "logme"]["regret@1"] == 0
    assert rows["cells: fcos, full", "logme, what + where"]["weighted_tau"] == pytest.approx(1)
    assert rows["cells: fcos, full", "logme, whole image"]["weighted_tau"] == pytest.approx(-1)
    assert rows["cells: fcos, full", "logme, whole image"]["regret@1"] == pytest.approx(50)
    assert rows["coco", "linear head, validation"]["weighted_tau"] == pytest.approx(1)
    assert ("coco", "logme") not in rows


def test_static_orders_and_chance_stand_beside_the_scores(truth):
    rows = {(r["target"], r["order"]): r for r in agreement.compare(agreement.questions(truth), [], FACTS, draws=20)}
    assert rows["coco", "log parameters"]["weighted_tau"] == pytest.approx(1)
    assert rows["houses: area", "log parameters"]["regret@1"] == pytest.approx(50)
    assert rows["coco", "static prior"]["encoders"] == 6
    assert abs(float(rows["coco", RANDOM]["weighted_tau"])) < 0.15
    assert rows["coco", RANDOM]["regret@1"] == pytest.approx(35, abs=5)  # 60 less the mean of 0, 10, 20, 30, 40 and 60


def test_mean_rank_elsewhere_never_reads_the_sets_own_columns(truth):
    asked = agreement.questions(truth)
    price = next(q for q in asked if q.target == "houses: price")
    column = agreement.elsewhere(price, [q for q in asked if q.set == "houses"])
    assert column == {}
    assert agreement.elsewhere(price, asked)["f"] == 1.0


def test_a_table_shows_the_best_order_first(truth):
    asked = agreement.questions(truth)
    rows = agreement.compare(asked, scored("coco", "pooled", "labels", "logme", [5, 4, 3, 2, 1, 0]), FACTS, draws=20)
    orders = [row["order"] for row in agreement.shown([row for row in rows if row["target"] == "coco"])]
    assert orders.index("log parameters") < orders.index(RANDOM) < orders.index("logme")
