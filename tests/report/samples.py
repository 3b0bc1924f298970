"""Rankings to draw: ordinary, unmeasured, hostile, large."""

import math
from dataclasses import replace
from typing import Any

from selector.core.costs import Cost
from selector.report.ranking import Ranking
from selector.results import Measurement, ModelResult, ScoreCell

HOSTILE = "<img src=x onerror=\"document.title='owned'\">&'[red]"


def measurement(value: float, **changes: Any) -> Measurement:
    """A training that reached ``value`` on validation and a little less on test."""
    base = Measurement(
        "full",
        "accuracy",
        val={"accuracy": value, "loss": 1 - value},
        test={"accuracy": value - 0.01},
        steps=150,
        learning_rate=1e-3,
        seconds=42.0,
        resolution=(128, 128),
        reduced=True,
        trained_parameters=3_400_000,
    )
    return replace(base, **changes)


def confirmation() -> dict[str, Any]:
    """Two rounds in which the second model fell behind, as a fine-tuning stage leaves them."""
    base = {"strategy": "full", "rate": 1e-3, "seed": 0, "status": "ok", "seconds": 9.0, "notes": []}
    first, second = "timm:network_0.in1k", "timm:network_1.in1k"
    member = {"value": 0.93, "difference": 0.0, "low": 0.0, "high": 0.0, "parameters": 3_400_000, "latency": None}
    return {
        "metric": "accuracy",
        "tuning_log": ["Planned: 2 configurations x 1 rate x 150 steps; batch 32; about 40.0 s."],
        "history": [
            {**base, "model": first, "round": 1, "steps": 50, "value": 0.88},
            {**base, "model": second, "round": 1, "steps": 50, "value": 0.91},
            {**base, "model": second, "round": 1, "steps": 50, "value": None, "status": "diverged"},
            {**base, "model": first, "round": 2, "steps": 150, "value": 0.93},
        ],
        "epsilon_best": [
            {**member, "name": first, "strategy": "frozen", "difference": 0.004, "low": -0.006, "high": 0.014},
            {**member, "name": first, "strategy": "full"},
        ],
        "advice": [f"{first}: take full; it gained 3.0 points over frozen (90% interval +1.0 to +5.0)."],
        "p_best": 0.91,
        "settled": False,
    }


def model(index: int, **changes: Any) -> ModelResult:
    """The ``index``-th best of an ordinary pool."""
    transferability = 0.8 * 0.93**index
    base = ModelResult(
        name=f"timm:network_{index}.in1k",
        spec={"source": f"timm:network_{index}.in1k", "license": "apache-2.0", "tags": ["cnn"]},
        rank=index + 1,
        transferability=transferability,
        transferability_low=transferability - 0.04,
        transferability_high=transferability + 0.04,
        p_best=0.6 * 0.4**index,
        p_top_k=max(0.0, 1 - 0.1 * index),
        tied=index < 2,
        scores={
            "logme": ScoreCell(-0.4 - 0.05 * index, -0.5 - 0.05 * index, -0.3 - 0.05 * index),
            "knn": ScoreCell(0.7 - 0.02 * index, details={"accuracy@5": 0.72}),
        },
        num_features=1280,
        num_parameters=3_400_000 + 900_000 * index,
        rows=1700,
        extract_seconds=12.0 + index,
    )
    return replace(base, **changes)


def ranking(models: tuple[ModelResult, ...] | None = None, **changes: Any) -> Ranking:
    """A confirmed run of five models: two measured, one without a proxy, one failed."""
    if models is None:
        models = (
            model(0, measurements=(measurement(0.90, strategy="frozen", round=0), measurement(0.93))),
            model(1, measurements=(measurement(0.91, reduced=False, resolution=(224, 224)),)),
            model(2, cached=True),
            model(3, scores={"logme": ScoreCell(None, reason="N < D"), "knn": ScoreCell(math.nan)}),
            model(
                4,
                rank=None,
                status="failed",
                reason="weights are missing",
                traceback="Traceback (most recent call last):\nWeightsMissing: weights are missing",
                transferability=None,
                transferability_low=None,
                transferability_high=None,
                p_best=None,
                p_top_k=None,
                tied=False,
                scores={},
                num_features=None,
                num_parameters=None,
                rows=0,
                extract_seconds=0.0,
            ),
        )
    base = Ranking(
        target={
            "name": "photos",
            "items": 2000,
            "classes": 3,
            "class_names": ["good", "hole", "stain"],
            "class_counts": {"good": 1000, "hole": 500, "stain": 500},
            "splits": {"train": 1400, "val": 300, "test": 300},
            "split_origin": "drawn",
            "label_kind": "classes",
            "fingerprint": "0123456789abcdef",
            "origin": {"kind": "folder", "path": "my photos"},
        },
        settings={
            "zoo": None,
            "models": "network*",
            "tags": None,
            "proxies": ["logme", "knn"],
            "top_k": 3,
            "seed": 0,
            "device": "cpu",
            "prune": "auto",
            "on_invalid": "skip",
            "confirm": {"top_k": 2, "budget_seconds": 600.0, "strategies": ["frozen", "full"], "seed": 0},
        },
        versions={"selector": "0.1.0", "python": "3.11.0"},
        models=models,
        warnings=("2 models are not significantly different (90%) on these rows.",),
        confirmation=confirmation(),
        seconds={"extract": 61.0, "total": 190.5},
    )
    return replace(base, **changes)


def unmeasured() -> Ranking:
    """The same pool before the confirmation."""
    return ranking(tuple(replace(m, measurements=()) for m in ranking().models), confirmation={})


def cost(index: int, **changes: Any) -> Cost:
    """What the ``index``-th model costs: the larger, the slower, but for the third."""
    latency = 0.009 if index == 2 else 0.012 + 0.004 * index
    base = Cost(
        flops=390_000_000 + 100_000_000 * index,
        latency=latency,
        latency_low=latency - 0.001,
        latency_high=latency + 0.019,
        runs=9,
        image_seconds=0.004 + 0.002 * index,
        batch_size=16,
        backend="openvino",
        memory=30_000_000 + 7_000_000 * index,
        disk=18_000_000 + 4_000_000 * index,
        device="AMD EPYC",
        precision="float32",
        threads=2,
    )
    return replace(base, **changes)


def costed(base: Ranking | None = None) -> Ranking:
    """A ranking whose models were measured, the failed ones apart; the last two exceed limits."""
    base = ranking() if base is None else base
    models = [m if m.status == "failed" else replace(m, cost=cost(i)) for i, m in enumerate(base)]
    gone = {"rank": None, "status": "excluded"} | dict.fromkeys(
        ("transferability", "transferability_low", "transferability_high", "p_best", "p_top_k"), None
    )
    more = (
        model(5, **gone, scores={}, cost=cost(5), tied=False, reason="7.9M parameters, more than 6.0M."),
        model(6, **gone, scores={}, tied=False, reason=f"its license is {HOSTILE}, not permissive."),
    )
    return replace(base, models=(*models[:-1], *more, *models[-1:]))


PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""An image of one red pixel."""


def error_analysis(classes: list[str], name: str = "a.jpg") -> dict[str, Any]:
    """What a fine-tuning stage keeps of the model that it hands over: three classes, two mistakes, one right item."""
    first, second, third = classes
    sample = {"index": 3, "name": name, "label": first, "predicted": second, "probability": 0.97, "thumbnail": PIXEL}
    return {
        "split": "test",
        "classes": [
            {"class": first, "images": 100, "precision": 0.989, "recall": 0.9, "f1": 0.9424},
            {"class": second, "images": 50, "precision": 0.8511, "recall": 0.8, "f1": 0.8247},
            {"class": third, "images": 50, "precision": 0.7742, "recall": 0.96, "f1": 0.8571},
        ],
        "confusion": [[90, 5, 5], [1, 40, 9], [0, 2, 48]],
        "confused": [{"label": second, "predicted": third, "images": 9}],
        "samples": [
            sample,
            {
                **sample,
                "index": 4,
                "name": "b.jpg",
                "label": third,
                "probability": 0.61,
                "thumbnail": "https://example.invalid/x.png",
            },
            {**sample, "index": 5, "name": "c.jpg", "label": third, "predicted": third, "probability": 0.35},
        ],
    }


def examined() -> Ranking:
    """A confirmed run whose best model was looked at: confusion matrix and samples."""
    first, *rest = ranking().models
    classes = ["good", "hole", "stain"]
    return ranking(
        (replace(first, measurements=(measurement(0.93, extra={"error_analysis": error_analysis(classes)}),)), *rest)
    )


def hostile() -> Ranking:
    """Names, reasons, classes and paths that are HTML, markup and attribute breakers."""
    bad = f"</script><script>document.title='owned'</script>{HOSTILE}"
    first, second, *rest = ranking().models
    extra = {"error_analysis": error_analysis([bad, "hole", "stain"], f"{bad}.jpg")}
    models = (
        replace(first, name=bad, spec={"source": bad, "license": bad}, measurements=(measurement(0.93, extra=extra),)),
        replace(second, measurements=(measurement(0.9, note=bad),)),
        *rest[:-1],
        replace(rest[-1], name=HOSTILE, reason=bad, traceback=bad),
    )
    base = ranking(models, warnings=(bad,), confirmation={**confirmation(), "advice": [bad]})
    target = {**base.target, "name": bad, "class_names": [bad, "hole", "stain"], "origin": {"path": bad}}
    return replace(base, target=target, settings={**base.settings, "models": bad})


def large(count: int = 500) -> Ranking:
    """As many models as a large zoo has."""
    return ranking(tuple(model(i, transferability=0.9 - i / 1000, cost=cost(i)) for i in range(count)))
