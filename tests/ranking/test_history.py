"""The history file: adding, reading, moving, forgetting, two processes, damage."""

import contextlib
import json
import math
import multiprocessing
import sqlite3

import pytest

from selector.core.errors import ConfigError, HistoryError
from selector.ranking.history import History, Result, default_path, parse, snapshot

WHEN = "2025-01-02T03:04:05+00:00"


def result(model="a", target="t1", value=0.5, **changes):
    return Result(**{"target": target, "model": model, "metric": "accuracy", "value": value, "when": WHEN, **changes})


@pytest.fixture
def history(tmp_path):
    return History(tmp_path / "data" / "history.sqlite")


def test_results_come_back_as_they_were_added(history):
    rows = [
        result("a", strategy="full", source="timm:a", target_name="flowers", facts={"parameters": 1e6}),
        result("b", value=0.25, kind="predicted", metric="transferability", run="r1"),
    ]
    assert (history.add(rows), History(history.path).results()) == (2, rows)


def test_nothing_is_made_by_reading(history):
    assert (history.results(), history.forget(everything=True)) == ([], 0)
    assert not history.path.parent.exists()


def test_the_same_run_replaces_its_figure_and_another_run_adds_one(history):
    history.add([result(value=0.5, run="r1")])
    assert (history.add([result(value=0.6, run="r1")]), history.add([result(value=0.7, run="r2")])) == (0, 1)
    assert [row.value for row in history.results()] == [0.6, 0.7]


def test_the_time_is_filled_in_and_kept(history):
    history.add([result(when="")])
    (row,) = history.results()
    assert row.when.endswith("+00:00")
    assert row.when > WHEN


def test_lists_are_narrowed_by_every_named_value(history):
    history.add([result("a", "t1"), result("b", "t1", kind="predicted"), result("a", "t2", run="r")])
    assert [r.target for r in history.results(model="a")] == ["t1", "t2"]
    assert [r.model for r in history.results(target="t1", kind="measured")] == ["a"]
    assert [r.target for r in history.results(run="r")] == ["t2"]


def test_forget_deletes_what_is_named_and_nothing_without_a_name(history):
    history.add([result("a", "t1"), result("a", "t2"), result("b", "t2")])
    with pytest.raises(ConfigError, match="forget needs a target, a model or a run"):
        history.forget()
    assert history.forget(target="t2", model="a") == 1
    assert [(r.model, r.target) for r in history.results()] == [("a", "t1"), ("b", "t2")]
    assert (history.forget(everything=True), history.results()) == (2, [])


def test_a_value_with_quotes_is_data(history):
    hostile = "'; DROP TABLE results; --"
    history.add([result(hostile)])
    assert [r.model for r in history.results(model=hostile)] == [hostile]
    assert history.forget(model=hostile) == 1


def test_an_export_is_imported_elsewhere_once(history, tmp_path):
    history.add([result("ä"), result("b", facts={"flops": 2.0}), result("line\u2028separator\u0085next")])
    file = tmp_path / "out.jsonl"
    assert history.export(file) == 3
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["model"] for line in lines] == ["b", "line\u2028separator\u0085next", "ä"]
    other = History(tmp_path / "other.sqlite")
    assert other.import_(file) == 3
    assert other.results() == history.results()
    assert other.import_(file) == 0


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "expected one JSON object per line"),
        ("[1]", "expected a JSON object"),
        ('{"target": "t", "model": "m", "metric": "accuracy"}', "needs value"),
        ({"modle": "m"}, "unknown key 'modle'; did you mean 'model'"),
        ({"value": math.nan}, "Got nan"),
        ({"value": True}, "The 'value' .* Got True"),
        ({"model": 3}, "The 'model' .* Got 3"),
        ({"target": ""}, "The 'target' .* Got ''"),
        ({"items": -1}, "The 'items' .* Got -1"),
        ({"kind": "guessed"}, "one of measured, predicted"),
        ({"facts": {"parameters": "many"}}, "The 'facts' .* by name"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(history, tmp_path, line, text):
    good = {"target": "t", "model": "m", "metric": "accuracy", "value": 1}
    line = line if isinstance(line, str) else json.dumps(good | line)
    file = tmp_path / "in.jsonl"
    file.write_text(f"{json.dumps(good)}\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"in\.jsonl:2: .*{text}"):
        history.import_(file)
    assert history.results() == []


def test_a_missing_import_is_named(history, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl cannot be read"):
        history.import_(tmp_path / "nowhere.jsonl")


def test_a_snapshot_does_not_depend_on_the_order_and_notices_a_change():
    rows = [result("a"), result("b")]
    assert snapshot(rows) == snapshot(rows[::-1])
    assert (snapshot(rows)["rows"], snapshot(rows)["latest"]) == (2, WHEN)
    assert snapshot([result("a"), result("b", value=0.51)])["digest"] != snapshot(rows)["digest"]


def _add_one_by_one(path, name, count):
    for i in range(count):
        History(path).add([result(f"{name}{i}")])


def test_two_processes_lose_nothing(history):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_add_one_by_one, args=(history.path, name, 25)) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert {r.model for r in history.results()} == {f"{name}{i}" for name in "ab" for i in range(25)}


def test_all_results_of_a_call_or_none(history):
    def broken():
        yield result("a")
        raise RuntimeError("the run died here")

    with pytest.raises(RuntimeError, match="the run died"):
        history.add(broken())
    assert history.results() == []


@pytest.mark.parametrize("damage", ["not a database", "page"])
def test_a_damaged_file_is_set_aside_and_the_next_run_starts_a_new_one(history, damage):
    history.add([result(f"model{i}", run="x" * 500) for i in range(50)])
    content = history.path.read_bytes()
    broken = (
        b"no database at all" * 100 if damage == "not a database" else content[:4096] + b"\xff" * len(content[4096:])
    )
    history.path.write_bytes(broken)
    with pytest.raises(
        HistoryError, match=r"is damaged .* set aside as history\.sqlite\.damaged-.*history import"
    ) as e:
        history.results()
    (aside,) = [p for p in history.path.parent.iterdir() if ".damaged-" in p.name]
    assert aside.name in str(e.value)
    assert aside.read_bytes() == broken
    assert (history.add([result()]), len(history.results())) == (1, 1)


def test_a_file_of_a_newer_version_is_left_alone(history):
    history.add([result()])
    with sqlite3.connect(history.path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = history.path.read_bytes()
    for call in (history.results, lambda: history.add([result("b")])):
        with pytest.raises(HistoryError, match=r"has format 99, this version of selector reads 2; update selector"):
            call()
    assert history.path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HistoryError, match=r"cannot be used: .* name another file in SELECTOR_HISTORY"):
        History(tmp_path / "file" / "history.sqlite").add([result()])


def test_the_variable_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SELECTOR_HISTORY", str(tmp_path / "mine.sqlite"))
    assert default_path() == History().path == tmp_path / "mine.sqlite"
    monkeypatch.delenv("SELECTOR_HISTORY")
    assert default_path().name == "history.sqlite"


@pytest.mark.parametrize("damage", ["value = 'x'", "facts = '{'", "kind = 'guess'", "model = CAST(x'ff61' AS TEXT)"])
def test_a_damaged_row_is_left_out_with_a_warning(history, damage, caplog):
    history.add([result(target=f"t{i}") for i in range(3)])
    with contextlib.closing(sqlite3.connect(history.path)) as connection:
        connection.execute(f"UPDATE results SET {damage} WHERE target = 't1'")
        connection.commit()
    assert [row.target for row in history.results()] == ["t0", "t2"]
    assert "1 of 3 rows of the history" in caplog.text


def test_rows_of_an_earlier_version_are_read_under_the_name_of_today(history):
    """A normalized score was called a skill; a measured metric of that name is nobody's business."""
    history.add([result(metric="skill:knn+logme", kind="predicted", run="r"), result(metric="skill:x")])
    metrics = {row.kind: row.metric for row in history.results()}
    assert metrics == {"predicted": "normalized_score:knn+logme", "measured": "skill:x"}
    (imported,) = parse(['{"target": "t", "model": "m", "metric": "skill:knn", "value": 1, "kind": "predicted"}'], "f")
    assert imported.metric == "normalized_score:knn"
