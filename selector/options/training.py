"""How the leading models are fine-tuned; shared by ``rank`` and ``confirm``."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from selector.core.errors import OptionError
from selector.core.options import CONFIRM, IMAGES, LABELS, NETWORKS, CallOptions, option, quantity
from selector.core.units import parse_duration, words
from selector.options.data import Words

DEFAULT_BUDGET = 20 * 60.0  # seconds of a confirmation that names neither budget nor steps
TOP_K = 3
"""How many models are confirmed by default, where there are so many."""


class TrainingOptions(CallOptions):
    """How the leading models are fine-tuned."""

    top_k: int | None = option(
        None, "Number of models to fine-tune, and the k of P(top k) (default: chosen automatically; k is 3).",
        ge=1, panel=CONFIRM, usual=TOP_K, common=True,
    )  # fmt: skip
    pilot_cost: float = option(
        1.0, "Maximum cost of a model's pilot run, as a multiple of its feature extraction (default: 1; 0: no pilot runs).",
        ge=0, panel=CONFIRM, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    budget: str | int | float | None = option(
        None, "Time for the whole call, scan and fine-tuning, such as 90s, 20m or 3h (default: "
        f"{DEFAULT_BUDGET / 60:.0f}m for fine-tuning; no limit where only steps are limited).", panel=CONFIRM, record="budget_seconds", unit="s", common=True,
    )  # fmt: skip
    strategies: Words = option(
        ("frozen", "full"), "Fine-tuning strategies, comma-separated: frozen, partial, full, lora (default: frozen,full); "
        "without labels those of domain adaptation.", panel=CONFIRM, many=True,
    )  # fmt: skip
    resolution: int | None = option(
        None, "Training image size: short side in pixels (default: the model's own); below it results are marked as reduced.",
        ge=16, panel=CONFIRM, needs=(LABELS, NETWORKS, IMAGES),
    )  # fmt: skip
    decoder: Words | None = option(
        None, "Decoders, comma-separated. Masks: linear, fcn, deeplabv3, unet, segformer, dpt; boxes: fasterrcnn, "
        "retinanet, fcos, ssd (default: the first).", panel=CONFIRM, many=True, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    loss: str | None = option(
        None, "Loss of a regression: mse (default) or huber, which is less sensitive to outliers.", panel=CONFIRM,
        needs=(LABELS,),
    )  # fmt: skip
    augment: Literal["none", "light", "standard", "strong"] = option(
        "light", "Augmentation of training images: none, light (crop, mirror; default), standard or strong.", panel=CONFIRM,
        needs=(LABELS, NETWORKS, IMAGES),
    )  # fmt: skip
    balance: Literal["auto", "none", "weights", "sampling"] = option(
        "auto", "Balancing of classes that differ in size: auto (loss weights above 3:1, default), none, weights or sampling.",
        panel=CONFIRM, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "Share of each label that is spread over all classes, below 1 (default: 0).", ge=0, panel=CONFIRM,
        needs=(LABELS, NETWORKS),
    )  # fmt: skip
    averaging: Literal["none", "ema", "last"] = option(
        "none", "Averaging of weights over training steps: none (default), ema (exponential) or last (the last quarter).",
        panel=CONFIRM, needs=(LABELS, NETWORKS),
    )  # fmt: skip
    metric: str | None = option(
        None, "Metric that decides between fine-tuned models (default: the task's own).", panel=CONFIRM, needs=(LABELS,)
    )
    refit: bool = option(
        True, "Fitting of the chosen model again on train and validation items together, as far as time is left (default: done).",
        panel=CONFIRM, needs=(LABELS,),
    )  # fmt: skip
    max_steps: int | None = option(
        None, "Maximum optimizer steps per final training (default: as many as the budget allows).", ge=1, panel=CONFIRM
    )

    @field_validator("strategies")
    @classmethod
    def _named(cls, value: Words) -> tuple[str, ...]:
        named = tuple(words(value))
        if not named:
            raise OptionError("strategies names none; give at least one, such as frozen.", "strategies")
        return named

    @field_validator("label_smoothing")
    @classmethod
    def _a_share(cls, value: float) -> float:
        if not value < 1:
            raise OptionError(f"label_smoothing must be a number in the range [0, 1). Got {value}.", "label_smoothing")
        return value

    @field_validator("decoder")
    @classmethod
    def _decoders(cls, value: Words | None) -> tuple[str, ...] | None:
        return None if value is None else tuple(dict.fromkeys(words(value))) or None

    @property
    def decoders(self) -> tuple[str, ...]:
        """Those that were asked for; none for the task's usual one."""
        return tuple(self.decoder or ())

    @property
    def seconds(self) -> float | None:
        """The budget in seconds: the usual one where neither it nor the number of steps is given."""
        if self.budget is None:
            return DEFAULT_BUDGET if self.max_steps is None else None
        return parse_duration(self.budget)

    @field_validator("budget")
    @classmethod
    def _seconds(cls, value: str | int | float | None) -> float | None:
        return None if value is None else quantity("budget", value, parse_duration)
