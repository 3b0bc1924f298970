"""A confirmation in a child process, where networks of others are trained: what dies of one costs that network its
trainings, and neither the table nor the others.

The child is started again after a death. What was finished is in the journal, and a network that two processes died of
is set aside (``extract.deaths``), so it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from selector.config import ConfirmConfig
from selector.core.answers import report
from selector.core.contracts import Target
from selector.core.errors import TrainingError
from selector.extract.deaths import MOST, Deaths
from selector.extract.isolated import IsolatedCalls, Isolation, plugins
from selector.extract.job import Settings
from selector.report.ranking import Ranking
from selector.scan.extraction import OF_THIS_PROCESS, Extraction
from selector.zoo import ModelSpec

log = logging.getLogger(__name__)

_GRACE = 5.0  # seconds to end in after an interrupt: a step may be under way

Confirm = Callable[[Ranking, Extraction, Sequence[ModelSpec], ConfirmConfig, int], Ranking]
"""A module's function, which the child finds by its name."""


@dataclass(frozen=True)
class Confirmation:
    """A confirmation as a value: what the child makes its extraction of, and the arguments of ``function``."""

    function: Confirm
    ranking: Ranking
    target: Target
    store: str
    settings: Settings
    isolation: Isolation
    specs: tuple[ModelSpec, ...]
    config: ConfirmConfig
    top_k: int

    name = "the confirmation"


def concerned(extraction: Extraction, specs: Sequence[ModelSpec]) -> bool:
    """Whether some of these models are trained in a child process: all of them are then.

    Not where an engine has workers, which train in processes of their own.
    """
    if not extraction.engine.in_process:
        return False
    known_there = all(spec.source_name not in OF_THIS_PROCESS for spec in specs)
    return known_there and any(extraction.isolation.concerns(spec) for spec in specs)


def confirm_apart(job: Confirmation, extraction: Extraction) -> Ranking:
    """The ranking that the function gives in the child.

    Raises:
        TrainingError: processes died where no network was worked on.
        SelectorError: as the function raises it.
    """
    from selector.tuning import strategies, validators
    from selector.tuning.workbench import deaths_in

    modules = plugins(strategies.registry, validators.registry)
    calls = IsolatedCalls(extraction.isolation, extraction.notify, modules, _GRACE)
    records = [deaths_in(extraction.store.trainings_folder), Deaths(extraction.store.working_folder)]
    unknown = 0
    try:
        while unknown < MOST:
            answer = calls.ask(_confirmed, job, steps_count=True)
            if answer.kind == "result":
                confirmed: Ranking = answer.result
                return replace(confirmed, loaded_target=extraction.target, trusted=job.ranking.trusted)
            if answer.kind not in ("died", "limit"):
                raise answer.error()
            reason = f"its process {answer.reason}" if answer.kind == "died" else answer.reason.rstrip(".")
            name = next((name for record in records if (name := record.blame(calls.pid, reason))), None)
            unknown += name is None
            log.warning("%s: %s; the confirmation goes on in another process", name or job.name, reason)
    except BaseException:
        for record in records:  # an interrupt is no death
            record.forgive(calls.pid)
        raise
    finally:
        calls.close()
    raise TrainingError(
        f"the confirmation was given up: {MOST} processes ended in it ({reason}) while no model was worked on. The run is "
        "saved; 'selector confirm' with it tries again, and goes on where it was."
    )


def _confirmed(job: Confirmation) -> Ranking:
    """In the child."""
    settings, target = job.settings, job.target
    from selector.scan.checks import open_store

    extraction = Extraction(
        target, open_store(job.store), settings.device, settings.precision, settings.backend, "skip", settings.trusted,
        report, isolation=job.isolation,
    )  # fmt: skip
    done = job.function(job.ranking, extraction, job.specs, job.config, job.top_k)
    return replace(done, loaded_target=None)
