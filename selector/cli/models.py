"""``selector zoo`` and ``selector proxies``: which models and scores there are, and what they mean or need here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import SOME_FAILED, guarded
from selector.cli.output import document, print_rows

if TYPE_CHECKING:
    from selector.proxies import Proxy

app = typer.Typer(help="The models that a scan looks at.", no_args_is_help=True, cls=o.LazyGroup)


@app.command("list")
@o.with_fields("ScanConfig", "zoo", "models", "tags", "license")
@guarded
def list_models(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> None:
    """List the entries of a zoo with their facts."""
    from selector.core.units import format_count, words
    from selector.zoo import licenses, load_zoo

    specs = list(load_zoo(options["zoo"]).models)
    license = words(options["license"])
    if options["models"] or options["tags"] or license:  # wildcards are listed by their sources
        from selector.scan.selection import choose_models

        specs, _ = choose_models(options["zoo"], options["models"], options["tags"])
    if license:
        licenses.check(license, [spec.license for spec in specs if spec.license])
        specs = [spec for spec in specs if spec.license and licenses.allows(license, spec.license)]
    if json:
        document([spec.model_dump(mode="json", exclude_none=True) for spec in specs])
        return
    rows = [
        (
            spec.name,
            spec.source if spec.source != spec.name else "",
            spec.params and format_count(spec.params),
            spec.upstream_accuracy,
            spec.pretraining,
            spec.license,
            ", ".join(spec.tags),
        )
        for spec in specs
    ]
    print_rows(["name", "source", "params", "IN-1k", "pretraining", "license", "tags"], rows, numeric=(2, 3))


@app.command("check")
@o.with_fields("ScanConfig", "zoo", "models", "tags", "trust_zoo", "offline")
@guarded
def check(plugin: o.Plugin = None, json: o.Json = False, debug: o.Debug = False, **options: Any) -> int:
    """Validate a zoo and say which of its models have their weights on this machine or can fetch them."""
    o.go_offline(options.pop("offline"))
    o.load_plugins(plugin)
    from dataclasses import asdict

    from selector.scan.selection import check_zoo

    findings = check_zoo(options.pop("zoo"), **options)
    if json:
        document([asdict(finding) for finding in findings])
    else:
        print_rows(["model", "usable", "why not"], [(f.name, "yes" if f.usable else "no", f.reason) for f in findings])
    return 0 if all(finding.usable for finding in findings) else SOME_FAILED


@guarded
def proxies(
    name: Annotated[str | None, typer.Argument(help="Explain this one.", metavar="NAME")] = None,
    plugin: o.Plugin = None,
    json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """List the proxies with what they need, cost and mean, or explain one."""
    o.load_plugins(plugin)
    from selector.proxies import DEFAULT_PROXIES, registry

    if name is not None:
        proxy = registry.get(name)
        if json:
            document(_card(proxy))
        else:
            typer.echo(proxy.explanation)
        return
    known = [registry.get(each) for each in registry.names()]
    if json:
        document([_card(proxy) | {"default": proxy.name in DEFAULT_PROXIES} for proxy in known])
        return
    rows = [
        (
            p.name + ("\n(default)" if p.name in DEFAULT_PROXIES else ""),
            "\n".join(sorted(p.label_kinds)),
            "source head" if p.needs_source_logits else "a target without labels" if p.needs_unlabeled else "",
            "\n".join(line for line in (p.summary, f"Good: {p.good}", f"Cost: {p.cost}." if p.cost else "") if line),
        )
        for p in known
    ]
    print_rows(["name", "labels", "needs", "what it measures, what is good, what it costs"], rows)
    typer.echo("'selector proxies NAME' explains one.")


def _card(proxy: Proxy) -> dict[str, object]:
    return {
        "name": proxy.name,
        "summary": proxy.summary,
        "labels": sorted(proxy.label_kinds),
        "needs_source_logits": proxy.needs_source_logits,
        "needs_unlabeled": proxy.needs_unlabeled,
        "bounds": [None if abs(bound) == float("inf") else bound for bound in proxy.bounds],
        "good": proxy.good,
        "cost": proxy.cost,
        "source": proxy.source,
        "version": proxy.version,
        "explanation": proxy.explanation,
    }
