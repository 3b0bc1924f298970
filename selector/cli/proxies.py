"""``selector proxies``: the scores, and what one of them means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from selector.cli import options as o
from selector.cli.guard import guarded
from selector.cli.output import document, print_rows

if TYPE_CHECKING:
    from selector.proxies import Proxy


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


def _card(proxy: Proxy) -> dict[str, Any]:
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
