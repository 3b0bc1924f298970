"""Published networks on published datasets: our agreement with their accuracies beside the printed one.

    python -m benchmarks.reproduce.features sfda --data FOLDER
    python -m benchmarks.reproduce.features parc --data FOLDER --weights FOLDER
    python -m benchmarks.reproduce.features table --table ACCURACIES.csv --zoo ZOO.yaml --data FOLDER

``sfda``: torchvision's 11 supervised CNNs on the 11 sets of SFDA (weights are fetched). ``parc``: the
networks of PARC's controlled set, as its authors hand them out (``ARCH/ARCH_SOURCE.pth``; ImageNet's
come from torchvision where they are not there). ``table``: any other networks and accuracies (a
``model`` column, then one a dataset, in points).

FOLDER holds one dataset under each name of the table, as anything that ``selector scan`` takes: an
image folder, ``NAME.parquet``, ``NAME.csv``. Sets that are not there are named and left out. Features
and scores are kept in the store, so an interrupted run goes on where it was. The result is a CSV
with a row a (set, model, score), and a table on stdout.

Test accuracies in the published tables come from full datasets with their own splits; ours is the
agreement of scores on train + val of what is given (``--max-samples`` of it).
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import selector
from benchmarks.agreement import pearson
from benchmarks.reproduce import tables
from selector.core.errors import SelectorError
from selector.ranking.agreement import weighted_tau
from selector.scan import choose_models
from selector.zoo import ModelSpec, WeightsFile

PROXIES = ("logme", "hscore", "knn", "probe", "nleep", "sfda", "parc", "leep")
OUT = Path(__file__).parents[1] / "results" / "reproduce"
FEWEST = 3  # networks of a set; fewer have no order to speak of


@dataclass(frozen=True)
class Study:
    """Networks with published accuracies.

    Attributes:
        name: of the result file.
        specs: by the name that the accuracies use.
        accuracies: set -> model -> points; a set need not have all models.
        printed_tau: proxy -> set -> printed weighted tau, where it was published.
        printed_pearson: proxy -> printed mean Pearson correlation over the sets.
        max_samples: images of a set that the paper scored; None for all.
    """

    name: str
    specs: Mapping[str, ModelSpec]
    accuracies: Mapping[str, Mapping[str, float]]
    printed_tau: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    printed_pearson: Mapping[str, float] = field(default_factory=dict)
    max_samples: int | None = None


@dataclass(frozen=True)
class Cell:
    """The score of one network on one set; ``value`` is NaN with the ``reason`` beside it."""

    dataset: str
    model: str
    proxy: str
    value: float
    accuracy: float
    seconds: float
    reason: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Extract, score, write and print."""
    args = _arguments(argv)
    try:
        study = {"sfda": _sfda, "parc": _parc, "table": _table}[args.study](args)
        found, missing = data_sets(args.data, list(study.accuracies))
        for name in missing:
            print(f"{name}: not in {args.data}, left out", file=sys.stderr)
        if not found:
            wanted = ", ".join(study.accuracies)
            print(f"error: {args.data} holds none of the datasets {wanted}; name them so.", file=sys.stderr)
            return 2
        cells: list[Cell] = []
        for name, place in found.items():
            cells += scored(study, name, place, args)
            print(f"{name}: done", file=sys.stderr)
    except SelectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"features_{study.name}.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(Cell.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(vars(cell) for cell in cells)
    print("\n".join(summary(study, cells)))
    print(f"wrote {len(cells)} scores to {file}", file=sys.stderr)
    return 0


def data_sets(folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Where each set lies, and the names of those that are not there."""
    found = {}
    for name in names:
        for place in (folder / name, *(folder / f"{name}{suffix}" for suffix in (".parquet", ".csv", ".npz"))):
            if place.exists():
                found[name] = place
                break
    return found, [name for name in names if name not in found]


def scored(study: Study, dataset: str, place: Path, args: argparse.Namespace) -> Iterator[Cell]:
    """The scores of all networks that have an accuracy on a set."""
    known = study.accuracies[dataset]
    specs = [spec.model_copy(update={"name": name}) for name, spec in study.specs.items() if name in known]
    proxies = args.proxies.split(",")
    ranking = selector.rank(
        place,
        zoo=specs,
        proxies=proxies,
        max_samples=args.max_samples or study.max_samples,
        store=args.store,
        device=args.device,
        seed=args.seed,
        offline=args.offline,
        trust_zoo=True,
        on_invalid="skip",
        intervals=False,
        prune="never",
        measure_cost="never",
        history=False,
    )
    for model in ranking:
        for proxy in proxies:
            cell = model.scores.get(proxy)
            value = math.nan if cell is None or cell.value is None else cell.value
            reason = model.reason if cell is None else cell.reason or ""
            yield Cell(
                dataset, model.name, proxy, value, known[model.name], 0.0 if cell is None else cell.seconds, reason
            )


def agreements(cells: Sequence[Cell]) -> dict[tuple[str, str], tuple[float, float, int]]:
    """(proxy, set) -> weighted tau, Pearson, networks; NaN for fewer than three networks with a score."""
    found = {}
    for proxy, dataset in dict.fromkeys((cell.proxy, cell.dataset) for cell in cells):
        pairs = [
            (c.value, c.accuracy) for c in cells if (c.proxy, c.dataset) == (proxy, dataset) and not math.isnan(c.value)
        ]
        values = (math.nan, math.nan)
        if len(pairs) >= FEWEST:
            scores, accuracy = zip(*pairs, strict=True)
            values = (weighted_tau(scores, accuracy), pearson(scores, accuracy))
        found[proxy, dataset] = (*values, len(pairs))
    return found


def summary(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    """A Markdown table: our weighted tau a set with the printed one in brackets, and means over the sets at hand."""
    found = agreements(cells)
    sets = list(dict.fromkeys(cell.dataset for cell in cells))
    yield "τ_w (scipy's default), the printed figure in brackets; means are over the sets that are here."
    yield ""
    yield f"| score | {' | '.join(sets)} | mean τ_w | mean Pearson |"
    yield "|" + "---|" * (len(sets) + 3)
    for proxy in dict.fromkeys(cell.proxy for cell in cells):
        ours = [found[proxy, name][0] for name in sets]
        printed = [study.printed_tau.get(proxy, {}).get(name) for name in sets]
        known = [value for value in printed if value is not None]
        row = [_beside(value, other) for value, other in zip(ours, printed, strict=True)]
        row.append(_beside(_mean(ours), _mean(known) if len(known) == len(sets) else None))
        row.append(_beside(_mean([found[proxy, name][1] for name in sets]), study.printed_pearson.get(proxy)))
        yield f"| {proxy} | {' | '.join(row)} |"
    if study.printed_pearson:
        yield ""
        yield "The printed Pearson figures are means over all seven targets with the paper's capacity heuristic added."
    failed = dict.fromkeys(f"{c.dataset}, {c.model}, {c.proxy}: {c.reason}" for c in cells if c.reason)
    if failed:
        yield ""
        yield from (f"- {line}" for line in list(failed)[:20])


def _beside(ours: float, printed: float | None) -> str:
    told = "–" if math.isnan(ours) else f"{ours:.3f}"
    return told if printed is None else f"{told} ({printed:.3f})"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


# ---------------------------------------------------------------------------- studies


def _sfda(_: argparse.Namespace) -> Study:
    table = tables.accuracies("sfda_cnn_11x11")
    specs = {name: ModelSpec(source=f"torchvision:{name}.IMAGENET1K_V1") for name in table.models}
    accuracies = {name: {m: float(v) for m, v in table.column(name).items()} for name in table.sets}
    return Study("sfda", specs, accuracies, printed_tau=tables.printed_taus("sfda_tau"))


def _parc(args: argparse.Namespace) -> Study:
    accuracies = tables.parc_accuracies()
    specs = {name: parc_spec(name, args.weights) for by_model in accuracies.values() for name in by_model}
    return Study("parc", specs, accuracies, printed_pearson=tables.parc_pearson(), max_samples=500)


def parc_spec(name: str, weights: Path) -> ModelSpec:
    """A network of PARC's controlled set by its ``architecture_source``."""
    architecture, _, source = name.partition("_")
    file = f"{architecture}/{name}.pth"
    if source == "imagenet" and not (weights / file).is_file():
        return ModelSpec(source=f"torchvision:{architecture}.IMAGENET1K_V1")
    return ModelSpec(source=f"torchvision:{architecture}", weights=WeightsFile(file=file, base=str(weights)))


def _table(args: argparse.Namespace) -> Study:
    with args.table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    specs = {spec.name: spec for spec in choose_models(args.zoo, trust_zoo=True)[0]}
    accuracies: dict[str, dict[str, float]] = {}
    for row in rows:
        for dataset, value in row.items():
            if dataset != "model" and value:
                accuracies.setdefault(dataset, {})[row["model"]] = float(value)
    return Study(args.table.stem, specs, accuracies)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reproduce.features", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("study", choices=["sfda", "parc", "table"])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="one dataset under each name")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="of parc: ARCH/ARCH_SOURCE.pth")
    parser.add_argument("--table", type=Path, metavar="FILE", help="of table: accuracies in points")
    parser.add_argument("--zoo", type=Path, metavar="FILE", help="of table: the networks by the names of --table")
    parser.add_argument("--proxies", default=",".join(PROXIES))
    parser.add_argument("--max-samples", type=int, help="images of each set; the paper's number when not given")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the result")
    parser.add_argument("--store", help="folder of the features")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--offline", action="store_true", help="networks whose weights are not here are left out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for study, options in {"parc": ("weights",), "table": ("table", "zoo")}.items():
        for option in options:
            if args.study == study and getattr(args, option) is None:
                parser.error(f"{study} needs --{option}")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
