"""What a model may cost at most: ``--max-params 30M --max-latency 20ms --max-memory 4GB --license permissive``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from selector.core.costs import Cost
from selector.core.errors import OptionError
from selector.core.units import (
    format_count,
    format_latency,
    format_size,
    parse_count,
    parse_duration,
    parse_size,
    words,
)
from selector.zoo import ModelSpec, licenses


class OverLimit(Exception):
    """A model exceeds a limit, or cannot be shown to keep it; the message says which and by how much.

    Attributes:
        cost: what was measured of it, where it has no entry that its costs could be kept beside.
    """

    cost: Cost | None = None


@dataclass(frozen=True)
class Limits:
    """Limits on the models of a scan; None or empty where there is none.

    A model that exceeds one is a row with the status ``excluded`` and a reason, and so is a model of
    which the value is unknown: nothing is guessed.

    Attributes:
        max_params: of the network without its source head.
        max_latency: seconds for a single item on this device.
        max_memory: bytes at the peak of a forward pass of one item on this device.
        license: classes, names or globs; see ``selector.zoo.licenses``.
        noun: what an item of the target is called in a reason (image, text); no limit itself.
    """

    max_params: int | None = None
    max_latency: float | None = None
    max_memory: int | None = None
    license: tuple[str, ...] = ()
    noun: str = field(default="item", compare=False)

    @classmethod
    def of(
        cls,
        max_params: str | float | None = None,
        max_latency: str | float | None = None,
        max_memory: str | float | None = None,
        license: str | Sequence[str] | None = None,
    ) -> Limits:
        """From quantities as people write them.

        Raises:
            ConfigError: a quantity that cannot be read, or no license.
        """
        limits = cls(
            None if max_params is None else parse_count(max_params),
            None if max_latency is None else parse_duration(max_latency, needs_unit=True),
            None if max_memory is None else parse_size(max_memory),
            tuple(words(license)),
        )
        if license is not None and not limits.license:
            raise OptionError(
                f"license names none; give 'permissive' or names such as 'mit,apache-2.0'. Got {license!r}.", "license"
            )
        return limits

    def __bool__(self) -> bool:
        return self != Limits()

    @property
    def measured(self) -> bool:
        """Whether a limit is on something that has to be measured on this machine."""
        return self.max_latency is not None or self.max_memory is not None

    def check_facts(self, spec: ModelSpec, parameters: int | None = None) -> None:
        """What is known without running the network.

        Args:
            parameters: counted, where the network was built before; what the zoo says is used otherwise.
        Raises:
            OverLimit: it exceeds a limit, or its license is not known.
        """
        if self.license:
            wanted = " or ".join(self.license)
            if not spec.license:
                raise OverLimit(f"its license is not known, so it cannot be shown to be {wanted}; name it in the zoo.")
            if not licenses.allows(self.license, spec.license):
                raise OverLimit(f"its license is {spec.license}, not {wanted}.")
        count = spec.params if parameters is None else parameters
        if self.max_params is not None and count is not None and count > self.max_params:
            raise OverLimit(f"{format_count(count)} parameters, more than {format_count(self.max_params)}.")

    def check_cost(self, cost: Cost | None) -> None:
        """What was measured.

        Raises:
            OverLimit: it exceeds a limit, or it could not be measured.
        """
        if self.max_latency is not None:
            latency = cost.latency if cost is not None else None
            if cost is None or latency is None:
                raise OverLimit("its latency could not be measured, so it cannot be shown to keep the limit.")
            if latency > self.max_latency:
                raise OverLimit(f"{describe_latency(cost, self.noun)}, more than {format_latency(self.max_latency)}.")
        if self.max_memory is not None:
            memory = cost.memory if cost is not None else None
            if memory is None:
                raise OverLimit("its memory could not be measured, so it cannot be shown to keep the limit.")
            check_memory(memory, self.max_memory)


def check_memory(memory: int, limit: int) -> None:
    """Hold the peak of a forward pass of one item against a limit, both in bytes.

    Raises:
        OverLimit: it is higher.
    """
    if memory > limit:
        raise OverLimit(f"{format_size(memory)} of memory at its peak, more than {format_size(limit)}.")


def describe_latency(cost: Cost, noun: str) -> str:
    """The value with the spread of its passes.

    >>> describe_latency(Cost(latency=0.02, latency_low=0.018, latency_high=0.05, runs=9), "text")
    'a text takes 20 ms (18.0 ms to 50 ms in 9 passes)'
    """
    article = "an" if noun[0] in "aeiou" else "a"
    told = f"{article} {noun} takes {format_latency(cost.latency or 0)}"
    if cost.latency_low is None or cost.latency_high is None:
        return told
    return f"{told} ({format_latency(cost.latency_low)} to {format_latency(cost.latency_high)} in {cost.runs} passes)"
