"""The generated part of the site: reference pages and the full benchmark tables, from the package and its results.

``write`` runs before each build, so the pages are current and none is committed.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import inspect
import math
import shutil
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _tools import notes
from _tools.docstrings import entries, markdown, summary

ROOT = Path(__file__).parents[2]
GENERATED = ("reference/api", "reference/cli", "reference/metrics", "benchmarks/tables")
"""Folders under ``docs/`` that hold nothing else."""
MOST_ROWS = 40
"""Of a table on a page; longer ones can be downloaded."""


def write(docs: Path) -> None:
    """Write every generated page below ``docs``; pages that are current keep their time stamp."""
    pages = {name: text.rstrip() + "\n" for name, text in _pages()}
    for folder in GENERATED:
        if (docs / folder).is_dir():
            for old in sorted((docs / folder).rglob("*.md")):
                if str(old.relative_to(docs)) not in pages:
                    old.unlink()
    for name, text in pages.items():
        path = docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    _copy_tables(docs)


def _pages() -> Iterator[tuple[str, str]]:
    yield from _api()
    yield from _cli()
    yield "reference/options.md", _options()
    yield from _metrics()
    yield "reference/tasks.md", _tasks()
    yield "reference/strategies.md", _strategies()
    yield "reference/zoo-file.md", _zoo_file()
    yield "reference/result-columns.md", _columns()
    yield "reference/caveats.md", _caveats()
    yield "reference/run-folder.md", _run_folder()
    yield "reference/environment-variables.md", _environment()
    yield "reference/exit-codes.md", _exit_codes()
    yield from _tables()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("\n", " ") for cell in line) + " |" for line in lines)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *(part for part in parts if part)])


def _toctree(names: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```"])


# ---------------------------------------------------------------------------- Python


def public_names() -> list[str]:
    """Names that ``import selector`` offers."""
    import selector

    return sorted(name for name in selector.__all__ if not name.startswith("_"))


def _api() -> Iterator[tuple[str, str]]:
    import selector

    rows, pages = [], []
    for name in public_names():
        thing = getattr(selector, name)
        pages.append(name)
        rows.append([f"[`selector.{name}`]({name}.md)", summary(inspect.getdoc(thing))])
        yield f"reference/api/{name}.md", _page(f"`selector.{name}`", _autodoc(name, thing))
    yield (
        "reference/api/index.md",
        _page(
            "Python API", "All names are attributes of `selector`.", table(["name", "purpose"], rows), _toctree(pages)
        ),
    )


def _autodoc(name: str, thing: Any) -> str:
    kind = "automodule" if inspect.ismodule(thing) else "autoclass" if inspect.isclass(thing) else "autofunction"
    path = thing.__name__ if inspect.ismodule(thing) else f"selector.{name}"
    lines = ["```{eval-rst}", f".. {kind}:: {path}"]
    if name.endswith("Config"):
        return f"{summary(inspect.getdoc(thing))}\n\nEvery field is an [option](../options.md) of the same name."
    if inspect.ismodule(thing):
        lines.append("   :members:")
    elif inspect.isclass(thing):
        lines.append(
            "   :members:\n   :inherited-members: BaseModel, Exception, Sequence, BaseEstimator, TransformerMixin, "
            "_SetOutputMixin, ClassNamePrefixFeaturesOutMixin, object\n   :exclude-members: set_score_request, get_metadata_routing"
        )
    return "\n".join([*lines, "```"])


# ---------------------------------------------------------------------------- command line


def _cli() -> Iterator[tuple[str, str]]:
    from _tools.complete_cli import commands

    options = {f"--{name.replace('_', '-')}" for name, _ in _fields()}
    rows, pages = [], []
    for name, command in commands.items():
        page = name.replace(" ", "-")
        pages.append(page)
        told = summary(command.help)
        rows.append([f"[`selector {name}`]({page}.md)", told])
        known = [o for p in command.params for o in getattr(p, "opts", ()) if o in options]
        links = ", ".join(f"[`{flag}`](#{anchor(flag)})" for flag in known)
        module = "_tools.complete_cli:" + name.replace(" ", "_").replace("-", "_")
        yield (
            f"reference/cli/{page}.md",
            _page(
                f"`selector {name}`",
                told,
                f"```{{typer}} {module}\n:prog: selector {name}\n:width: 92\n:preferred: text\n```",
                f"More about these options: {links}." if links else "",
            ),
        )
    yield (
        "reference/cli/index.md",
        _page(
            "Command line",
            "`selector COMMAND --help` shows the most common options in the terminal, `--help-all` every option. [Exit codes](../exit-codes.md) are common to all.",
            table(["command", "purpose"], rows),
            _toctree(pages),
        ),
    )


def anchor(flag: str) -> str:
    """The target of an option on the page of options."""
    return f"option-{flag.lstrip('-').replace('_', '-')}"


# ---------------------------------------------------------------------------- options


def _fields() -> list[tuple[str, Any]]:
    """Option fields by name, each once: those of a scan, then what only a confirmation has."""
    from selector import ConfirmConfig, ScanConfig

    return list({**ConfirmConfig.model_fields, **ScanConfig.model_fields}.items())


def _options() -> str:
    from selector import ConfirmConfig, ScanConfig
    from selector.core.options import PANELS, about_field, cli_default

    parts = [
        "Every option has the same name on the command line and in Python: `--top-k 3` is `top_k=3`. "
        "Durations are written `90s`, `20m`, `3h`; sizes `500MB`, `4GB`; counts `30M`."
    ]
    for panel in PANELS:
        rows = []
        for name, field in _fields():
            about = about_field(field)
            if about.panel != panel:
                continue
            flag = f"--{name.replace('_', '-')}"
            users = [
                command
                for command, config in (("scan", ScanConfig), ("confirm", ConfirmConfig))
                if name in config.model_fields
            ]
            default = cli_default(field)
            shown = ", ".join(default) if isinstance(default, list | tuple) else default
            rows.append(
                [
                    f"[]{{#{anchor(flag)}}}`{flag if about.cli else name}`",
                    _values(field.annotation),
                    "–" if shown is None else f"`{shown}`",
                    markdown(field.description or ""),
                    ", ".join(users) + ("" if about.cli else " (Python only)"),
                ]
            )
        if rows:
            parts += [f"## {panel}", table(["option", "values", "default", "meaning", "used by"], rows)]
    return _page("Options", *parts)


def _values(annotation: Any, other: str = "object") -> str:
    """What a field takes, in words; ``other`` is the word for kinds that have none."""
    if literals := _literals(annotation):
        return ", ".join(f"`{value}`" for value in literals)
    kinds = _kinds(annotation)
    words = {int: "integer", float: "number", str: "text", tuple: "list"}
    names = dict.fromkeys(words[kind] for kind in kinds if kind in words)
    return "flag" if kinds == [bool] else " or ".join(names) or other


def _kinds(annotation: Any) -> list[Any]:
    """Types without their parameters, one for each that may be given."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kinds(parts[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in parts for kind in _kinds(part)]
    return [] if annotation is types.NoneType else [origin or annotation]


def _literals(annotation: Any) -> list[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    return [value for part in typing.get_args(annotation) for value in _literals(part)]


# ---------------------------------------------------------------------------- metrics (proxies), tasks, strategies


def _metrics() -> Iterator[tuple[str, str]]:
    from selector.proxies import DEFAULT_PROXIES, registry

    names = [*DEFAULT_PROXIES, *(name for name in registry.names() if name not in DEFAULT_PROXIES)]
    rows = []
    for name in names:
        card = registry.get(name)
        rows.append([f"[`{name}`]({name}.md)", markdown(card.summary), _labels(card), _range(card), card.cost])
        facts = (
            ("Range", f"{_range(card)}; higher is better. {card.good}"),
            ("Labels", _labels(card)),
            ("Formula", card.formula),
            ("Valid, and where it fails", card.domain),
            ("Differences from public code", card.deviations),
            ("Unchanged by", ", ".join(sorted(card.invariances))),
            ("Seed", "folds, subsample or starting point depend on it" if card.seeded else "has no effect"),
            ("Cost", card.cost),
            ("Source", card.source),
        )
        listed = "\n".join(f"**{title}**\n: {text}\n" for title, text in facts if text)
        asked = "\n".join(f"**{question}**\n: {answer}\n" for question, answer in card.answers.items())
        used = "Part of the default score. " if name in DEFAULT_PROXIES else ""
        yield (
            f"reference/metrics/{name}.md",
            _page(
                f"`{name}`",
                card.summary,
                f'{used}Use it with `--proxies {name}` or `selector.score(features, labels, "{name}")`.',
                listed,
                asked,
            ),
        )
    yield (
        "reference/metrics/index.md",
        _page(
            "Transferability metrics",
            "A transferability metric (proxy) predicts from frozen features how well a model will do on your labels. "
            f"By default selector combines {', '.join(f'`{name}`' for name in DEFAULT_PROXIES)}.",
            table(["metric", "what it measures", "labels", "range", "cost"], rows),
            _toctree(names),
        ),
    )


def _labels(card: Any) -> str:
    more = "; source logits" if card.needs_source_logits else "; an unlabeled target" if card.needs_unlabeled else ""
    return ", ".join(sorted(card.label_kinds)) + more


def _range(card: Any) -> str:
    low, high = (("−∞" if b < 0 else "∞") if math.isinf(b) else f"{b:g}".replace("-", "−") for b in card.bounds)
    return f"{low} to {high}"


def _tasks() -> str:
    from selector import tasks

    parts = [
        "The task is inferred from the labels. Override it with `--task`; choose the deciding metric with `--metric`."
    ]
    for name in tasks.registry.names():
        task = tasks.registry.get(name)
        rows = [
            [
                f"`{key}`" + (" (default)" if key == getattr(task, "metric", None) else ""),
                "higher" if metric.sign > 0 else "lower",
                metric.unit or "–",
                f"{metric.epsilon:g}",
            ]
            for key, metric in task.metrics.items()
        ]
        parts += [
            f"## `{name}`",
            summary(type(task).__doc__),
            table(["metric", "better", "unit", "smallest difference that counts"], rows),
        ]
    return _page("Tasks and their metrics", *parts)


def _strategies() -> str:
    from selector.tuning.strategies import registry

    kinds: dict[bool, list[list[str]]] = {False: [], True: []}
    for name in registry.names():
        plan = registry.get(name)
        kinds[plan.adapts].append(
            [
                f"[]{{#strategy-{name}}}`{name}`",
                notes.STRATEGIES.get(name, ""),
                "yes" if plan.trains else "no",
                (plan.optimizer or "chosen for the model") if plan.trains else "–",
            ]
        )
    head = ["strategy", "what it does", "trains by steps", "optimizer"]
    return _page(
        "Fine-tuning strategies",
        "Name strategies with `--strategies frozen,full`. In all of them the head starts from the linear probe.",
        "## With labels",
        table(head, kinds[False]),
        "## For an unlabeled target",
        "They need `--source-domain`.",
        table(head, kinds[True]),
    )


# ---------------------------------------------------------------------------- files and results


def _zoo_file() -> str:
    from selector.zoo import spec

    parts = [
        "A zoo file is YAML: `version`, optional `defaults`, and a list of `models`. Check one with `selector zoo check --zoo FILE`.",
        "```yaml\nversion: 1\nmodels:\n  - timm: resnet50.a1_in1k\n  - name: mine\n    timm: resnet18\n"
        "    weights: {file: weights/mine.safetensors}\n    license: mit\n    params: 11200000\n```",
    ]
    holders = (
        (spec.Zoo, "The file"),
        (spec.Defaults, "`defaults`"),
        (spec.ModelSpec, "A model"),
        (spec.WeightsFile, "`weights`"),
        (spec.PreprocessOverrides, "`preprocess`"),
        (spec.TextSettings, "`text`"),
    )
    for cls, title in holders:
        told = entries(cls.__doc__, "Attributes")
        rows = [
            [
                f"`{key}`",
                _values(field.annotation, "mapping"),
                ZOO_KEYS.get(key) or told.get(key) or markdown(field.description or ""),
            ]
            for key, field in cls.model_fields.items()
            if not field.exclude and key != "base"
        ]
        intro = (
            summary(cls.__doc__) if cls is not spec.Defaults else "Values for every model that does not set its own."
        )
        parts += [f"## {title}", intro, table(["key", "values", "meaning"], rows)]
    parts.append(
        "`timm: NAME` is short for `source: timm:NAME`; so is every other source: "
        + ", ".join(f"`{name}`" for name in spec.SOURCES.names())
        + "."
    )
    return _page("Zoo file", *parts)


ZOO_KEYS = {
    "version": "Version of the format.",
    "defaults": "See below.",
    "models": "The models, each as below.",
    "file": "Path of the file, inside the package, the folder or beside the zoo file.",
    "package": "Installed pip package that holds the file.",
    "env": "Environment variable that names the folder.",
    "mapping": "How tensors are matched: by name, or by position when names differ.",
    "input_size": "Channels, height and width.",
    "mean": "Per-channel mean.",
    "std": "Per-channel standard deviation.",
    "interpolation": "Filter of the resize.",
    "crop_pct": "Share of the resized image that the crop keeps.",
    "crop_mode": "How an image becomes a square.",
    "max_length": "Maximum number of tokens.",
    "prompt": "Text put before every item, such as `query: `. Default: the default prompt of a sentence-transformers folder.",
    "prompt_name": "Another prompt of a sentence-transformers folder, by its name there.",
    "long_texts": "Truncate long texts, or read them in overlapping windows.",
    "tokenizer": "A `tokenizer.json`, for ONNX models.",
    "words": "Set by selector for token classification.",
    "truncation_side": "Side that is cut.",
    "pooling": "How features are pooled. Default: the model's own. Images: `avg`, `max`, `cls`; texts: `mean`, `cls`, `last`, "
    "`weighted`, `max`; words: `first`, `mean`.",
    "layer": "Where features are read: the dotted name of a layer; for texts `mean`, `last` or a number from 1. "
    "Default: the layer before the head.",
    "preprocess": "Changes to the model's image preprocessing, see below.",
    "tags": "Labels for `--tags`.",
    "license": "License of the weights, as SPDX writes it where it can.",
    "name": "Unique name. Default: the source reference.",
    "source": "`source:model`, such as `timm:resnet50.a1_in1k` or `python:package.module:factory`.",
    "weights": "Default: the pretrained weights of the source. `none` starts at random, as a control. Or a file, see below.",
    "kwargs": "Arguments of the model's factory.",
    "text": "How texts are read, see below.",
    "modality": "`image` or `text`. Default: that of the source.",
    "upstream_accuracy": "ImageNet-1k top-1 accuracy in percent. Used by the prior.",
    "params": "Number of parameters. Used by the prior and by `--max-params`.",
    "pretraining": "Name of the pretraining dataset and method. Used by the prior.",
}


def _columns() -> str:
    from _tools.everything import ranking
    from selector.report.view import MARKS, table_view

    made = ranking()
    rows = [
        [
            f"`{column.title}`",
            {"measured": "measured", "predicted": "predicted"}.get(column.group, "–"),
            markdown(column.help),
        ]
        for column in table_view(made).columns
    ]
    frame = [[f"`{name}`"] for name in made.to_dataframe().columns]
    return _page(
        "Result columns",
        "Measured and predicted values never share a column. Some columns appear only when they have values, "
        "and a narrow terminal hides the last ones; the report and `--json` have all of them.",
        "## Table and report",
        table(["column", "kind", "meaning"], rows),
        "## Marks",
        table(["mark", "meaning"], [[f"`{mark}`", MARK_MEANINGS[mark]] for mark in sorted(MARKS)]),
        "## DataFrame",
        "`ranking.to_dataframe()` has one row per model with these columns.",
        ", ".join(cell[0] for cell in frame) + ".",
    )


MARK_MEANINGS = {
    "≈": "The model may be as good as the first one after training (probability of 5% or more).",
    "°": "The model was trained at a smaller image size than its own. Compare such values only with each other.",
    "~": "The latency varied between passes: the machine was busy.",
    "◆": "Pareto front of measured values: no model of equal or lower cost has a higher measured value.",
    "◇": "Pareto front of predicted values: no model of equal or lower cost has a higher transferability.",
}


def caveat_codes() -> set[str]:
    """The code of every caveat that the package can raise."""
    found: set[str] = set()
    for path in sorted((ROOT / "selector").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "Caveat(" not in source:
            continue
        tree = ast.parse(source)
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Caveat"):
            first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "code"), None)
            code = first.value if isinstance(first, ast.Constant) else constants.get(getattr(first, "id", ""))
            if isinstance(code, str):
                found.add(code)
    return found


def _caveats() -> str:
    rows = [[f"[]{{#caveat-{code}}}`{code}`", *notes.CAVEATS.get(code, ("", ""))] for code in sorted(caveat_codes())]
    return _page(
        "Caveats",
        "A caveat is something to know before you trust a table. The report and the terminal print its sentence; "
        "`run.json` and `--json` hold its code and its numbers under `caveats`.",
        table(["code", "when it appears", "what to do"], rows),
    )


def _run_folder() -> str:
    from selector import results

    parts = [
        "`runs/NAME` holds everything about one run. You can move it, archive it and open it without the dataset.",
        table(
            ["file", "content"],
            [
                ["`run.json`", "Everything the report shows, as JSON. `selector.load_ranking(folder)` reads it."],
                ["`report.html`", "The report: one self-contained file."],
                ["`best/`", "The selected model, once fine-tuned: weights, `config.json`, a model card (`README.md`)."],
                ["`label.csv`, `label.html`", "Items to label, after `selector label`."],
            ],
        ),
        "`run.json` is versioned by `format`; later versions of selector read earlier formats.",
    ]
    for title, cls in (
        ("Ranking", results.StoredRanking),
        ("ModelResult", results.ModelResult),
        ("ScoreCell", results.ScoreCell),
        ("PriorCell", results.PriorCell),
        ("Measurement", results.Measurement),
        ("Caveat", results.Caveat),
    ):
        told = entries(cls.__doc__, "Attributes")
        rows = [
            [f"`{field.name}`", told.get(field.name, FIELDS.get(field.name, ""))]
            for field in dataclasses.fields(cls)
            if field.name not in ("loaded_target", "trusted", "path")
        ]
        parts += [f"## {title}", summary(cls.__doc__), table(["field", "meaning"], rows)]
    return _page("Run folder", *parts)


FIELDS = {
    "name": "Name in the zoo.",
    "spec": "The zoo entry, frozen.",
    "status": "`ok`, `failed`, `stopped` or `excluded`.",
    "reason": "Why it failed, was stopped or excluded.",
    "traceback": "Of a failure.",
    "rank": "From 1; none for a failed model.",
    "transferability": "The score that ranks unmeasured models.",
    "transferability_low": "Lower end of its 90% interval.",
    "transferability_high": "Upper end.",
    "p_best": "Probability of the highest transferability.",
    "p_top_k": "Probability of being among the first k.",
    "mean_rank": "Expected rank.",
    "tied": "Not significantly different from the first.",
    "normalized_score": "Mean of the proxies before the prior.",
    "members": "Normalized score of each proxy.",
    "prior": "What was known before the target.",
    "predicted": "Expected metric.",
    "facts": "Known facts of the model.",
    "scores": "Raw score of each proxy.",
    "measurements": "Fine-tuned results.",
    "num_features": "Feature dimension.",
    "num_parameters": "Parameters of the backbone.",
    "rows": "Rows that were scored.",
    "layers": "5-NN accuracy of each layer.",
    "backend": "Extraction backend.",
    "precision": "Extraction precision.",
    "extract_seconds": "Extraction time.",
    "cached": "Whether all features came from the store.",
    "cost": "Measured costs.",
    "fit": "Batch size and resolution at which scan and training fit the memory of the machine.",
    "prompt": "Text put before every item.",
    "texts_cut": "Number of texts that the model did not read to their end.",
    "value": "The value; none with a `reason`.",
    "low": "Lower end of the 90% interval.",
    "high": "Upper end.",
    "details": "Further numbers.",
    "seconds": "Time it took.",
    "code": "See [caveats](caveats.md).",
    "text": "The sentence.",
    "numbers": "The numbers in the sentence.",
    "val": "Metrics on the validation split.",
    "test": "Metrics on the test split.",
    "seed": "Random seed.",
    "steps": "Optimizer steps.",
    "learning_rate": "Of the chosen run.",
    "reduced": "Trained below the native image size.",
    "trained_parameters": "Parameters that moved.",
    "note": "Why, or what was cut.",
    "round": "Round of the budget.",
    "pilot": "The pilot run.",
}


def environment_variables() -> set[str]:
    """Variables of selector's own that the package reads."""
    import re

    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "selector").rglob("*.py"))
    found = {name for source in sources for name in re.findall(r"\"(SELECTOR_[A-Z_]+)\"", source)}
    return found - {"SELECTOR_WORKER"}  # a mark that workers find each other by, for no user to set


def _environment() -> str:
    rows = [[f"[]{{#{name}}}`{name}`", told] for name, told in sorted(notes.ENVIRONMENT.items())]
    others = [[f"`{name}`", told] for name, told in notes.OTHER_ENVIRONMENT.items()]
    head = ["variable", "effect"]
    return _page(
        "Environment variables",
        table(head, rows),
        "Variables of other libraries that change a run:",
        table(head, others),
    )


def _exit_codes() -> str:
    rows = [[f"`{code}`", meaning, todo] for code, (meaning, todo) in notes.EXIT_CODES.items()]
    return _page("Exit codes", table(["code", "meaning", "what to do"], rows))


# ---------------------------------------------------------------------------- full tables of the benchmarks


def _result_files() -> list[Path]:
    return sorted((ROOT / "benchmarks" / "results").rglob("*.csv"))


def _tables() -> Iterator[tuple[str, str]]:
    names = []
    for path in _result_files():
        shown = path.relative_to(ROOT / "benchmarks" / "results").with_suffix("").as_posix()
        name = shown.replace("/", "-").replace("_", "-")
        names.append(name)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        head, body = (rows[0], rows[1:]) if rows else ([], [])
        cut = "" if len(body) <= MOST_ROWS else f" The first {MOST_ROWS} of {len(body)} rows are shown."
        told = f"{len(body)} rows from {{download}}`{path.name} <data/{name}.csv>`.{cut}"
        cells = [[markdown(_short(cell)) for cell in row] for row in body[:MOST_ROWS]]
        yield f"benchmarks/tables/{name}.md", _page(f"`{shown}`", told, table(head, cells) if head else "")
    listed = "\n".join(f"- [`{name}`]({name}.md)" for name in names)
    yield (
        "benchmarks/tables/index.md",
        _page("Full tables", "Every row that the benchmark pages rest on.", listed, _toctree(names)),
    )


def _short(cell: str) -> str:
    try:
        return cell if len(cell) < 9 or float(cell) == int(float(cell)) else f"{float(cell):.4g}"
    except (ValueError, OverflowError):
        return cell if len(cell) <= 160 else f"{cell[:157]}…"


def _copy_tables(docs: Path) -> None:
    folder = docs / "benchmarks" / "tables" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for path in _result_files():
        shown = path.relative_to(ROOT / "benchmarks" / "results").with_suffix("").as_posix()
        shutil.copyfile(path, folder / f"{shown.replace('/', '-').replace('_', '-')}.csv")
