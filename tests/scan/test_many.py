"""Several targets in one scan: networks are loaded once, shared items are encoded once, and an overview says what fits all."""

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selector
from selector.core.errors import OptionError, StoreError, TargetError
from selector.report.overview import FailedTarget, Rankings, _smallest_cover, overview, write_overview
from selector.scan.many import _Member, _names
from selector.store import FeatureStore
from selector.zoo import ModelSpec
from tests.conftest import image_folder
from tests.report.samples import ranking as sample
from tests.scan.samples import of_torch_alone
from tests.scan.test_scan import table
from tests.support.commands import run

FAST = of_torch_alone("crashes")
ZOO = FAST["zoo"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two targets that share two of their classes, and one that cannot be read."""
    root = tmp_path_factory.mktemp("targets")
    first = image_folder(root / "first", per_class=16)
    second = root / "second"
    for name in ("across", "leaning"):
        shutil.copytree(first / name, second / name)
    (root / "empty").mkdir()
    return [first, second, root / "empty"]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of networks as they are loaded, and how many rows each pass runs."""
    from selector.extract.workspace import Workspace

    found: list[str] = []
    load = Workspace._load

    def noted(self: Workspace, spec: ModelSpec) -> Any:
        found.append(spec.name)
        return load(self, spec)

    monkeypatch.setattr(Workspace, "_load", noted)
    return found


def test_networks_are_loaded_once_and_the_tables_are_those_of_single_scans(folders, tmp_path, loads):
    rankings = selector.rank(folders, **FAST, store=tmp_path / "many")
    assert isinstance(rankings, Rankings)
    assert sorted(loads) == ["blind", "crashes", "sees"]
    assert [type(each).__name__ for each in rankings] == ["Ranking", "Ranking", "FailedTarget"]
    for folder, found in zip(folders, rankings, strict=False):
        if not isinstance(found, FailedTarget):
            alone = selector.rank(folder, **FAST, store=tmp_path / folder.name)
            assert table(found) == table(alone)
            assert not any(m.cached for m in found if m.status == "ok")
    targets = [each.loaded_target for each in rankings if not isinstance(each, FailedTarget)]
    distinct = {target.hashes[i] for target in targets for i in target.indices("train", "val")}
    assert len(distinct) < sum(len(target.indices("train", "val")) for target in targets)  # they do share items
    assert {entry.rows for entry in FeatureStore(tmp_path / "many").list_entries()} == {len(distinct)}


def test_a_pool_of_processes_scores_every_target_where_it_extracts(folders, tmp_path):
    options = {**FAST, "zoo": ZOO[:2]}
    here = selector.rank(folders[:2], **options, store=tmp_path / "here")
    there = selector.rank(folders[:2], **options, store=tmp_path / "there", engine="processes", workers=1)
    assert [table(each) for each in there] == [table(each) for each in here]


def test_the_command_writes_a_run_a_target_and_one_overview(folders, tmp_path):
    names = tmp_path / "targets.txt"
    names.write_text(f"# targets\n{folders[0]}\n\n{folders[1]}\n{folders[2]}\n")
    zoo = tmp_path / "zoo.yaml"
    zoo.write_text(json.dumps({"models": [{"name": s.name, "source": s.source} for s in ZOO[:2]]}))
    words = [
        "scan", f"@{names}", "--zoo", zoo, "--store", tmp_path / "s", "--out", tmp_path / "all",
        "--trust-zoo", "--isolate", "off", "--no-confirm", "--proxies", "knn", "--backend", "eager",
        "--precision", "float32", "--measure-cost", "never",
    ]  # fmt: skip
    ran = run(*words, "--json")
    assert ran.exit_code == 3, ran.output  # a target failed
    said = json.loads(ran.stdout)
    assert [row["name"] for row in said["overview"]["targets"]] == ["first", "second", "empty"]
    assert said["overview"]["targets"][2]["reason"]
    assert [bool(each.get("models")) for each in said["targets"]] == [True, True, False]
    page = (tmp_path / "all" / "overview.html").read_text()
    assert 'href="first/report.html"' in page
    assert "Content-Security-Policy" in page
    assert (tmp_path / "all" / "second" / "run.json").is_file()
    assert json.loads((tmp_path / "all" / "overview.json").read_text())["cover"]
    assert "targets, within 0.02 of the best transferability" in run(*words).stdout


def ranking(name: str, values: dict[str, float], tied: tuple[str, ...] = ()) -> selector.Ranking:
    made = sample()
    template = next(m for m in made if m.status == "ok")
    models = [
        replace(template, name=model, transferability=value, tied=model in tied, measurements=())
        for model, value in sorted(values.items(), key=lambda entry: -entry[1])
    ]
    return replace(made, models=tuple(models), target={**made.target, "name": name})


def test_the_smallest_cover_is_exact_and_mean_ranks_count_the_missing_as_last() -> None:
    # greedy by count takes "wide" first (three targets) and needs three models; two cover all four
    best = {"a": ("left", "wide"), "b": ("left", "wide"), "c": ("right", "wide"), "d": ("right", "other")}
    members: list[Any] = [
        ranking(name, {m: 0.9 if m in good else 0.2 for m in ("left", "right", "wide", "other")})
        for name, good in best.items()
    ]
    members.append(FailedTarget("broken", "no labels"))
    found = overview(members, epsilon=0.05)
    assert set(found.cover) == {"left", "right"}
    assert {row.name: set(row.serves) for row in found.models}["wide"] == {"a", "b", "c"}
    assert [row.reason for row in found.targets] == ["", "", "", "", "no labels"]
    few = [ranking("a", {"x": 0.9, "y": 0.5}), ranking("b", {"x": 0.9})]
    assert {row.name: row.mean_rank for row in overview(few).models} == {"x": 1.0, "y": 2.0}
    near = overview([ranking("a", {"x": 0.9, "y": 0.6}, tied=("x", "y"))])
    assert {row.name: row.serves for row in near.models} == {"x": ("a",), "y": ("a",)}


def test_every_target_has_a_folder_of_its_own() -> None:
    assert _names(["x/a", "y/a", "z/a-2", "w/a"]) == ["a", "a-2", "a-2-2", "a-3"]
    assert _names(["x/a-2", "y/a", "z/a"]) == ["a-2", "a", "a-3"]


def test_targets_of_one_name_are_linked_to_their_own_reports(tmp_path: Path) -> None:
    runs = [ranking("photos", {"x": 0.9}).save(tmp_path / folder) for folder in ("photos", "photos-2")]
    page = write_overview(Rankings(runs), tmp_path).read_text()
    assert [page.count(f'href="{folder}/report.html"') for folder in ("photos", "photos-2")] == [1, 1]


def test_greedy_is_beaten_on_random_covers():
    rng = np.random.default_rng(0)
    for _ in range(20):
        serving = [set(rng.choice(list("abcdefg"), rng.integers(1, 4), replace=False).tolist()) for _ in range(6)]
        found = _smallest_cover(serving, dict.fromkeys("abcdefg", 1.0))
        assert all(set(found) & models for models in serving)
        fewer = combinations("abcdefg", len(found) - 1)
        assert not any(all(set(chosen) & models for models in serving) for chosen in fewer)


def test_lists_of_targets_that_cannot_be_read(tmp_path):
    with pytest.raises(OptionError, match=r"the list of targets .* cannot be read"):
        selector.rank(f"@{tmp_path / 'none.txt'}")
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(OptionError, match="names no targets; write one path per line"):
        selector.rank(f"@{tmp_path / 'list.txt'}")
    with pytest.raises(TargetError):  # every target is wrong: an error, not a table of failures
        selector.rank([tmp_path / "a", tmp_path / "b"], **FAST)


def test_a_failure_within_a_targets_scan_is_its_row_and_that_of_the_store_ends_the_scan():
    member = _Member("photos")
    with member.own_failure():
        raise RuntimeError("the rows vanished")
    assert isinstance(member.result, FailedTarget)
    assert member.result.reason == "RuntimeError: the rows vanished"
    with pytest.raises(StoreError, match="the disk is full"), member.own_failure():
        raise StoreError("the disk is full")
