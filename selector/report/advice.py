"""What to do, how sure that is, and what it costs: the first screen of the report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from selector.core.costs import Cost
from selector.core.stats import Metric, share_interval
from selector.core.units import format_count, format_duration, format_latency, format_size
from selector.report.adaptation import sure_of_choice
from selector.report.view import NO_CAVEAT, tie
from selector.results import Measurement, ModelResult, StoredRanking
from selector.tasks import metric_named
from selector.zoo.trust import runs_code

LEADING = 0.1  # P(best) from which a model that cannot be told apart from the first one leads as well

HOW = {
    "frozen": "train a new head on its frozen features",
    "partial": "fine-tune its last blocks",
    "full": "fine-tune all its layers",
    "lora": "fine-tune it through low-rank adapters",
    "source-only": "use it unchanged after training a head on the source domain",
    "deep-coral": "train it on the source domain while aligning the covariances of its features",
    "dann": "train it on the source domain against a domain classifier",
    "cdan": "train it on the source domain against a domain classifier that sees its predictions",
    "mcc": "train it on the source domain while reducing class confusion on the target",
    "coral": "align the source's features with the target's before its head is trained",
    "reweight": "train its head on source items weighted by how much they look like the target",
    "label-shift": "train its head on source items weighted by the target's estimated class shares",
}


@dataclass(frozen=True)
class Advice:
    """``headline`` is an instruction, the rest are sentences; ``commands`` are what to type next."""

    headline: str
    sure: tuple[str, ...] = ()
    cost: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def advice(ranking: StoredRanking) -> Advice:
    """Read the recommendation off a ranking."""
    best = next((model for model in ranking if model.status == "ok"), None)
    if best is None and any(model.status == "excluded" for model in ranking) and not ranking.failures:
        return Advice("No model satisfies the limits. The table shows which limit each one exceeds.")
    if best is None:
        return Advice("No model finished. The reasons are listed below under failures.")
    measured = best.best_measurement()
    if measured is None and any(caveat.code == "task-not-trainable" for caveat in ranking.caveats):
        return Advice(
            f"Try {best.name} first: it leads the ranking, but fine-tuning is not supported for this label type.",
            tuple(_sure_of_transferability(ranking, best)),
            tuple(_cost(best, None, ranking.noun)),
        )
    if measured is None:
        return Advice(
            f"Confirm before you choose: {best.name} leads the ranking, but nothing has been measured yet.",
            tuple(_sure_of_transferability(ranking, best)),
            tuple(_cost(best, None, ranking.noun)),
            commands=(confirm_command(ranking),),
        )
    adapted = bool(ranking.confirmation.get("adaptation"))
    how = HOW.get(measured.strategy, f"adapt it by the strategy {measured.strategy}")
    return Advice(
        f"Start from {best.name} and {how}." if adapted else _headline(ranking, best, measured),
        tuple(sure(ranking, best, measured)),
        tuple(_cost(best, measured, ranking.noun)),
        tuple(_others(ranking, best, measured)),
        (predict_command(ranking, best),),
    )


def sure(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> Iterator[str]:
    """How sure the choice is: by what was measured, or of a target without labels by what chose instead."""
    return (
        sure_of_choice(ranking, measured)
        if ranking.confirmation.get("adaptation")
        else _sure_of_measurement(ranking, best, measured)
    )


def confirm_command(ranking: StoredRanking) -> str:
    """What to type to fine-tune the leading models of a run."""
    named = (str(model.spec.get("source", "")).partition(":") for model in ranking if model.status == "ok")
    code = any(runs_code(source, model) for source, _, model in named)
    return f"selector confirm {_run(ranking)}" + (" --trust-zoo" if code else "")


def predict_command(ranking: StoredRanking, best: ModelResult) -> str:
    """What to type to use the model of a confirmed run."""
    items = {"text": "TEXTS…", "rows": "FEATURES.npy"}.get(str(ranking.target.get("modality")), "IMAGES…")
    source, _, model = str(best.spec.get("source", "")).partition(":")
    return f"selector predict {_run(ranking)} {items}" + (" --trust-code" if runs_code(source, model) else "")


def _sure_of_measurement(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> Iterator[str]:
    counts = ranking.target.get("splits") or {}
    value, split = (measured.val_value, "val") if math.isnan(measured.test_value) else (measured.test_value, "test")
    items = int(counts.get(split) or 0)
    what = "test split, which was read once" if split == "test" else "validation split, on which it was also chosen"
    line = f"Measured: {measured.metric} {value:.3f} on the {what}"
    if measured.metric == "accuracy" and items:
        low, high = share_interval(value * items, items)
        line += f" ({items} items; 90% interval {low:.3f} to {high:.3f})"
    yield line + "."
    if (rival := _second(ranking, best, measured)) is not None:
        second, model = rival
        gap = metric_named(measured.metric).gap(measured.merit - second.merit)
        yield (
            f"The second, {model.name}, is {gap} behind on validation{_of_seeds(measured, second)}"
            + _paired(second, metric_named(measured.metric))
            + "."
        )
        yield from _reversed(measured, rival, best)
    else:
        others = " The values of the others are predictions." if len(ranking) > 1 else ""
        yield f"It is the only measured model.{others}"
    if measured.reduced and measured.resolution:
        height, width = measured.resolution
        yield (
            f"It was trained for {measured.steps} steps at {height} × {width} pixels, below its own size. "
            "Train longer at full size before you judge what it can reach."
        )


def _second(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> tuple[Measurement, ModelResult] | None:
    """The best other model that was measured in the same metric."""
    others = [(m.best_measurement(), m) for m in ranking if m is not best]
    rivals = [(m, model) for m, model in others if m is not None and m.metric == measured.metric]
    return max(rivals, key=lambda pair: pair[0].merit, default=None)


def _of_seeds(*compared: Measurement) -> str:
    """That a gap is one of means, where the table shows the seed that did best."""
    most = max(len(m.extra.get("seed_values", ())) for m in compared)
    return f" in the mean of {most} seeds" if most > 1 else ""


def _paired(second: Measurement, metric: Metric) -> str:
    """The interval of the paired difference, and whether the validation items tell the two apart."""
    low, high = second.extra.get("difference_low"), second.extra.get("difference_high")
    if low is None or high is None:
        return ""
    told = f" (90% interval of the paired difference {metric.number(low)} to {metric.number(high)})"
    return told + ("" if low > 0 else "; the two are not significantly different on these items")


def _reversed(measured: Measurement, rival: tuple[Measurement, ModelResult], best: ModelResult) -> Iterator[str]:
    """Where the test split orders the two the other way round."""
    second, model = rival
    declared = metric_named(measured.metric)
    if second.merit < measured.merit and declared.better(second.test_value, measured.test_value):
        gap = declared.gap(abs(second.test_value - measured.test_value))
        yield (
            f"The test split reverses this order: {model.name} {second.test_value:.3f}, {best.name} "
            f"{measured.test_value:.3f} ({gap}). The model is chosen on validation, because a choice on test would make its value optimistic."
        )


def _leaders(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> list[ModelResult]:
    """The models that validation cannot tell apart from the best one and that may well be better, the best one first."""
    found = [best]
    for model in ranking:
        other = model.best_measurement()
        if model is best or other is None or other.metric != measured.metric:
            continue
        low = other.extra.get("difference_low")
        p_best = sum(float(m.extra.get("p_best") or 0.0) for m in model.measurements)
        if low is not None and low <= 0 and p_best >= LEADING:
            found.append(model)
    return found


def _cheapest(models: Sequence[ModelResult]) -> ModelResult:
    """By latency where all were timed on this machine while it was not busy, else by parameters; of equal ones the first."""
    latencies = [None if m.cost is None or m.cost.unsteady else m.cost.latency for m in models]
    if all(latency is not None for latency in latencies):
        return min(zip(latencies, range(len(models)), models, strict=True))[2]
    return min(models, key=lambda m: math.inf if m.num_parameters is None else m.num_parameters)


def _headline(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> str:
    """What to start from; of leaders that cannot be told apart the cheapest."""
    leaders = _leaders(ranking, best, measured)
    chosen = _cheapest(leaders)
    strategy = measured if chosen is best else chosen.best_measurement() or measured
    how = f"and {HOW.get(strategy.strategy, f'adapt it by the strategy {strategy.strategy}')}"
    if len(leaders) < 2:
        return f"Start from {chosen.name} {how}."
    items = int((ranking.target.get("splits") or {}).get("val") or 0)
    names = f"{', '.join(m.name for m in leaders[:-1])} and {leaders[-1].name}"
    which = "cheaper" if len(leaders) == 2 else "cheapest"
    saved = "" if chosen is best else f" The saved model is {best.name}, which leads on validation."
    return f"{names} cannot be told apart on {items} validation items: start from the {which} one, {chosen.name}, {how}.{saved}"


def _others(ranking: StoredRanking, best: ModelResult, measured: Measurement) -> Iterator[str]:
    """Choices that may be as good, the cheapest first, and what was learned about strategies."""
    told = {(best.name, measured.strategy)}
    if (second := _second(ranking, best, measured)) is not None:  # its gap was told already
        told.add((second[1].name, second[0].strategy))
    members = [m for m in ranking.confirmation.get("epsilon_best", ()) if (m["name"], m["strategy"]) not in told]
    metric = metric_named(measured.metric)
    for m in members[:3]:
        yield (
            f"{m['name']} ({m['strategy']}, {format_count(m['parameters'])} parameters) {'is close' if m['low'] > 0 else 'may be as good'}: "
            f"{metric.gap(m['difference'])} behind on validation, 90% interval "
            f"{metric.number(m['low'])} to {metric.number(m['high'])}."
        )
    yield from (str(sentence) for sentence in ranking.confirmation.get("advice", ()))


def _sure_of_transferability(ranking: StoredRanking, best: ModelResult) -> Iterator[str]:
    if best.transferability is not None:
        line = f"Predicted: transferability {best.transferability:.3f} on a scale where 0 is chance and 1 is perfect"
        if best.transferability_low is not None and best.transferability_high is not None:
            line += f" (90% interval of the score {best.transferability_low:.3f} to {best.transferability_high:.3f})"
        yield line + "."
    if best.prior is not None and best.prior.weight:
        yield (
            f"The prior ({best.prior.origin}) changed it by {best.prior.shift:+.3f}, "
            f"with a weight of {100 * best.prior.weight:.0f}%."
        )
    if best.p_best is not None:
        yield f"The probability that it is the best model after training is {100 * best.p_best:.0f}%."
    tied = [model.name for model in ranking if model.tied and model is not best]
    if (told := tie(ranking)) not in ("", NO_CAVEAT):
        yield told
    elif tied:
        more = f" and {len(tied) - 5} more" if len(tied) > 5 else ""
        yield f"May be as good after training: {', '.join(tied[:5])}{more}."
    yield "Transferability predicts an order, not an accuracy. Fine-tune a few models to settle it."


def _cost(best: ModelResult, measured: Measurement | None, noun: str) -> Iterator[str]:
    if best.num_parameters is not None:
        license = best.spec.get("license")
        yield f"{format_count(best.num_parameters)} parameters" + (f", license {license}." if license else ".")
    if best.cost is not None:
        yield from _running_cost(best.cost, noun)
    if measured is not None and measured.seconds:
        what = "Training" if measured.steps else "Solving the head"
        effort = [
            *([f"{measured.steps} steps"] if measured.steps else []),
            *(
                [f"{format_count(measured.trained_parameters)} trained parameters"]
                if measured.trained_parameters
                else []
            ),
        ]
        told = f" ({', '.join(effort)})" if effort else ""
        yield f"{what} took {format_duration(measured.seconds)}{told}."
    if best.extract_seconds and best.rows:
        yield (
            f"Extraction took {format_duration(best.extract_seconds)} for {best.rows} rows, including loading "
            "and the choice of a backend."
        )


def _running_cost(cost: Cost, noun: str) -> Iterator[str]:
    """What using the model takes on the machine that measured it."""
    if cost.latency is not None:
        batch = ""
        if cost.image_seconds and cost.batch_size > 1:
            batch = f"; {1 / cost.image_seconds:.3g} {noun}s per second in batches of {cost.batch_size}"
        busy = ", while the machine was busy" if cost.unsteady else ""
        yield f"{'An' if noun == 'image' else 'A'} {noun} takes {format_latency(cost.latency)} on {cost.device} ({cost.precision}{busy}){batch}."
    sizes = [
        *([f"{format_size(cost.memory)} of peak memory for one {noun}"] if cost.memory is not None else []),
        *([f"{format_size(cost.disk)} on disk"] if cost.disk is not None else []),
        *([f"{format_count(cost.flops)} multiply-adds"] if cost.flops is not None else []),
    ]
    if sizes:
        yield f"It needs {', '.join(sizes)}."


def _run(ranking: StoredRanking) -> str:
    return "RUN" if ranking.path is None else shlex.quote(str(ranking.path))
