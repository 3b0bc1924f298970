"""Adaptation to a target without labels on the pairs of ``da_pairs``: what predicts, what chooses, what it gains.

    SELECTOR_ASSETS=... python -m benchmarks.da [--pairs a,b] [--models x,y] [--quick] [--out FILE]

For every pair and encoder features of both domains are computed in float32 (once: they are kept below ``runs/da``),
with the measures of ``selector.proxies``, and every head strategy is solved and looked at by every validator. A row of
the output is a (pair, encoder, strategy). ``accuracy`` on the target's items is worked out last, from labels that
nothing before has; ``da_tables.py`` makes the tables from the rows. Rows that the file holds are not computed again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import selector
from benchmarks import da_pairs
from benchmarks.assets import assets_folder
from benchmarks.rows import options, read_rows, write_rows
from selector import sources
from selector.core.contracts import Target
from selector.core.system import versions
from selector.data import load_target
from selector.extract.inputs import ready
from selector.extract.job import ExtractSettings
from selector.features import FeatureSet
from selector.proxies.domain_measures import MEASURES, target_accuracy
from selector.scan.extraction import Extraction
from selector.store import FeatureStore
from selector.tasks.adaptation import Adaptation
from selector.tuning import model_selection
from selector.tuning.adapt import Adapted, adapted_by, domains_of
from selector.tuning.domains import beyond_class_shares
from selector.tuning.model_selection import COMBINED, combined_ranks, preferring
from selector.zoo import load_zoo, select

RESULTS = Path(__file__).parent / "results" / "da.csv"
KEPT = Path("runs") / "da"
BATCH = 64
_LOADED: dict[str, Any] = {}
ENCODERS = (
    "mlc_resnet8", "tiniest", "cifar_resnet20", "cifar_resnet56", "usps_cnn", "svhn_cnn", "mnist_cnn", "mnv1_025",
)  # fmt: skip
TEXT_ENCODERS = ("minilm-l6", "sre-minilm-l6", "minilm-l6-3-layers", "paraphrase-minilm-l3-onnx", "minilm-untrained")
"""Of the shipped zoo, for pairs of texts."""
STRATEGIES = ("source-only", "coral", "reweight", "label-shift")
DETAILS = ("source_accuracy", "confidence", "thresholded_confidence", *MEASURES)
VALIDATORS = ("bnm", "class-ami", "dev", "ensv", "im", "snd", "source-validation")
FIELDS = (
    "pair", "model", "strategy", "accuracy", "source_val_accuracy", "target_accuracy_predicted",
    *DETAILS, *VALIDATORS, "beyond_class_shares", "preferred_by", "effective_sample_size", "source_items", "target_items", "classes", "num_features", "seconds", "versions",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = options(__doc__, RESULTS, "two encoders, 300 items a domain")
    parser.add_argument("--pairs", default=",".join(da_pairs.NAMES))
    parser.add_argument("--models", default=None, help="encoders; those of the pair's modality when not given")
    parser.add_argument("--zoo", default=None, help="a zoo file; that of the assets, for texts the shipped one")
    parser.add_argument("--items", type=int, default=None, help="of each part of a pair at most")
    args = parser.parse_args(argv)
    assets = assets_folder("pairs of domains and encoders")
    for name in args.pairs.split(","):
        texts = name in da_pairs.TEXTS
        usual = TEXT_ENCODERS if texts else ENCODERS
        models = (list(usual) if args.models is None else args.models.split(","))[: 2 if args.quick else None]
        zoo = args.zoo or (None if texts else str(Path(__file__).parent / "assets-zoo.yaml"))
        done = {(row["pair"], row["model"]) for row in read_rows(args.out)}
        if all((name, model) in done for model in models):
            continue
        pair = da_pairs.load(name, assets)
        for model, found in pair_rows(pair, models, zoo, args.seed, 300 if args.quick else args.items, done):
            told = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in found]
            write_rows(args.out, [*read_rows(args.out), *told], FIELDS)
            print(name, model, [f"{row['strategy']} {row['accuracy']:.3f}" for row in found], flush=True)
    return 0


def pair_rows(
    pair: da_pairs.DomainPair,
    models: Sequence[str],
    zoo: str | None,
    seed: int,
    most: int | None,
    done: set[tuple[str, str]],
) -> list[tuple[str, list[dict[str, Any]]]]:
    """(model, rows) of a pair; validators that look at the pool see all candidates of the pair."""
    target, hidden = target_of(pair, most, seed)  # the labels are for the last step alone
    task = Adaptation()
    # items are in the order of the datasets, whose classes are mixed already
    made: dict[tuple[str, str], tuple[Adapted, dict[str, Any]]] = {}
    for spec in select(load_zoo() if zoo is None else load_zoo(zoo, trust=True), models=list(models)):
        begun = time.perf_counter()
        domains = domains_of(target, task, features_of(target, spec), seed)
        features = FeatureSet(
            np.concatenate([domains.train, domains.val]), np.concatenate([domains.labels, domains.val_labels]),
            unlabeled=domains.target, seed=seed,
        )  # fmt: skip
        predicted, shift = target_accuracy(features), beyond_class_shares(domains)
        for strategy in STRATEGIES:
            adapted = adapted_by(strategy, domains, task)
            made[spec.name, strategy] = adapted, {
                "pair": pair.name, "model": spec.name, "strategy": strategy,
                "target_accuracy_predicted": float(predicted), **{name: predicted.details[name] for name in DETAILS},
                "beyond_class_shares": shift, "effective_sample_size": adapted.head.facts.get("effective_sample_size", ""),
                "source_items": len(domains.train), "target_items": len(domains.target),
                "classes": domains.classes, "num_features": domains.train.shape[1], "seconds": round(time.perf_counter() - begun, 2),
                "versions": f"selector {selector.__version__}, numpy {versions().get('numpy', '')}, {versions().get('cpu', '')}",
            }  # fmt: skip
    pool = np.mean([adapted.view.target for adapted, _ in made.values()], axis=0)
    found: dict[str, list[dict[str, Any]]] = {}
    for (model, _), (adapted, row) in made.items():
        view = adapted.view.beside(pool)
        row["preferred_by"] = len(preferring(view, made[model, "source-only"][0].view))
        row |= {name: model_selection.VALIDATORS[name](view) for name in VALIDATORS}
        row["source_val_accuracy"] = row["source-validation"]
        row["accuracy"] = float((adapted.target.argmax(axis=1) == hidden).mean())
        if (pair.name, model) not in done:
            found.setdefault(model, []).append(row)
    _keep_predictions(pair.name, made, hidden)
    return list(found.items())


def target_of(pair: da_pairs.DomainPair, most: int | None, seed: int = 0) -> tuple[Target, np.ndarray]:
    """Both domains of a pair, at most so many items of each part, and the labels of the target's items (M,), which nothing
    but a figure may see."""
    source = stacked(pair.source, most), np.array(pair.classes)[pair.source.labels[:most]]
    target = load_target(stacked(pair.target, most), source_domain=source, seed=seed)
    return target, labels_of(target, pair.target, most)


def stacked(domain: da_pairs.Domain, most: int | None) -> Any:
    items = domain.items[:most]
    same = isinstance(items[0], np.ndarray) and len({item.shape for item in items}) == 1
    return np.stack(items) if same else items


def labels_of(target: Any, domain: da_pairs.Domain, most: int | None) -> np.ndarray:
    """(M,) of the target's items, matched by position: those that the source holds as well have left."""
    names = [target.names[i] for i in target.indices("unlabeled")]
    return np.array([domain.labels[:most][int(name.split()[-1])] for name in names])


def features_of(target: Any, spec: Any) -> dict[str, np.ndarray]:
    """By split, (N, D) float32."""
    path = KEPT / "features" / f"{spec.name}-{target.fingerprint[:16]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            return dict(kept)
    encoder = _encoder(spec)
    extraction = Extraction(target, FeatureStore(None), ExtractSettings("cpu", trusted=True, on_invalid="skip"))
    inputs, found = extraction.inputs(encoder.preprocess), {}
    for split in ("train", "val", "unlabeled"):
        items, rows = target.indices(split), []
        for begin in range(0, len(items), BATCH):
            batch = ready(inputs.batch(items[begin : begin + BATCH]), encoder.preprocess)
            with torch.inference_mode():
                rows.append(encoder.encode(batch).float().numpy())
        found[split] = np.concatenate(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found)
    return found


def _encoder(spec: Any) -> Any:
    """Loaded once for all pairs."""
    if spec.name not in _LOADED:
        _LOADED[spec.name] = sources.registry.get(spec.source_name).load(spec)
    return _LOADED[spec.name]


def _keep_predictions(pair: str, made: Any, labels: np.ndarray) -> None:
    """Of every candidate the probabilities and what the validators say, with the true classes: what ``da_tables --labels``
    asks for labels of. Not committed."""
    KEPT.mkdir(parents=True, exist_ok=True)
    values = np.array([[row[name] for name in COMBINED] for _, row in made.values()])
    np.savez_compressed(
        KEPT / f"{pair}.npz", keys=[" ".join(key) for key in made], labels=labels, merits=combined_ranks(values),
        probabilities=np.stack([adapted.view.target for adapted, _ in made.values()]).astype(np.float32),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
