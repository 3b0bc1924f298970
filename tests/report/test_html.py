"""The report's text: escaping, policy, advice, the command to run it again, figures."""

import base64
import hashlib
import itertools
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from scipy.stats import rankdata

import selector
from selector.cli import app
from selector.core.errors import ConfigError
from selector.core.stats import share_interval
from selector.report.advice import Advice, advice, predict_command
from selector.report.error_analysis import error_analysis
from selector.report.figures import Figure, figures, history, layers, spread
from selector.report.html import command, render_report, template_part, write_report
from selector.report.html import render_label_page as label_page
from selector.report.ranking import load_ranking
from selector.report.series import rank_table
from selector.report.svg import Axis
from selector.report.view import table_view
from selector.results import Caveat, ModelResult, ScoreCell
from tests.report import samples


def test_the_file_stands_alone() -> None:
    html = render_report(samples.ranking())
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!#|data:)[^"'\s>]""", html)
    assert "@import" not in html
    assert "url(" not in html
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src &#39;none&#39;")
    for part in ("style", "script"):
        (text,) = re.findall(rf"<{part}>(.*?)</{part}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{part}-src &#39;sha256-{digest}&#39;" in policy


def test_hostile_values_are_escaped() -> None:
    html = render_report(samples.hostile())
    assert html.count("<script>") == 1
    assert html.count("<img") == html.count('<img src="data:image/png;base64,') > 0
    assert "&lt;/script&gt;&lt;script&gt;" in html
    assert 'onerror="' not in html


def test_write_report_goes_into_the_runs_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this ranking has no folder yet; call ranking\.save"):
        write_report(samples.ranking())
    saved = samples.ranking().save(tmp_path / "run")
    path = write_report(load_ranking(saved.path or ""))
    assert path == tmp_path / "run" / "report.html"
    assert "Start from timm:network_0.in1k" in path.read_text()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_advice_of_a_measured_run() -> None:
    told = advice(samples.ranking())
    assert told.headline == "Start from timm:network_0.in1k and fine-tune all its layers."
    low, _high = share_interval(276, 300)
    assert f"accuracy 0.920 on the test split, which was read once (300 items; 90% interval {low:.3f}" in told.sure[0]
    assert told.sure[1].endswith("is 2.0 points behind on validation.")
    assert "for 150 steps at 128 × 128 pixels, below its own size" in told.sure[2]
    assert told.cost[0] == "3.4M parameters, license apache-2.0."


def test_advice_says_when_the_gap_is_real() -> None:
    first = samples.model(0, measurements=(samples.measurement(0.95),))

    def second(**extra: float) -> ModelResult:
        return samples.model(1, measurements=(samples.measurement(0.80, extra=extra),))

    assert advice(samples.ranking((first, second()))).sure[1].endswith("15.0 points behind on validation.")
    paired = advice(samples.ranking((first, second(difference_low=0.12, difference_high=0.18)))).sure[1]
    assert paired.endswith("15.0 points behind on validation (90% interval of the paired difference 12.0 to 18.0).")
    tied = advice(samples.ranking((first, second(difference_low=-0.01, difference_high=0.31)))).sure[1]
    assert tied.endswith("-1.0 to 31.0); the two are not significantly different on these items.")
    alone = advice(samples.ranking((first, samples.model(1)))).sure[1]
    assert alone == "It is the only measured model. The values of the others are predictions."


def test_advice_says_that_a_gap_is_one_of_means() -> None:
    seeds = samples.model(0, measurements=(samples.measurement(0.95, extra={"seed_values": [0.95, 0.89, 0.89]}),))
    other = samples.model(1, measurements=(samples.measurement(0.90, extra={"seed_values": [0.90]}),))
    told = advice(samples.ranking((seeds, other))).sure[1]
    assert "is 1.0 points behind on validation in the mean of 3 seeds." in told
    assert "seeds" not in advice(samples.ranking()).sure[1]


def _close(second: dict[str, float], **changes: Any) -> Advice:
    """Advice on two models, of which the second is the cheaper one."""
    first = samples.model(
        0, num_parameters=9_000_000, measurements=(samples.measurement(0.826, test={"accuracy": 0.804}),)
    )
    extra = {"difference_high": 0.16, **second}
    rival = samples.measurement(0.761, extra=extra, test={"accuracy": 0.891}, **changes)
    return advice(samples.ranking((first, samples.model(1, measurements=(rival,)))))


def test_the_headline_of_a_tie_recommends_the_cheaper() -> None:
    told = _close({"difference_low": -0.02, "p_best": 0.13}, strategy="frozen")
    assert told.headline.startswith(
        "timm:network_0.in1k and timm:network_1.in1k cannot be told apart on 300 validation"
    )
    assert "start from the cheaper one, timm:network_1.in1k, and train a new head" in told.headline
    assert told.headline.endswith("The saved model is timm:network_0.in1k, which leads on validation.")
    clear = _close({"difference_low": 0.01, "p_best": 0.02})
    assert clear.headline == "Start from timm:network_0.in1k and fine-tune all its layers."
    far = _close({"difference_low": -0.001, "p_best": 0.05})  # hardly ever the best one
    assert far.headline == clear.headline


def test_a_test_split_that_reverses_validation_is_reported() -> None:
    (told,) = [line for line in _close({"difference_low": -0.02, "p_best": 0.13}).sure if "reverses" in line]
    assert "timm:network_1.in1k 0.891, timm:network_0.in1k 0.804 (8.7 points)" in told
    assert not [line for line in advice(samples.ranking()).sure if "reverses" in line]


def test_advice_names_what_may_be_as_good_and_the_strategy() -> None:
    cheaper, strategy = advice(samples.ranking()).others
    assert cheaper.startswith("timm:network_0.in1k (frozen, 3.4M parameters) may be as good: 0.4 points behind")
    assert cheaper.endswith("on validation, 90% interval -0.6 to 1.4.")
    assert strategy.startswith("timm:network_0.in1k: take full")
    assert advice(samples.unmeasured()).others == ()


def test_advice_of_an_unmeasured_run_promises_nothing() -> None:
    told = advice(samples.unmeasured())
    assert told.headline.startswith("Confirm before you choose: timm:network_0.in1k leads the ranking")
    assert "The probability that it is the best model after training is 60%." in told.sure
    assert "May be as good after training: timm:network_1.in1k." in told.sure
    assert told.commands == ("selector confirm RUN",)


@pytest.mark.parametrize(
    ("source", "ending"),
    [
        ("timm:resnet18", "IMAGES…"),
        ("python:selector.networks:mnist_cnn", "IMAGES…"),
        ("python:mine:net", "IMAGES… --trust-code"),
    ],
)
def test_the_command_to_predict_trusts_code_of_others_where_the_model_needs_it(source: str, ending: str) -> None:
    ranking = samples.ranking()
    best = replace(ranking.best, spec={**ranking.best.spec, "source": source})
    assert predict_command(ranking, best) == f"selector predict RUN {ending}"


def test_advice_where_nothing_trains_promises_no_confirmation() -> None:
    told = advice(replace(samples.unmeasured(), caveats=(Caveat("task-not-trainable", "nothing trains on them"),)))
    assert told.headline.startswith("Try timm:network_0.in1k first")
    assert told.commands == ()


def test_advice_when_everything_failed() -> None:
    failed = samples.ranking((samples.ranking().models[-1],))
    assert advice(failed).headline == "No model finished. The reasons are listed below under failures."
    assert "No model finished" in render_report(failed)


def test_the_command_to_run_again_parses() -> None:
    line = command(samples.ranking(path=Path("runs/my run")))
    assert line is not None
    words = shlex.split(line)
    assert words[:3] == ["selector", "scan", "my photos"]
    assert words[3:] == [
        *("--models", "network*", "--proxies", "logme,knn", "--top-k", "2", "--budget", "600s", "--device", "cpu"),
        *("--out", "runs/my run"),
    ]
    assert "--no-confirm" in shlex.split(command(samples.unmeasured()) or "")
    assert command(samples.ranking(target={"name": "arrays", "origin": None})) is None
    assert command(samples.ranking(settings={"zoo": "in memory"})) is None


def test_the_options_of_the_command_exist() -> None:
    import typer.main

    from selector.config import ScanConfig

    group = typer.main.get_command(app)
    _, scan, _ = group.resolve_command(None, ["scan"])  # type: ignore[attr-defined]
    known = {option for parameter in scan.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {word for name, about in ScanConfig.options() if about.cli for word in about.words(name, True)}
    assert named | {"--no-confirm", "--no-history", "--no-intervals"} <= known


def test_figures_are_well_formed_and_only_drawn_with_data() -> None:
    two = samples.ranking()
    assert [f.key for f in figures(two)] == [
        "intervals",
        "history",
        "proxies",
        "cost-parameters",
    ]  # two dots always rise
    third = replace(two.models[2], measurements=two.models[1].measurements)
    three = replace(two, models=(*two.models[:2], third, *two.models[3:]))
    assert [f.key for f in figures(three)] == ["intervals", "agreement", "history", "proxies", "cost-parameters"]
    assert [f.key for f in figures(samples.unmeasured())] == ["intervals", "proxies", "cost-parameters"]
    assert [f.key for f in figures(samples.costed())][-3:] == ["cost-parameters", "cost-latency", "cost-memory"]
    assert figures(samples.ranking((), confirmation={})) == []
    unsure = [replace(m, transferability_low=None, transferability_high=None) for m in samples.unmeasured()]
    assert [f.key for f in figures(samples.ranking(tuple(unsure), confirmation={}))] == ["proxies", "cost-parameters"]
    for ranking in (samples.costed(), samples.hostile(), samples.large(100)):
        for figure in figures(ranking):
            ElementTree.fromstring(figure.svg)


def test_axis_ends_and_ticks() -> None:
    axis = Axis.over([2.0], 0, 100)
    assert axis.low < 2.0 < axis.high
    log = Axis.over([1e6, 3e8], 0, 100, log=True)
    assert log(1e6) == pytest.approx(100 * 0.2624 / (0.2624 * 2 + 5.7038), rel=1e-3)
    assert log.ticks() == [1e6, 1e7, 1e8] or len(log.ticks()) >= 3
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_outcome_with_a_matrix() -> None:
    found = error_analysis(samples.examined())
    assert found is not None
    assert found.matrix
    assert [(line.name, line.items, line.recall) for line in found.lines] == [
        ("good", 100, 0.9),
        ("hole", 50, 0.8),
        ("stain", 50, 0.96),
    ]
    assert (found.most, found.hidden, found.confused) == (9, 0, ())
    assert [s.name for s in found.mistakes] == ["a.jpg", "b.jpg"]
    assert [s.name for s in found.unsure] == ["c.jpg"]
    assert found.mistakes[0].picture == samples.PIXEL
    assert found.mistakes[1].picture == ""  # an image outside the file is not asked for
    assert error_analysis(samples.ranking()) is None


def test_the_error_analysis_of_any_task_is_shown() -> None:
    """Tables, numbers and samples of a task that has no classes."""
    kept = {
        "split": "test",
        "tables": {"by size": [{"size": "small <b>", "items": 1200, "error": 0.25}, {"size": "large", "items": 3}]},
        "figures": {},
        "samples": [{"index": 1, "name": "a.jpg", "label": 3.25, "predicted": [1.5, {"x": 2}]}],
    }
    first, *rest = samples.ranking().models
    measured = samples.measurement(0.9, extra={"error_analysis": kept})
    ranking = samples.ranking((replace(first, measurements=(measured,)), *rest))
    found = error_analysis(ranking)
    assert found is not None
    assert found.tables[0].columns == ("size", "items", "error")
    html = render_report(ranking)
    for text in (
        "By size",
        "small &lt;b&gt;",
        "1,200",
        "0.25",
        "true: <strong>3.25</strong>",
        "<strong>1.5, x 2</strong>",
    ):
        assert text in html
    assert "small <b>" not in html


def test_outcome_of_many_classes_shows_the_worst_and_what_they_are_taken_for() -> None:
    first, *rest = samples.ranking().models
    kept = samples.error_analysis(["good", "hole", "stain"])
    del kept["confusion"]
    kept["classes"] = [
        {"class": f"c{i}", "images": 5, "precision": 0.5, "recall": 0.5, "f1": i / 200} for i in range(100, -1, -1)
    ]
    base = samples.ranking(
        (replace(first, measurements=(samples.measurement(0.9, extra={"error_analysis": kept}),)), *rest)
    )
    many = replace(base, target={**base.target, "classes": 1000})
    found = error_analysis(many)
    assert found is not None
    assert not found.matrix
    assert [line.name for line in found.lines[:3]] == ["c0", "c1", "c2"]
    assert (len(found.lines), found.hidden) == (40, 960)
    html = render_report(many)
    assert "the 40 classes that went worst; 960 others are left out" in html
    assert "hole taken for stain: 9" in html


def test_the_course_of_the_confirmation_is_told_with_the_trainings() -> None:
    html = render_report(samples.ranking())
    assert "Planned: 2 configurations x 1 rate x 150 steps" in html.split('id="measurements"')[1].split("</section>")[0]


def test_matplotlib_figures() -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    plot = selector.plot
    intervals = plot.intervals(samples.ranking())
    assert next(tick.get_text() for tick in intervals.axes[0].get_yticklabels()) == "timm:network_0.in1k"
    assert plot.agreement(samples.ranking()).axes[0].get_ylabel() == "accuracy on validation (measured)"
    assert plot.cost(samples.ranking()).axes[0].get_xscale() == "log"
    latency = plot.cost(samples.costed(), "latency", "predicted")
    assert latency.axes[0].get_ylabel() == "transferability (predicted)"
    assert [list(line.get_xdata()) for line in latency.axes[0].get_lines()] == [
        [0.012, 0.016, 0.009, 0.024],
        [0.009, 0.012, 0.012, 0.024],
    ]
    latency.canvas.draw()
    with pytest.raises(ConfigError, match=r"against must be one of parameters, latency, memory; did you mean 'memory'"):
        plot.cost(samples.costed(), "memroy")
    with pytest.raises(ConfigError, match=r"too few models of this ranking have latency and a measured value: three"):
        plot.cost(samples.ranking(), "latency", "measured")
    table = plot.proxies(samples.ranking()).axes[0]
    assert [label.get_text() for label in table.get_xticklabels()] == ["transferability", "logme", "knn"]
    assert [text.get_text() for text in table.texts] == ["1", "1", "1", "2", "2", "2", "3", "3", "3", "4", "–", "–"]
    with pytest.raises(ConfigError, match=r"fewer than two models were measured; selector\.confirm"):
        plot.agreement(samples.unmeasured())
    with pytest.raises(ConfigError, match="was measured at two steps"):
        plot.history(samples.unmeasured())
    lines = plot.history(samples.ranking()).axes[0].get_lines()
    assert [list(line.get_ydata()) for line in lines] == [[0.88, 0.93], [0.91]]
    assert [list(line.get_xdata()) for line in lines] == [[50, 150], [50]]
    dollars = replace(samples.model(0), name="a$b$c")
    plot.intervals(samples.ranking((dollars, samples.model(1)))).canvas.draw()


def test_the_first_screen_says_what_using_the_model_costs() -> None:
    told = advice(samples.costed()).cost
    assert told[1] == "An image takes 12.0 ms on AMD EPYC (float32); 250 images per second in batches of 16."
    assert told[2] == "It needs 30.0 MB of peak memory for one image, 18.0 MB on disk, 390.0M multiply-adds."
    busy = replace(samples.costed(), models=(samples.model(0, cost=samples.cost(0, latency=0.03)),))
    assert "while the machine was busy" in advice(busy).cost[1]


def test_excluded_models_are_listed_with_their_reasons() -> None:
    html = render_report(samples.costed())
    assert "Excluded by the limits" in html
    assert "7.9M parameters, more than 6.0M." in html
    assert "&lt;img src=x" in html
    assert "<img" not in html
    excluded = replace(samples.costed(), models=samples.costed().models[5:6])
    assert advice(excluded).headline.startswith("No model satisfies the limits")


def test_limits_are_in_the_command_to_run_again() -> None:
    base = samples.ranking()
    limits = {"max_params": "30M", "max_latency": 0.02, "license": ["mit", "bsd-*"], "measure_cost": "always"}
    words = shlex.split(command(replace(base, settings={**base.settings, **limits})) or "")
    asked = dict(itertools.pairwise(words))
    assert (asked["--max-params"], asked["--max-latency"]) == ("30M", "0.02s")
    assert (asked["--license"], asked["--measure-cost"]) == ("mit,bsd-*", "always")


def test_ranks_of_the_proxies_against_scipy() -> None:
    values = [0.3, 0.9, 0.3, None, 0.1, 0.9, 0.3]
    models = tuple(
        samples.model(
            i, transferability=1.0 - i / 10, scores={"logme": ScoreCell(v, reason="none"), "knn": ScoreCell(float(i))}
        )
        for i, v in enumerate(values)
    )
    table = rank_table(samples.ranking(models))
    assert table is not None
    assert table.columns == ("transferability", "logme", "knn")
    known = [v for v in values if v is not None]
    expected = iter(rankdata([-v for v in known]))
    assert [row[1] for row in table.ranks] == [None if v is None else next(expected) for v in values]
    assert [row[2] for row in table.ranks] == [7, 6, 5, 4, 3, 2, 1]
    assert rank_table(samples.ranking(models[:1])) is None


def label_heights(figure: Figure) -> list[float]:
    return sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)" class="name">', figure.svg))


def test_labels_of_curves_that_end_together_stand_apart() -> None:
    read = {"1": 0.6, "2": 0.7}
    base = samples.ranking(tuple(samples.model(i, layers={**read, "3": 0.9 + i / 1000}) for i in range(5)))
    shown = layers(base)
    assert shown is not None
    heights = label_heights(shown)
    assert len(heights) == 5
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 12.9
    close = [{**entry, "value": 0.9} for entry in samples.confirmation()["history"] if entry["status"] == "ok"]
    close += [{**close[1], "round": 2}]
    tuning_log = history(samples.ranking(confirmation={**samples.confirmation(), "history": close}))
    assert tuning_log is not None
    first, second = label_heights(tuning_log)
    assert second - first >= 12.9


def test_the_figure_of_layers_says_what_is_read_when_nothing_is_said() -> None:
    base = samples.ranking((samples.model(0, layers={"1": 0.5, "2": 0.6}),))
    texts, words = (layers(replace(base, target={**base.target, **kind})) for kind in ({}, {"words": 99}))
    assert texts is not None
    assert words is not None
    assert texts.caption.endswith("where neither does, the mean over all layers, of a sentence encoder the last one.")
    assert words.caption.endswith("where neither does, the mean over all layers.")


def test_labels_that_do_not_fit_share_the_height() -> None:
    assert spread([10.0] * 5, 0, 40) == [0, 10, 20, 30, 40]
    assert spread([], 0, 40) == []
    assert spread([30.0, 5.0], 0, 40) == [30, 5]


def test_a_tie_is_told_once() -> None:
    told = "2 models are not significantly different (90%) on these 40 rows: a and b."
    caveats = (Caveat("too-few-examples", told, {}),)
    ranking = samples.unmeasured()
    models = [replace(m, tied=i < 2) for i, m in enumerate(ranking)]
    ranking = replace(ranking, models=tuple(models), caveats=caveats, warnings=(told,))
    assert (render_report(ranking).count(told), table_view(ranking).notes.count(f"≈ {told}")) == (1, 1)
    assert not [note for note in table_view(ranking).notes if note == f"Note: {told}"]


def test_a_rival_is_told_once() -> None:
    ranking = samples.ranking()
    _, second = [m for m in ranking if m.best_measurement() is not None][:2]
    strategy = second.best_measurement().strategy  # type: ignore[union-attr]
    member = {
        "name": second.name,
        "strategy": strategy,
        "parameters": 1,
        "difference": 0.01,
        "low": -0.01,
        "high": 0.03,
    }
    found = advice(replace(ranking, confirmation={**ranking.confirmation, "epsilon_best": [member]}))
    assert sum(second.name in line for line in (*found.sure, *found.others)) == 1


def test_rates_of_a_busy_machine_are_marked_and_extraction_says_what_it_holds() -> None:
    ranking = samples.ranking((samples.model(0, cost=samples.cost(0, load=99.0), extract_seconds=27.0, rows=500),))
    view = table_view(ranking)
    cells = {column.key: cell for column, cell in zip(view.columns, view.rows[0].cells, strict=True)}
    assert cells["rate"].text.startswith("~")
    assert cells["latency"].text.startswith("~")
    lines = advice(ranking).cost
    assert any(
        "Extraction took 27.0 s for 500 rows, including loading and the choice of a backend." in line for line in lines
    )


def test_no_scatter_of_two_points() -> None:
    two = samples.ranking(
        tuple(
            samples.model(i, cost=samples.cost(i), measurements=(samples.measurement(0.8 + i / 50),)) for i in range(2)
        )
    )
    assert not [figure.key for figure in figures(two) if figure.key.startswith("cost-") or "measured" in figure.key]


def test_settings_are_words_and_not_json() -> None:
    page = render_report(
        samples.ranking(
            settings={
                "top_k": 3,
                "confirm": {"budget": "20min", "max_steps": None, "strategies": ["full", "lora"]},
                "overwrite": False,
                "max_samples": None,
            }
        )
    )
    assert "max samples" not in page  # only what was set: dozens of options are not
    assert "<dt>top k</dt><dd>3</dd>" in page
    assert "<dt>confirm</dt><dd>budget: 20min; strategies: full, lora</dd>" in page
    assert "<dt>overwrite</dt><dd>no</dd>" in page


def test_predicted_columns_step_back_once_there_are_measured_ones() -> None:
    assert '<table id="table" class="confirmed">' in render_report(samples.ranking())
    assert '<table id="table">' in render_report(samples.unmeasured())


def test_control_characters_are_spelled_out(tmp_path: Path) -> None:
    """A terminal that shows the file, or a pager, must not be steered by names of others."""
    nasty = "a\x1b[2J\x07\x9b31m\u202eb"
    run = samples.ranking()
    hostile = replace(run, target={**run.target, "name": nasty, "class_names": [nasty, "x"]}, warnings=(nasty,))
    pages = [
        render_report(hostile),
        label_page(nasty, [nasty], [{"id": "1", "name": nasty, "text": nasty}], ["name", "label", "id"]),
    ]
    for page in pages:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page)
        assert "\\x1b[2J" in page


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((0, 0), "measured ones come from linear probes on frozen features."),
        ((0, 40), "measured ones come from linear probes on frozen features and fine-tuning."),
        ((40, 40), "measured ones come from fine-tuning."),
    ],
)
def test_the_footer_says_what_was_measured(steps: tuple[int, int], told: str) -> None:
    models = [samples.model(i, measurements=(samples.measurement(0.9, steps=n),)) for i, n in enumerate(steps)]
    assert told in render_report(samples.ranking(tuple(models)))
    assert "measured ones" not in render_report(samples.ranking((samples.model(0),)))


def test_the_origin_is_words() -> None:
    run = samples.ranking()
    origin = {
        "kind": "folder",
        "path": "my photos",
        "options": {"label_column": None, "class_names": ["a", "b"]},
        "steps": [{"op": "drop"}],
    }
    html = render_report(replace(run, target={**run.target, "origin": origin}))
    assert "my photos (folder); class names a, b; 1 later selection of items" in html


def test_names_above_a_matrix_are_not_broken() -> None:
    css = template_part("report.css")
    (rule,) = re.findall(r"\.confusion \.said \{([^}]*)\}", css)
    assert "overflow-wrap: normal" in rule
    assert "anywhere" not in rule
