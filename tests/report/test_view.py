"""The table: what it holds, and that predicted and measured never share a column."""

import re
from dataclasses import replace

import pytest

from selector.report.ranking import Ranking
from selector.report.table import render_html, render_text
from selector.report.view import Cell, table_view
from selector.results import Caveat, ModelResult, PilotCell, PriorCell, ScoreCell, final_measurements
from tests.report import samples


def cells(ranking: Ranking, key: str) -> list[Cell]:
    view = table_view(ranking)
    position = [column.key for column in view.columns].index(key)
    return [row.cells[position] for row in view.rows]


def test_the_details_of_a_pilot_run_hold_its_curve() -> None:
    ranking = samples.ranking()
    curve = PilotCell(
        "ok", "", "accuracy", 0.5, 0.75, 8, 128, 60, (96, 96), losses=(4.0, 2.0, 1.9, 1.8, 1.2, 1.1, 1.0, 0.5)
    )
    none = PilotCell("not run", "8 steps cost 2 times the extraction and 1 is allowed; raise pilot_cost to 2")
    first, second, *rest = ranking.models
    models = (replace(first, pilot=curve), replace(second, pilot=none), *rest)
    tried, not_run, *_ = cells(replace(ranking, models=models), "pilot")
    assert (tried.text, tried.sort) == ("0.750", 0.75)
    assert tried.title == (
        "0.500 before; 8 steps, 96 × 96 pixels; loss of training batches before their steps 3.000 in the first quarter, "
        "0.750 in the last"
    )
    assert (not_run.text, not_run.sort, not_run.title) == ("not run", None, none.reason)


def test_a_prior_that_was_left_out_is_shown_with_the_reason() -> None:
    ranking = samples.ranking()
    prior = PriorCell(0.0, 0.4, "facts; left out, because it orders these models against their pilot runs")
    shown = cells(replace(ranking, models=tuple(replace(m, prior=prior) for m in ranking.models)), "prior")
    assert {cell.text for cell in shown} == {"0.000"}
    assert "left out, because it orders these models against their pilot runs" in shown[0].title
    known = PriorCell(0.0, 0.0, "nothing known: counts as average")
    unknown = replace(ranking, models=tuple(replace(m, prior=known) for m in ranking.models))
    assert "prior" not in [column.key for column in table_view(unknown).columns]


def test_columns_are_either_predicted_or_measured() -> None:
    view = table_view(samples.ranking())
    groups = {column.key: column.group for column in view.columns}
    assert {key for key, group in groups.items() if group == "measured"} == {
        "frozen:val",
        "frozen:test",
        "full:val",
        "full:test",
    }
    assert {key for key, group in groups.items() if group == "predicted"} == {
        "transferability",
        "interval",
        "p_best",
        "p_top_k",
        "proxy:logme",
        "proxy:knn",
    }
    assert not any(column.group == "measured" for column in table_view(samples.unmeasured()).columns)


def test_values_marks_and_gaps() -> None:
    ranking = samples.ranking()
    assert [cell.text for cell in cells(ranking, "full:val")] == ["0.930°", "0.910", "–", "–", "–"]
    assert [cell.text for cell in cells(ranking, "transferability")] == ["0.800≈", "0.744≈", "0.692", "0.643", "–"]
    assert [cell.text for cell in cells(ranking, "proxy:knn")] == ["0.700", "0.680", "0.660", "–", "–"]
    assert cells(ranking, "proxy:logme")[3] == Cell("–", None, "N < D")
    assert [cell.text for cell in cells(ranking, "rank")] == ["1", "2", "3", "4", "–"]
    assert cells(ranking, "seconds")[2].text == "store"
    assert "90% interval -0.5 to -0.3" in cells(ranking, "proxy:logme")[0].title


def test_notes_explain_marks_warnings_and_failures() -> None:
    notes = table_view(samples.ranking()).notes
    assert any(note.startswith("≈ may be as good as the first") for note in notes)
    assert any(note.startswith("° trained at reduced size (128 × 128 pixels)") for note in notes)
    assert "Note: 2 models are not significantly different (90%) on these rows." in notes
    assert "Failed: timm:network_4.in1k: weights are missing" in notes
    assert not any("°" in note for note in table_view(samples.unmeasured()).notes)


def test_failures_for_one_reason_are_told_together() -> None:
    *others, failed = samples.ranking().models

    def absent(name: str, reason: str = "the weights of hub repository org/{} are not on this machine") -> ModelResult:
        return replace(failed, name=name, spec={"source": f"transformers:org/{name}"}, reason=reason.format(name))

    away = [absent(f"m{i}") for i in range(9)]
    away[1] = replace(away[1], name="m1@3", reason=f"m1: {away[1].reason}")  # as a reading of its network
    notes = table_view(samples.ranking((*others, *away, absent("odd", "damaged")))).notes
    assert [note for note in notes if note.startswith("Failed")] == [
        "Failed: m0: the weights of hub repository org/m0 are not on this machine",
        "Failed likewise: m1@3, m2, m3, m4, m5, m6 and 2 more",
        "Failed: odd: damaged",
    ]


def test_a_failure_is_named_once_and_not_by_its_own_reason() -> None:
    *others, failed = samples.ranking().models
    listed = "1 model failed and is not ranked: timm:network_4.in1k."
    ranking = samples.ranking(
        (*others, replace(failed, reason=f"{failed.name}: weights are missing")),
        warnings=("another", listed),
        caveats=(Caveat("failed", listed),),
    )
    view = table_view(ranking)
    assert [note for note in view.notes if failed.name in note] == [f"Failed: {failed.name}: weights are missing"]
    assert "Note: another" in view.notes
    assert cells(ranking, "status")[-1].title == "weights are missing"


def test_the_last_rung_counts_and_failed_trainings_do_not() -> None:
    early, late = samples.measurement(0.95, round=0), samples.measurement(0.93, round=1)
    broken = samples.measurement(0.99, round=2, status="diverged", note="loss is not finite")
    assert final_measurements(samples.model(0, measurements=(early, late, broken)))["full"] is late
    only = samples.ranking((samples.model(0, measurements=(broken,)),))
    assert cells(only, "full:val") == [Cell("diverged", None, "loss is not finite")]


def test_text_has_every_model_and_no_markup() -> None:
    text = render_text(samples.hostile(), width=200)
    assert samples.HOSTILE in text  # brackets are not read as rich markup
    assert "\x1b" not in text
    assert text.splitlines()[0].rstrip() != ""


@pytest.mark.parametrize("width", [60, 80, 120, 160, 250])
def test_text_keeps_to_its_width(width: int) -> None:
    text = render_text(samples.ranking(), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    for needed in ("fine-tuned", "(val)", "transferability", "0.930°", "timm:network_3.in1k"):
        assert needed in (text if width >= 120 else text.replace("\n", "")) or width < 120


def test_narrow_text_leaves_out_facts_before_figures() -> None:
    text = render_text(samples.ranking(), width=120)
    assert re.search(r"Hidden columns: license, feature dim, extraction time, params", text)
    assert "transferability" in text.splitlines()[3]
    assert "Not shown" not in render_text(samples.ranking(), width=250)


def test_a_mark_is_explained_only_where_it_is_seen() -> None:
    wide, narrow = (render_text(samples.ranking(), width=width) for width in (400, 120))
    shown = [line for line in wide.splitlines() if line.startswith("◇ no model")]
    assert shown
    assert not [line for line in narrow.splitlines() if line.startswith("◇ no model")]
    assert "≈ may be as good as the first" in narrow


def test_limit_names_the_rest() -> None:
    text = render_text(samples.large(50), width=160, limit=10)
    assert "network_9.in1k" in text
    assert "network_10.in1k" not in text
    assert "… and 40 more" in text


def test_html_fragment_is_escaped_and_complete() -> None:
    html = render_html(samples.hostile())
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;/script&gt;" in html
    assert html.count("<tr>") == 2 + 5
    assert "<caption>" in html
    assert samples.ranking()._repr_html_() == render_html(samples.ranking())
    assert str(samples.ranking()) == render_text(samples.ranking())


def test_header_spans_cover_all_columns() -> None:
    html = render_html(samples.ranking())
    spans = [int(n) for n in re.findall(r'colspan="(\d+)"', html)]
    assert sum(spans) == len(table_view(samples.ranking()).columns)
    assert re.search(r'colspan="4"[^>]*>measured<', html)
    assert re.search(r'colspan="6"[^>]*>predicted<', html)


def test_a_negative_zero_is_written_as_zero() -> None:
    scores = {"logme": ScoreCell(-0.00001)}
    ranking = samples.ranking((samples.model(0, scores=scores),), settings={"proxies": ["logme"]})
    assert cells(ranking, "proxy:logme")[0].text == "0.000"


def test_a_ranking_without_anything_still_prints() -> None:
    bare = Ranking({}, {}, {}, ())
    assert "target" in render_text(bare)
    assert "<table" in render_html(replace(bare, target={"name": "x"}))


def test_costs_have_columns_and_marks_for_the_fronts() -> None:
    ranking = samples.costed()
    assert [cell.text for cell in cells(ranking, "latency")][:4] == ["12.0 ms◆◇", "16.0 ms", "9.0 ms◇", "24 ms"]
    assert [cell.text for cell in cells(ranking, "memory")][:2] == ["30.0 MB◆◇", "37.0 MB"]
    assert cells(ranking, "rate")[0] == Cell("250/s", 250.0, "in batches of 16, openvino")
    assert (cells(ranking, "flops")[1].text, cells(ranking, "disk")[0].sort) == ("490.0M", 18_000_000)
    assert cells(ranking, "latency")[-1].text == "–"
    assert "11.0 ms to 31 ms in 9 passes; AMD EPYC, float32" in cells(ranking, "latency")[0].title
    notes = table_view(ranking).notes
    assert "◆ no model of equal or lower cost has a higher measured value." in notes
    assert "Excluded: timm:network_5.in1k: 7.9M parameters, more than 6.0M." in notes
    assert not any("busy" in note for note in notes)
    busy = samples.ranking((samples.model(0, cost=samples.cost(0, latency=0.023)),))
    assert cells(busy, "latency")[0].text == "~23 ms"
    assert any(note.startswith("~ the machine was busy") for note in table_view(busy).notes)
    loaded = [samples.cost(0, load=load).unsteady for load in (None, 1.0, 1.5, 3.0)]
    assert loaded == [False, False, False, True]


def test_the_dataframe_has_every_column_of_the_table() -> None:
    """By name where it has the same name, and by value in any case."""
    ranking = samples.costed()
    table = ranking.to_dataframe()
    names = {
        "rank": "rank", "model": "model", "status": "status", "transferability": "transferability", "interval": "transferability_low",
        "p_best": "p_best", "p_top_k": "p_top_k", "parameters": "parameters", "features": "features",
        "license": "license", "flops": "flops", "latency": "latency", "memory": "memory", "disk": "disk",
    }  # fmt: skip
    view = table_view(ranking)
    for position, column in enumerate(view.columns):
        kind, _, rest = column.key.partition(":")
        if column.key == "rate":
            values = 1 / table["image_seconds"]
        elif column.key == "seconds":
            values = table["extract_seconds"].where(~table["cached"], 0.0)
        else:
            name = rest if kind == "proxy" else f"measured_{kind}_{rest}" if rest else names[kind]
            values = table[name]
        for row, value in zip(view.rows, values, strict=True):
            shown = row.cells[position].sort
            if shown is None:
                assert value is None or value != value or column.key == "seconds", column.key
            else:
                assert value == (pytest.approx(shown) if isinstance(shown, float) else shown), column.key


def test_the_dataframe_has_the_trainings_the_fronts_and_the_reasons() -> None:
    ranking = samples.costed()
    table = ranking.to_dataframe().set_index("model")
    first, failed = ranking.models[0].name, ranking.models[-1].name
    assert table.loc[first, "measured_full_test"] == pytest.approx(0.92)
    assert table.loc[first, "measured_full_val_loss"] == pytest.approx(0.07)
    assert (table.loc[first, "measured_full_steps"], table.loc[first, "measured_full_height"]) == (150, 128)
    assert table.loc[first, "measured_full_rate"] == 1e-3
    assert table.loc[ranking.models[3].name, "logme_reason"] == "N < D"
    assert "WeightsMissing" in table.loc[failed, "traceback"]
    assert list(table["front_predicted_latency"][:4]) == [True, False, True, False]
    assert list(table["front_measured_parameters"][:2]) == [True, False]
    assert table.loc[first, "latency_high"] == 0.031
    assert (table.loc[first, "device"], table.loc[first, "batch_backend"]) == ("AMD EPYC", "openvino")


def test_the_short_dataframe_has_what_was_measured_by_any_strategy() -> None:
    strategies = ("full", "zero-shot", "fcos/full")
    measured = tuple(samples.measurement(0.9, strategy=name) for name in strategies)
    short = samples.ranking((samples.model(0, measurements=measured),)).to_dataframe(short=True)
    found = [name for name in short if name.startswith("measured_")]
    assert found == [f"measured_{name}_{split}" for name in strategies for split in ("val", "test")]


def test_a_legend_says_what_shown_columns_mean() -> None:
    wide, narrow = (render_text(samples.ranking(), width=width) for width in (300, 80))
    for text in (wide, narrow):
        (line,) = re.findall(r"(?s)^Legend: .*?result-columns\.html", text, re.M)
        shown = " ".join(line.split())
        assert "transferability: predicted from the proxies" in shown
        assert ("P(best): " in shown) == ("P(best)" in text.split("Legend")[0])
    assert "reference/result-columns.html" in render_html(samples.ranking())
