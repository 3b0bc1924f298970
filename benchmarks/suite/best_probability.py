"""Does P(best) mean what it says? Fit what training may change on the other datasets, and look at the one left out.

    SELECTOR_ASSETS=... python -m benchmarks.suite.best_probability [--freeze]

Every dataset of the suites (images, held-out images, texts), whole pools and random parts of them (3 models and more): what
P(best) the package's own draws (``ranking.outlook``) give each model, with constants that minimize the log loss on all other
datasets, and whether the model is the best of its pool after training (the better of frozen and full, on test).
``best_probability.csv``: the reliability diagram, a row a bin, for all datasets, images and texts, with the expected
calibration error, the mean P(best) of the first and how often it is best; and how often pruning would have removed the best
model; the table of its page. ``gain_choice.csv``: what is lost by choosing between the frozen and the fully trained network on
few validation items, by their values and by ``outlook.expected_gain``. ``--freeze`` writes ``selector/ranking/outlook.json`` from all datasets.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import selector
from benchmarks.assets import assets_folder
from benchmarks.rows import options, write_into, write_rows
from benchmarks.suite import score_cells, suites
from benchmarks.suite.agreement_table import fine_tuned
from selector.core.contracts import Score
from selector.ranking.combination import OUT, combine
from selector.ranking.outlook import Outlook, Spread, expected_gain, family
from selector.ranking.prior import static_prior

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "model-against-time.md"
FROZEN = Path(selector.__file__).parent / "ranking" / "outlook.json"
SUITES = ("images", "held_out", "texts")
USUAL = ("knn", "probe", "logme")
BETWEEN, WITHIN, FREEDOM = (0.02, 0.03, 0.045, 0.06, 0.08), (0.008, 0.012, 0.02, 0.03), (1, 2, 4)
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
DIFFER = 0.15  # of the items, on which frozen and trained disagree in whether they are right
PARTS, DRAWS, LEAST, TOP_K = 30, 1000, 3, 3
PAIRED = 0.7  # of a score's error: the rest is shared by all models, which are looked at with the same rows
Cells = list[tuple[np.ndarray, np.ndarray]]
"""A pool each: P(best) of its models, and whether a model is the best."""


@dataclass(frozen=True)
class Dataset:
    """Models of one dataset: families, transferability, its error, and the accuracy after training in points."""

    suite: str
    names: tuple[str, ...]
    families: Mapping[str, str]
    values: np.ndarray
    errors: np.ndarray
    truth: np.ndarray


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, print, write."""
    parser = options(__doc__)
    parser.add_argument("--freeze", action="store_true", help="write the package's constants as well")
    args = parser.parse_args(argv)
    assets = assets_folder("models/")
    sets = datasets(assets)
    grid = [Spread(*one) for one in itertools.product(BETWEEN, WITHIN, FREEDOM)]
    found = {name: [cells(one, spread, args.seed) for spread in grid] for name, one in sets.items()}
    losses = np.array([[log_loss(made) for made in by_spread] for by_spread in found.values()])
    left_out = {
        name: int(np.delete(losses, i, axis=0).mean(axis=0).argmin()) for i, name in enumerate(found)
    }  # fmt: skip
    rows = []
    for scope, kept in (("all", SUITES), ("images", SUITES[:2]), ("texts", SUITES[2:])):
        own = [found[name][left_out[name]] for name in sets if sets[name].suite in kept]
        rows += reliability(scope, [cell for one in own for cell in one], len(own))
    write_rows(suites.RESULTS / "best_probability.csv", rows)
    write_into(PAGE, "best_probability", shown(rows))
    for row in rows:
        print(*row.values())
    pruned = {name: out_of_reach(one, grid[left_out[name]], args.seed) for name, one in sets.items()}
    print(f"pruned although best: {[n for n, (best, _) in pruned.items() if best]}; models pruned on average: "
          f"{np.mean([share for _, share in pruned.values()]):.2f} of a pool")  # fmt: skip
    best = grid[int(losses.mean(axis=0).argmin())]
    factors = [min(FACTORS, key=lambda f, one=one: log_loss(cells(one, best, args.seed, f))) for one in sets.values()]
    unlike = float(np.quantile(factors, 0.9))
    added = gains()
    gain = {kind: mean_and_deviation(by_set) for kind, by_set in added.items()}
    write_rows(suites.RESULTS / "gain_choice.csv", choices(added, args.seed))
    made = {"version": 2, "between": best.between, "within": best.within, "freedom": best.freedom, "unlike": unlike,
            "seen": [["image", "classes"], ["text", "classes"]], "gain": gain}  # fmt: skip
    print(made)
    if args.freeze:
        FROZEN.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return 0


def gains() -> dict[str, dict[str, list[float]]]:
    """What training all weights added to the accuracy of each frozen network, by modality and dataset."""
    found: dict[str, dict[str, list[float]]] = {"image": {}, "text": {}}
    for name in SUITES:
        full, frozen = (fine_tuned(suites.find(name).table("ground_truth"), how) for how in ("full", "frozen"))
        own = found["text" if name == "texts" else "image"]
        own |= {one: [(full[one][e] - frozen[one][e]) / 100 for e in full[one] if e in frozen[one]] for one in full}
    return found


def mean_and_deviation(added: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """Over networks, each dataset counting alike."""
    mean = float(np.mean([np.mean(own) for own in added.values()]))
    return round(mean, 3), round(
        float(np.sqrt(np.mean([np.mean((np.array(o) - mean) ** 2) for o in added.values()]))), 3
    )


def choices(found: Mapping[str, Mapping[str, Sequence[float]]], seed: int) -> list[dict[str, object]]:
    """Accuracy lost, in points, by either way of choosing on ``items`` of which a share ``DIFFER`` are decided differently; the
    mean and deviation of ``expected_gain`` are those of all other datasets."""
    rng, rows = np.random.default_rng(seed), []
    for kind, items in itertools.product(found, (18, 45, 90, 250)):
        lost: dict[str, list[float]] = {"by value": [], "by expected gain": []}
        for dataset, own in found[kind].items():
            before = mean_and_deviation({name: one for name, one in found[kind].items() if name != dataset})
            error = float(np.sqrt(DIFFER / items))
            for true in own:
                seen = true + error * rng.standard_normal(DRAWS)
                expected = np.array([expected_gain(one, error, kind, before=before) for one in seen])
                for how, value in zip(lost, (seen, expected), strict=True):
                    lost[how].append(100 * float(np.maximum(0, np.where(value > 0, -true, true)).mean()))
        rows.append({"modality": kind, "items": items, **{how: f"{np.mean(one):.2f}" for how, one in lost.items()}})
    return rows


def datasets(assets: Path) -> dict[str, Dataset]:
    """Every dataset of the suites with at least four models that have all scores and both accuracies."""
    made = {}
    for name in SUITES:
        suite = suites.find(name)
        scored = score_cells.read(suite.table("scores"), earlier=True)
        full, frozen = (fine_tuned(suite.table("ground_truth"), how) for how in ("full", "frozen"))
        facts = {encoder: known.model for encoder, known in suite.encoders(assets).items()}
        members = tuple(suite.members or USUAL)
        for dataset, column in full.items():
            if dataset not in scored.labels:
                continue
            names = tuple(
                e for e in column
                if e in frozen.get(dataset, {}) and all(e in scored.values.get(m, {}).get(dataset, {}) for m in members)
            )  # fmt: skip
            if len(names) < 4:
                continue
            scores = {e: {m: Score(scored.values[m][dataset][e]) for m in members} for e in names}
            facts_here = replace(scored.labels[dataset], members=members)
            values = combine(scores, facts_here, prior=static_prior({e: facts[e] for e in names}))
            made[dataset] = Dataset(
                name, names, {e: "minilm" if name == "texts" else family(e) for e in names},
                np.array([values[e].value for e in names]),
                PAIRED * np.array([np.mean([scored.errors.get(m, {}).get(dataset, {}).get(e, 0.0) for m in members]) for e in names]),
                np.array([max(column[e], frozen[dataset][e]) for e in names]),
            )  # fmt: skip
    return made


def drawn(one: Dataset, chosen: np.ndarray, spread: Spread, seed: int, factor: float = 1.0) -> np.ndarray:
    """(draws, models) of a part of a dataset's pool."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((DRAWS, len(chosen))) * one.errors[chosen]
    outlook = Outlook(one.families, spread, factor)
    return np.asarray(one.values[chosen] + noise + outlook.draws([one.names[i] for i in chosen], DRAWS, rng))


def cells(one: Dataset, spread: Spread, seed: int, factor: float = 1.0) -> Cells:
    """Of random parts of the pool, and the whole."""
    rng, count, made = np.random.default_rng(seed), len(one.names), []
    for part in range(PARTS + 1):
        size = count if part == PARTS else int(rng.integers(LEAST, count + 1))
        chosen = np.sort(rng.permutation(count)[:size])
        firsts = np.bincount(drawn(one, chosen, spread, seed, factor).argmax(axis=1), minlength=size) / DRAWS
        best = (one.truth[chosen] == one.truth[chosen].max()).astype(float)
        made.append((firsts, best / best.sum()))
    return made


def log_loss(made: Cells) -> float:
    """Mean over pools; a probability of 0 counts as one in a thousand."""
    return float(np.mean([-(best * np.log(sure + 1e-3)).sum() for sure, best in made]))


def reliability(scope: str, made: Cells, count: int) -> list[dict[str, object]]:
    """Rows of the diagram: mean P(best) and how often such models are best, by bin; the figures of the whole beside."""
    sure, best = (np.concatenate([cell[i] for cell in made]) for i in (0, 1))
    place = np.minimum((10 * sure).astype(int), 9)
    bins = [place == k for k in range(10) if (place == k).any()]
    error = sum(abs(sure[own].mean() - best[own].mean()) * own.mean() for own in bins)
    first = np.mean([p.max() for p, _ in made]), np.mean([b[p.argmax()] for p, b in made])
    whole = {"error": f"{error:.3f}", "p_best_of_first": f"{first[0]:.3f}", "first_is_best": f"{first[1]:.3f}"}
    return [
        {"scope": scope, "datasets": count, "models": int(own.sum()), "p_best": f"{sure[own].mean():.3f}",
         "best": f"{best[own].mean():.3f}", **whole}
        for own in bins
    ]  # fmt: skip


def shown(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """The table of the page, with one row per scope."""
    firsts = {row["scope"]: row for row in reversed(rows)}
    return [
        {"datasets": f"{scope} ({row['datasets']})", "expected calibration error": row["error"],
         "mean P(best) of the first": row["p_best_of_first"], "the first is the best": row["first_is_best"]}
        for scope, row in reversed(firsts.items())
    ]  # fmt: skip


def out_of_reach(one: Dataset, spread: Spread, seed: int) -> tuple[bool, float]:
    """Whether the best model of a whole pool would be pruned, and the share of the pool that is."""
    values = drawn(one, np.arange(len(one.names)), spread, seed)
    place = (-values).argsort(axis=1).argsort(axis=1)
    lost = (place < TOP_K).mean(axis=0) < OUT
    return bool(lost[one.truth.argmax()]), float(lost.mean())


if __name__ == "__main__":
    sys.exit(main())
