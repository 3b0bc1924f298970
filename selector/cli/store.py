"""``selector store``: where features are kept, and its upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from selector.cli import options as o
from selector.cli.guard import FAILED, guarded
from selector.cli.output import document, print_rows, say
from selector.core.errors import ConfigError

if TYPE_CHECKING:
    from selector.store import EntryInfo

app = typer.Typer(
    help="The feature store: what scans keep so that nothing is computed twice.", no_args_is_help=True, cls=o.LazyGroup
)


@app.command("path")
@o.with_fields("ScanConfig", "store")
@guarded
def path(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> None:
    """Print where the store lies."""
    from selector.store import FeatureStore

    root = FeatureStore(options["store"]).root
    if json:
        document({"path": root})
    else:
        typer.echo(root)


@app.command("list")
@o.with_fields("ScanConfig", "store")
@guarded
def list_entries(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> None:
    """List the entries, the least recently used first."""
    from dataclasses import asdict

    from selector.core.units import format_size
    from selector.store import FeatureStore

    entries = FeatureStore(options["store"]).list_entries()
    if json:
        document([asdict(entry) for entry in entries])
        return
    if not entries:
        say("the store is empty; a scan fills it.")
        return
    rows = [
        (e.key[:12], _model(e), e.rows, format_size(e.size), e.meta.get("precision"), _day(e.used)) for e in entries
    ]
    print_rows(["key", "model", "rows", "size", "precision", "last used"], rows, numeric=(2, 3))


@app.command("size")
@o.with_fields("ScanConfig", "store")
@guarded
def size(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> None:
    """Print how much space the store takes, decoded pixels included."""
    from selector.core.units import format_size
    from selector.store import FeatureStore

    taken = FeatureStore(options["store"]).size()
    if json:
        document({"bytes": taken})
    else:
        typer.echo(format_size(taken))


@app.command("info")
@o.with_fields("ScanConfig", "store")
@guarded
def info(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> None:
    """Show where the store lies, what takes its space, and up to where its caches grow."""
    from selector.core.units import format_size
    from selector.store import FeatureStore

    store = FeatureStore(options["store"])
    parts = store.parts()
    if json:
        facts = {"path": store.root, "bytes": parts, "cache_ceiling": store.cache_ceiling, "max_bytes": store.max_bytes}
        document(facts)
        return
    kinds = {"pixels": "cache: decoded images", "compiled": "cache: compiled models"}
    kinds |= {"features": "kept", "results": "kept: scores and costs", "trainings": "kept", "other": ""}
    print_rows(["", "size", ""], [(name, format_size(size), kinds[name]) for name, size in parts.items()], numeric=(1,))
    most = (
        "no limit (SELECTOR_STORE_MAX_SIZE)" if store.max_bytes is None else f"at most {format_size(store.max_bytes)}"
    )
    typer.echo(f"{store.root}: {format_size(sum(parts.values()))}; {most}")
    typer.echo(
        f"The caches grow to {format_size(store.cache_ceiling)} together (SELECTOR_STORE_CACHE_SIZE); the least recently "
        "used goes first."
    )


@app.command("verify")
@o.with_fields("ScanConfig", "store")
@guarded
def verify(json: o.Json = False, debug: o.Debug = False, **options: str | None) -> int:
    """Check every checksum; damaged files are removed and computed again when needed."""
    from dataclasses import asdict

    from selector.core.units import format_size
    from selector.store import FeatureStore

    found = FeatureStore(options["store"]).verify()
    if json:
        document(asdict(found))
    else:
        typer.echo(f"{found.files} files, {format_size(found.bytes)}: {len(found.damaged)} damaged")
        for name in found.damaged:
            typer.echo(f"removed: {name}")
    return FAILED if found.damaged else 0


@app.command("prune")
@o.with_fields("ScanConfig", "store")
@guarded
def prune(
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Remove the least recently used beyond this size: 20GB.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="Remove what was not used for this long: 30d.")
    ] = None,
    json: o.Json = False,
    debug: o.Debug = False,
    **options: str | None,
) -> None:
    """Remove old or excess features; decoded pixels go first."""
    from dataclasses import asdict

    from selector.core.units import format_size, parse_duration, parse_size
    from selector.store import FeatureStore

    if max_size is None and older_than is None:
        raise ConfigError("nothing selects what to remove; give --max-size 20GB, --older-than 30d or both.")
    pruned = FeatureStore(options["store"]).prune(
        None if max_size is None else parse_size(max_size), None if older_than is None else parse_duration(older_than)
    )
    if json:
        document(asdict(pruned))
    else:
        typer.echo(f"removed {len(pruned.entries)} entries, {format_size(pruned.bytes)}")


def _model(entry: EntryInfo) -> str:
    identity = entry.identity
    return str(
        identity.get("name") or identity.get("model") or f"{identity.get('source', '?')}:{identity.get('id', '?')}"
    )


def _day(stamp: float) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(stamp).strftime("%Y-%m-%d %H:%M") if stamp else "–"
