"""A budget for the scan itself: what is looked at, what is not and why, and that it holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import selector
from selector.core.errors import OptionError
from selector.scan import fine_tuning, target_scan
from selector.scan.extraction import prices as prices_of
from selector.scan.target_scan import BudgetedRounds
from selector.store import FeatureStore
from selector.zoo import ModelSpec
from selector.zoo.spec import network_of
from tests.scan.test_scan import table

NAMES = ("resnet", "vit", "efficientnet", "byobnet", "convnext", "vit2", "nfnet", "mambaout")
ZOO = [ModelSpec(name="orientation", source="python:tests.support.networks:orientation")] + [
    ModelSpec(name=f"tiny-{name}", source=f"timm:test_{name}", weights="none") for name in NAMES
]
FAST: dict[str, Any] = {
    "zoo": ZOO, "proxies": ["knn"], "precision": "float32", "backend": "eager", "measure_cost": "never", "trust_zoo": True,
    "top_k": 2, "history": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def today(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> selector.Ranking:
    """A scan without a budget, whose store then holds every row; set prices: the networks cost 1, 2, ... units an item."""
    store = FeatureStore(tmp_path_factory.mktemp("scanned"))
    ranking = selector.rank(photos, **FAST, store=store, prune="never")
    _set_prices(store)
    return ranking


@pytest.fixture(scope="module")
def scanned(today: selector.Ranking) -> FeatureStore:
    return FeatureStore(today.settings["store"])


@pytest.fixture
def priced(tmp_path: Path) -> FeatureStore:
    """A store with the same prices and no rows."""
    store = FeatureStore(tmp_path / "priced")
    _set_prices(store)
    return store


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is a second later each time it is read."""
    ticks, made = iter(range(10**6)), BudgetedRounds.__init__

    def ticked(self: BudgetedRounds, *args: Any, **settings: Any) -> None:
        made(self, *args, **settings, clock=lambda: float(next(ticks)))

    monkeypatch.setattr(BudgetedRounds, "__init__", ticked)
    monkeypatch.setattr(target_scan, "FIRST_ROWS", 8)


def _set_prices(store: FeatureStore) -> None:
    for number, spec in enumerate(ZOO):
        store.put("rate", {"network": network_of(spec)}, {"rows_per_second": 1 / (1 + number), "num_features": 8})


def paid(ranking: selector.Ranking, rows: int) -> float:
    """Share of what all models on all rows cost."""
    price = {spec.name: 1 + number for number, spec in enumerate(ZOO)}
    return sum(price[m.name] * m.rows for m in ranking) / (rows * sum(price.values()))


@pytest.mark.parametrize("share", [30, 60])
def test_a_share_is_kept_and_what_was_not_looked_at_is_a_row_with_its_reason(share, photos, scanned, monkeypatch):
    monkeypatch.setattr(target_scan, "FIRST_ROWS", 8)
    ranking = selector.rank(photos, **FAST, store=scanned, scan_budget=f"{share}%")
    assert paid(ranking, 51) <= share / 100 + 0.01
    assert {m.name for m in ranking} == {spec.name for spec in ZOO}
    finished = [m for m in ranking if m.status == "ok"]
    assert len(finished) >= 2
    assert len({m.rows for m in finished}) == 1  # scores of different N are never compared
    assert ranking.best.name == "orientation"
    unseen = [m for m in ranking if m.status == "pruned" and not m.rows]
    told = (
        f"not looked at: the scan budget of {share}% of the full scan went to models that promise more for their price"
    )
    assert all(model.reason == told for model in unseen)
    assert bool(unseen) == (share == 30)
    assert ranking.settings["scan_budget"] == f"{share}%"


def test_with_all_of_the_scan_as_its_budget_the_table_is_todays(photos, today, scanned):
    whole = selector.rank(photos, **FAST, store=scanned, prune="never", scan_budget="100%")
    assert table(whole) == table(today)


@pytest.fixture
def dear(scanned: FeatureStore) -> Iterator[FeatureStore]:
    """The same store, with a last network that takes as long as the first eight and more."""
    key, usual = {"network": network_of(ZOO[-1])}, {"rows_per_second": 1 / len(ZOO), "num_features": 8}
    scanned.put("rate", key, {**usual, "rows_per_second": 1 / 60})
    yield scanned
    scanned.put("rate", key, usual)


def test_an_expensive_model_waits_until_the_others_are_chosen(photos, dear, monkeypatch):
    """It promises most, and the first round could pay for it alone."""
    monkeypatch.setattr(target_scan, "FIRST_ROWS", 8)
    monkeypatch.setattr(BudgetedRounds, "_promise", lambda self, network, prices: prices[network.name])
    ranking = selector.rank(photos, **FAST, store=dear, scan_budget="20%")
    assert [m.name for m in ranking if not m.rows] == [ZOO[-1].name]


def test_a_round_that_half_of_what_is_left_does_not_pay_for_is_paid_with_all_of_it(photos, scanned, monkeypatch):
    """It ended after 11% and 16 rows."""
    monkeypatch.setattr(target_scan, "FIRST_ROWS", 8)
    ranking = selector.rank(photos, **FAST, store=scanned, scan_budget="15%")
    assert 0.13 < paid(ranking, 51) <= 0.15 + 0.01
    assert {m.rows for m in ranking if m.status == "ok"} == {32}


@pytest.mark.usefixtures("ticking")
def test_a_budget_of_time_ends_by_the_clock(photos, priced):
    ranking = selector.rank(photos, **FAST, store=priced, scan_budget=8)
    looked = [m for m in ranking if m.rows]
    assert 2 <= len(looked) < len(ZOO)
    assert all("the scan budget of 8.0 s" in m.reason for m in ranking if not m.rows)


@pytest.mark.usefixtures("ticking")
def test_stored_rows_cost_nothing_of_a_budget_of_time(photos, today, scanned):
    """The second day, a short budget gives the whole table: it had ended after the first round."""
    again = selector.rank(photos, **FAST, store=scanned, prune="never", scan_budget=8)
    assert table(again) == table(today)


@pytest.mark.parametrize("budget", ["16s", "10m"])
@pytest.mark.usefixtures("ticking")
def test_one_budget_is_for_scan_and_fine_tuning(budget, photos, priced, tmp_path, monkeypatch):
    """Half of it is for the scan, which a sufficient one does not change; what the scan took is not left to train."""
    confirm, spent = fine_tuning.confirm_leading, []

    def noting(*args: Any) -> selector.Ranking:
        spent.append(args[-1])
        return confirm(*args)

    monkeypatch.setattr(fine_tuning, "confirm_leading", noting)
    asked: dict[str, Any] = {"confirm": True, "strategies": "frozen", "out": tmp_path / "run", "prune": "never"}
    ranking = selector.rank(photos, **FAST, **asked, store=priced, budget=budget)
    unseen = [m for m in ranking if not m.rows]
    assert bool(unseen) == (budget == "16s")
    assert all("the scan budget of 8.0 s" in m.reason for m in unseen)
    assert spent[0] > 0
    assert ranking.best.measurements
    selector.confirm(ranking, strategies="frozen", budget=budget)
    assert spent[1] == 0


def test_prices_of_networks_that_never_ran_come_from_their_multiply_adds(tmp_path):
    rates = {"timm:resnet18.a1_in1k": 0.02}
    specs = [ModelSpec(source=f"timm:{name}") for name in ("resnet18.a1_in1k", "resnet50.a1_in1k", "unheard_of")]
    target: Any = None  # asked for its modality where nothing is published
    small, large, unknown = prices_of(specs, target, lambda spec, _: rates.get(spec.source)).values()
    assert small == 0.02
    assert large / small == pytest.approx(4.11 / 1.82, rel=0.02)  # published multiply-adds at 224 pixels
    assert unknown in (small, large)


def test_networks_of_one_source_have_prices_of_their_own(photos, tmp_path):
    """They were kept by source, so that the last one of a factory named the price of all."""
    store = FeatureStore(tmp_path)
    zoo = [
        ModelSpec.model_validate(
            {"name": f"vit-{side}", "source": "timm:test_vit", "weights": "none", "kwargs": {"img_size": side},
             "preprocess": {"input_size": (3, side, side)}}
        ) for side in (32, 160)
    ]  # fmt: skip
    selector.rank(photos, **{**FAST, "zoo": zoo}, store=store, prune="never")
    small, large = (store.get("rate", {"network": network_of(spec)}) for spec in zoo)
    assert small is not None
    assert large is not None
    assert small["rows_per_second"] != large["rows_per_second"]


def test_budgets_that_cannot_be_one(tmp_path):
    for value, message in {
        "0%": r"scan_budget must be a share above 0% and at most 100%\. Got '0%'\.",
        "x%": r"scan_budget: a share is a percentage, such as 25%\. Got 'x%'\.",
        0: r"scan_budget must be more than 0\. Got 0\.",
        "soon": r"scan_budget: ",
    }.items():
        with pytest.raises(OptionError, match=message):
            selector.rank(tmp_path, scan_budget=value)
