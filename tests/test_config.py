"""One list of a call's options: signatures, command line, record, dry run, run-again line and old runs follow it."""

import ast
import inspect
import json
import shlex
import textwrap
from dataclasses import replace
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

import selector
from selector import api
from selector.cli import app
from selector.cli import options as o
from selector.config import ConfirmConfig, ScanConfig
from selector.core.errors import OptionError
from selector.core.options import SELECT, Option, about_field, option
from selector.core.version import SITE
from selector.options.data import LoadOptions
from selector.report.html import command
from tests.report import samples
from tests.support.commands import fails, ok


@pytest.mark.parametrize(
    ("function", "config", "positional"),
    [(api.rank, ScanConfig, "target"), (api.plan, ScanConfig, "target"), (api.confirm, ConfirmConfig, "ranking")],
)
def test_signatures_are_the_fields(function: Any, config: Any, positional: str) -> None:
    first, *keywords = inspect.signature(function).parameters.values()
    assert first.name == positional
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in keywords)
    assert {p.name: p.default for p in keywords} == {n: f.default for n, f in config.model_fields.items()}
    assert all(f"    {name}: " in (inspect.getdoc(function) or "") for name in config.model_fields)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (written,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(written.args.args) + len(written.args.kwonlyargs) <= 25


def test_every_option_of_the_command_line_is_a_field_with_its_description() -> None:
    for name, config in (("scan", ScanConfig), ("confirm", ConfirmConfig)):
        _, made, _ = typer.main.get_command(app).resolve_command(None, [name])  # type: ignore[attr-defined]
        shown = {p.name: p for p in made.params if p.param_type_name == "option"}
        fields = {n for n, f in config.model_fields.items() if about_field(f).cli}
        assert set(shown) - fields == {"plugin", "json", "debug", "help_all"} | (
            {"dry_run"} if name == "scan" else set()
        )
        assert {n: shown[n].help for n in fields} == {n: config.model_fields[n].description for n in fields}


class Longer(ScanConfig):
    """An option more, in this one place."""

    shuffle: Literal["no", "twice"] = option("no", "Shuffle so often.", panel=SELECT)
    depth: int | None = option(None, "How deep.", ge=2)
    wide: bool = option(False, "Also wide.")


def test_an_option_added_in_one_place_is_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selector.config.ScanConfig", Longer)
    # its check
    with pytest.raises(OptionError, match=r"shuffle must be 'no' or 'twice'\. Got 'thrice'\."):
        Longer.of(shuffle="thrice")
    with pytest.raises(OptionError, match=r"depth must be an int in the range \[2, inf\)\. Got 1\."):
        Longer.of(depth=1)
    # the command line, its help and its completion of choices
    seen: dict[str, Any] = {}
    probe = typer.Typer(cls=o.LazyGroup)

    @probe.callback()
    def root() -> None: ...

    @probe.command("scan")
    @o.with_fields("ScanConfig")
    def scan(target: str, **options: Any) -> None:
        seen.update(options)

    shown = CliRunner().invoke(probe, ["scan", "--help-all"]).stdout
    for words in ("--shuffle", "no|twice", "Shuffle so often.", "--depth", "x>=2", "--wide"):
        assert words in shown
    assert CliRunner().invoke(probe, ["scan", "x", "--shuffle", "twice", "--depth", "3", "--wide"]).exit_code == 0
    # the call, and the record
    config = Longer.of(**seen)
    assert (config.shuffle, config.depth, config.wide) == ("twice", 3, True)
    recorded = json.loads(json.dumps(config.record()))
    assert (recorded["shuffle"], recorded["depth"], recorded["wide"]) == ("twice", 3, True)
    # reading it again, and the command that makes the run again
    assert Longer.from_record(recorded).shuffle == "twice"
    ranking = samples.ranking()
    line = command(replace(ranking, settings={**ranking.settings, **recorded}), Longer)
    assert line is not None
    assert "--shuffle twice" in line
    assert {"--depth", "3", "--wide"} <= set(shlex.split(line))
    assert "--shuffle" not in (command(replace(ranking, settings={**ranking.settings, "shuffle": "no"}), Longer) or "")


def test_settings_of_an_old_run_are_read() -> None:
    old = {"zoo": None, "models": "network*", "top_k": 3, "seed": 4, "offline": True, "trusted": True, "ema": 0.9}
    config = ScanConfig.from_record({**old, "confirm": {"budget_seconds": 600.0}})
    assert (config.models, config.top_k, config.seed, config.offline) == ("network*", 3, 4, True)
    assert config.trust_zoo is False  # trust is given on a call, never read from a run
    with pytest.raises(selector.SelectorError, match=r"run\.json: settings: seed must be an int\. Got 'x'\."):
        ScanConfig.from_record({"seed": "x"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": 0}, "top_k must be an int in the range [1, inf). Got 0."),
        ({"prune": "yes"}, "prune must be 'auto', 'always' or 'never'. Got 'yes'."),
        ({"models": 3}, "models must be a text or a list of texts, entries or modules. Got 3."),
        ({"resolution": object()}, "resolution must be an int in the range [16, inf). Got an object."),
        ({"budget": "ten"}, "budget: A duration must be a number with a unit out of us, ms, s, m, h, d"),
        ({"max_latency": "20"}, "max_latency: A duration needs a unit here: 20ms or 20s?"),
        ({"max_params": 0}, "max_params must be more than 0, or every model is excluded."),
        ({"strategies": ""}, "strategies names none"),
        ({"measure_cost": "never", "max_memory": "1GB"}, "measure_cost must be 'auto' or 'always'. Got 'never'."),
        ({"prune": "always", "intervals": False}, "prune='always' needs intervals, by which models are pruned."),
        ({"top_q": 1}, "unknown option top_q; did you mean 'top_k'?"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_of_pydantic_is_shown(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        selector.plan("nowhere", **wrong)
    assert message in str(caught.value)
    assert "validation error" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_command_line_hears_its_own_words() -> None:
    told = fails(2, "scan", "nowhere", "--budget", "tenminutes", "--dry-run")
    assert "error: --budget: A duration must be a number with a unit" in told
    told = fails(2, "scan", "nowhere", "--max-latency", "1s", "--measure-cost", "never", "--dry-run")
    assert "--max-latency and --max-memory need measured models; --measure-cost must be" in told


def test_words_of_an_option() -> None:
    assert Option(unit="s").words("max_latency", 0.02) == ["--max-latency", "0.02s"]
    assert Option(unit="s").words("max_latency", "20ms") == ["--max-latency", "20ms"]
    assert Option().words("on_it", False) == ["--no-on-it"]
    assert Option().words("proxies", ["knn", "logme"]) == ["--proxies", "knn,logme"]


def test_the_help_shows_ten_options_and_the_rest_on_request() -> None:
    short, everything = (ok("scan", word, COLUMNS="200").stdout for word in ("--help", "--help-all"))
    common = {name for name, about in ScanConfig.options() if about.common}
    assert len(common) == 10
    for name in ScanConfig.model_fields:
        flag = f"│ --{name.replace('_', '-')} "
        assert (flag in short) == (name in common), name
        assert flag in everything or name == "progress"
    assert short.count("selector scan ") >= 3
    assert SITE in short
    for layout in ("masks", "boxes", "CoNLL", "folder"):
        assert layout in short
    assert "segmentation or detection" in short


@pytest.mark.parametrize("config", [ScanConfig, ConfirmConfig, LoadOptions])
def test_a_help_text_is_short_and_names_the_default(config: Any) -> None:
    for name, field in config.model_fields.items():
        told = field.description
        assert told.endswith("."), name
        assert len(told.split()) <= 32, name
        assert about_field(field).cli is False or name in SELF_EXPLAINED or "default" in told, name


SELF_EXPLAINED = {"source_domain", "box_format"}


def test_at_most_ten_modules_at_the_top() -> None:
    from pathlib import Path

    top = {p.stem for p in Path(selector.__file__).parent.glob("*.py")}
    assert top == {"__init__", "__main__", "api", "config", "results", "networks", "loggers", "estimators"}


def test_a_confirmation_without_a_budget_has_the_usual_one_and_the_help_says_it() -> None:
    from selector.options.training import DEFAULT_BUDGET

    assert ConfirmConfig().seconds == DEFAULT_BUDGET == 1200
    assert ConfirmConfig(max_steps=5).seconds is None
    assert ConfirmConfig(budget="90s").seconds == 90
    assert "20m" in ok("confirm", "--help", COLUMNS="200").stdout
