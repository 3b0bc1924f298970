"""What a model, and the scan itself, may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from selector.core.errors import OptionError
from selector.core.options import COST, NETWORKS, CallOptions, option, percent, quantity
from selector.core.units import parse_count, parse_duration, parse_size
from selector.options.data import Words


class LimitOptions(CallOptions):
    """Limits on models, on isolated ones and on the scan."""

    max_params: str | int | float | None = option(
        None, "Maximum number of parameters, such as 30M; larger models are excluded (default: no limit).",
        panel=COST, common=True, needs=(NETWORKS,),
    )  # fmt: skip
    max_latency: str | int | float | None = option(
        None, "Maximum time per item on this device, such as 20ms (default: no limit).", panel=COST, unit="s",
        needs=(NETWORKS,),
    )  # fmt: skip
    max_memory: str | int | float | None = option(
        None, "Maximum memory of a model at work, such as 4GB: batches shrink, models that need more are excluded (default: no "
        "limit).", python="Weights, activations, gradients and optimizer state; on the CPU beside what Python takes.",
        panel=COST, needs=(NETWORKS,),
    )  # fmt: skip
    license: Words | None = option(
        None, "'permissive', or license names and patterns, such as 'mit,apache-2.0,bsd-*' (default: any).",
        panel=COST, needs=(NETWORKS,),
    )  # fmt: skip
    measure_cost: Literal["auto", "always", "never"] = option(
        "auto", "Measurement of latency and memory: auto (where not known yet, default), always or never.", panel=COST,
        needs=(NETWORKS,),
    )  # fmt: skip
    scan_budget: str | int | float | None = option(
        None, "Time for the scan, such as 30m, or a share of its full cost, such as 25% (default: half of the budget, "
        "if one is given).",
        python="Models are read by prior and cost, about a hundred rows first, the leading ones at more.",
        panel=COST, unit="s", needs=(NETWORKS,),
    )  # fmt: skip
    isolate: Literal["auto", "on", "off"] = option(
        "auto", "Isolation of models in a child process: auto (third-party code of a zoo file, default), on (all), off.",
        needs=(NETWORKS,),
    )  # fmt: skip
    model_timeout: str | int | float | None = option(
        None, "Maximum time of an isolated model per round of rows or training step, such as 10m (default: no limit).",
        unit="s", needs=(NETWORKS,),
    )  # fmt: skip
    model_memory: str | int | float | None = option(
        None, "Maximum memory of an isolated model, such as 8GB (default: 90% of the machine's).", needs=(NETWORKS,)
    )

    @field_validator("model_timeout", "model_memory")
    @classmethod
    def _limited(cls, value: str | int | float | None, info: Any) -> float | None:
        read = parse_duration if info.field_name == "model_timeout" else parse_size
        if value is None:
            return None
        found = quantity(info.field_name, value, read)
        if found <= 0:
            raise OptionError(f"{info.field_name} must be more than 0. Got {value!r}.", info.field_name)
        return found

    @field_validator("scan_budget")
    @classmethod
    def _spendable(cls, value: str | int | float | None) -> str | float | None:
        if value is None:
            return None
        if isinstance(value, str) and value.strip().endswith("%"):
            share = quantity("scan_budget", value.strip()[:-1], percent)
            if not 0 < share <= 100:
                raise OptionError(
                    f"scan_budget must be a share above 0% and at most 100%. Got {value!r}.", "scan_budget"
                )
            return f"{share:g}%"
        found = quantity("scan_budget", value, parse_duration)
        if found <= 0:
            raise OptionError(f"scan_budget must be more than 0. Got {value!r}.", "scan_budget")
        return found

    @field_validator("max_params", "max_latency", "max_memory")
    @classmethod
    def _readable(cls, value: str | int | float | None, info: Any) -> str | int | float | None:
        readers: dict[str, Callable[[str | int | float], float]] = {
            "max_params": parse_count, "max_memory": parse_size,
            "max_latency": lambda latency: parse_duration(latency, needs_unit=True),
        }  # fmt: skip
        if value is not None and quantity(info.field_name, value, readers[info.field_name]) == 0:
            raise OptionError(
                f"{info.field_name} must be more than 0, or every model is excluded. Got {value!r}.", info.field_name
            )
        return value

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.measure_cost == "never" and (self.max_latency is not None or self.max_memory is not None):
            raise OptionError(
                "max_latency and max_memory need measured models; measure_cost must be 'auto' or 'always'. Got 'never'.",
                "max_latency", "max_memory", "measure_cost",
            )  # fmt: skip
        return self
