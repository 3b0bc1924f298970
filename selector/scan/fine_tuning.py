"""Fine-tuning the leading models of a ranking as one job: the one entry to every training.

Where third-party models are among them it runs in a worker, and what dies of one costs that model its trainings, and
neither the table nor the others: finished trainings are in the journal, and the job goes on without the model that two
workers died of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from selector import modalities, tasks
from selector.config import ConfirmConfig
from selector.core.errors import SelectorError, StoreError, unwritable
from selector.report.ranking import Ranking
from selector.run.job import Needs
from selector.scan.adapting import adapt_leading
from selector.scan.confirmation import confirm_leading, leading
from selector.scan.extraction import OF_THIS_PROCESS, Extraction
from selector.scan.precomputed import confirm_rows
from selector.zoo import ModelSpec


@dataclass(frozen=True)
class FineTuneJob:
    """Job: fine-tune the leading models of a ranking.

    Attributes:
        spent: seconds of the budget that the scan of the same call took.
        given_up: why models are left alone, by name.
    """

    ranking: Ranking
    extraction: Extraction
    specs: tuple[ModelSpec, ...]
    config: ConfirmConfig
    top_k: int
    spent: float = 0.0
    given_up: Mapping[str, str] = field(default_factory=dict)

    name = "the confirmation"

    def without(self, part: str, reason: str) -> FineTuneJob | None:
        """The job that leaves a model alone of which workers died; None where that did not help."""
        if part in self.given_up:
            return None
        why = f"{part}: given up, because its process {reason}, also in a second attempt; confirm without it."
        return replace(self, given_up={**self.given_up, part: why})


def run_fine_tuning(job: FineTuneJob) -> Ranking:
    """The ranking with what was measured of its leading models, fine-tuned on the target's labels or adapted to a target
    without any; heads on ready features."""
    extraction, target = job.extraction, job.extraction.target
    extraction.given_up = job.given_up
    if not modalities.of(target).has_models:
        done = confirm_rows(job.ranking, extraction, job.config)
    elif tasks.task_of(target).adapts:
        done = adapt_leading(job.ranking, extraction, job.specs, job.config, job.top_k, job.spent)
    else:
        done = confirm_leading(job.ranking, extraction, job.specs, job.config, job.top_k, job.spent)
    return replace(done, loaded_target=None)


def fine_tune(
    ranking: Ranking,
    extraction: Extraction,
    specs: Sequence[ModelSpec],
    config: ConfirmConfig,
    top_k: int,
    spent: float = 0.0,
) -> Ranking:
    """Fine-tune the leading models, in a worker where third-party models are among them.

    Args:
        spent: seconds of the budget that the scan of the same call took.

    Raises:
        SelectorError: it failed; ``ranking`` of the error is the ranking that it began with.
    """
    plain = config.model_copy(update={"progress": None, "target": None, "store": None})
    job = FineTuneJob(replace(ranking, loaded_target=None), extraction, tuple(specs), plain, top_k, spent)
    with not_lost(ranking):
        isolated = _isolated(extraction, leading(ranking, specs, len(ranking)))
        needs = Needs(drives=True, limits=extraction.isolation.of_trainings if isolated else None)
        (result,) = extraction.executor.map(run_fine_tuning, [job], fatal=(Exception,), needs=lambda _: needs)
        assert result.value is not None
    return replace(result.value, loaded_target=extraction.target, trusted=ranking.trusted)


def _isolated(extraction: Extraction, specs: Sequence[ModelSpec]) -> bool:
    """Whether some of these models run in a worker: the whole job does then, if other processes know all of them."""
    known_there = all(spec.source_name not in OF_THIS_PROCESS for spec in specs)
    return known_there and any(map(extraction.isolation.concerns, specs))


@contextlib.contextmanager
def not_lost(ranking: Ranking) -> Iterator[None]:
    """What fails from here on does not cost the table: the error carries it.

    Raises:
        StoreError: a file cannot be written; names it.
    """
    try:
        yield
    except SelectorError as error:
        error.ranking = error.ranking or ranking
        raise
    except OSError as error:
        failure = StoreError(unwritable(error) or f"a file cannot be used: {error}")
        failure.ranking = ranking
        raise failure from error
