"""One candidate at a time: build it, train it from its linear-probe initialisation, measure it, keep the record."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from selector import modalities
from selector.core.contracts import (
    AnyPreprocess,
    Modality,
    Progress,
    ProgressCallback,
    Target,
)
from selector.core.engine import LocalEngine
from selector.core.errors import SourceError, StoreError, TrainingError
from selector.core.metric import Metric
from selector.core.system import cpu_model
from selector.core.task import Learner, NotFinite, Probe, RowPlan, Stats, Task
from selector.extract.inputs import ready
from selector.tuning import strategies
from selector.tuning.journal import Journal, Record
from selector.tuning.loaded import Candidate, Loaded
from selector.tuning.strategies._kinds import bf16_helps, is_classic, is_depthwise, is_modern
from selector.tuning.strategies._loop import Feed, Normalise, Optimiser, PixelBatches, Settings, predict, train
from selector.tuning.strategies._parts import parts_of
from selector.tuning.types import Contestant

log = logging.getLogger(__name__)

RATES: Mapping[Optimiser, tuple[float, ...]] = {"sgd": (0.003, 0.03, 0.0003), "adamw": (1e-4, 3e-4, 1e-3)}
"""By preference: with a small budget only the first is tried. Their evidence is in docs/confirm.md."""


@dataclass
class Workbench:
    """What all candidates share.

    By split ``indices`` of the items. ``batch_size`` (items) is the same for every contestant.
    """

    target: Target
    task: Task
    pixels_for: Callable[[AnyPreprocess], PixelBatches]
    journal: Journal
    device: str
    batch_size: int
    augment: bool
    features_for: Callable[[str, np.ndarray], np.ndarray] | None = None
    notify: ProgressCallback = lambda _: None
    now: Callable[[], float] = time.perf_counter
    indices: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bf16 = bf16_helps(self.device)
        for split in ("train", "val", "test"):
            self.indices[split] = self.target.indices(split)

    # -------------------------------------------------------------------- measuring

    def metric(self, name: str) -> Metric:
        """The declaration of a metric."""
        return self.task.metrics[name]

    def plan(self, split: str, some: np.ndarray | None = None) -> RowPlan:
        """The rows of a split, or of some of its items (positions in the target)."""
        return self.task.rows(self.target, self.indices[split] if some is None else some, self.task.probe_rows)

    def stats_of_outputs(self, outputs: Any, split: str, context: Mapping[str, Any] | None = None) -> Stats:
        """Statistics of outputs of all items of a split."""
        evaluator = self.task.evaluator(self.target, context)
        evaluator.update(outputs, self.indices[split])
        return evaluator.stats()

    def stats_of(
        self, loaded: Loaded, module: nn.Module, split: str, context: Mapping[str, Any] | None = None
    ) -> Stats:
        """Statistics of a learner on a split at the training resolution.

        Raises:
            NotFinite: its outputs are no numbers.
        """
        evaluator = self.task.evaluator(self.target, context)
        feed = self.feed(loaded.preprocess)
        predict(
            module, feed, self.indices[split], evaluator.update,
            device=self.device, bf16=loaded.bf16, batch_size=2 * self.task.batch_size,
        )  # fmt: skip
        return evaluator.stats()

    def rows_of(
        self,
        module: nn.Module,
        feed: Feed,
        items: np.ndarray,
        *,
        bf16: bool,
        deadline: float = math.inf,
    ) -> tuple[RowPlan, np.ndarray | None]:
        """The rows of some items and what the learner's head reads of them, (R, D) float32; None where the deadline
        came first or the learner has no such rows."""
        plan = self.plan("", items)
        found: list[np.ndarray] = []

        def call(batch: Any, some: np.ndarray) -> Any:
            places = [None if plan.place is None else plan.place[plan.item == item] for item in some]
            return cast(Learner, module).rows(batch, places)

        def take(rows: Any, _: np.ndarray) -> None:
            if rows is not None:
                found.append(rows.float().cpu().numpy())

        done = predict(
            module,
            feed,
            items,
            take,
            call=call,
            device=self.device,
            bf16=bf16,
            batch_size=2 * self.task.batch_size,
            deadline=deadline,
            clock=self.now,
        )
        return plan, np.concatenate(found) if done and found else None

    def feed(self, preprocess: AnyPreprocess, *, augment: bool = False) -> Feed:
        """The items of the target, prepared so; training batches with their annotations."""
        return Feed(
            self.pixels_for(preprocess),
            self.normalise(preprocess),
            lambda items: self.task.annotations(self.target, items),
            self._augmented if augment else None,
        )

    def _augmented(self, batch: Any, annotations: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        return self.task.augment(*modalities.of_batch(batch).augment(batch, annotations))

    # -------------------------------------------------------------------- loading

    def load(self, contestant: Contestant) -> Loaded:
        """The contestant's encoder."""
        self.notify(Progress("load", 0, 1, "models", contestant.name))
        encoder = self.task.prepared(contestant.load(), self.target)
        loaded = Loaded(contestant, encoder, encoder.preprocess)
        if encoder.module is not None:
            loaded.optimiser = "sgd" if is_classic(encoder.module) else "adamw"
            loaded.layer_decay = is_modern(encoder.module)
        if self.task.optimiser is not None:
            loaded.optimiser = cast(Optimiser, self.task.optimiser)
        return loaded

    def reduce(self, loaded: Loaded, size: tuple[int, int]) -> bool:
        """Train this contestant at ``size``; False when its architecture does not allow it."""
        if size == loaded.size:
            return True
        if loaded.encoder.modality is Modality.TEXT:
            return False
        native = loaded.encoder.image_preprocess
        try:
            self.task.learner(loaded.encoder, self.target, size=size)
        except SourceError as error:
            log.info("%s keeps its resolution: %s", loaded.name, error)
            return False
        loaded.preprocess = native.overridden({"input_size": (native.input_size[0], *size)})
        loaded.reduced = size[0] * size[1] < native.input_size[1] * native.input_size[2]
        loaded.probe = loaded.start = None
        return True

    # -------------------------------------------------------------------- training

    def fresh(self, loaded: Loaded) -> nn.Module:
        """The contestant's learner with the linear probe, as every training starts."""
        return self._built(loaded, loaded.probe)

    def _built(self, loaded: Loaded, init: Probe | None = None) -> nn.Module:
        begun = self.now()
        size = loaded.size if loaded.reduced else None
        module = self.task.learner(loaded.encoder, self.target, init, size)
        loaded.build_seconds = self.now() - begun
        return module

    def settle_precision(self, loaded: Loaded) -> None:
        """Mixed precision or single, by a rule: on a CPU depthwise networks train in float32, all others in bfloat16
        where the device multiplies in it.

        Not by the clock: precision is part of the address of a training and of its figures, so that two runs of the
        same seed would differ by how busy the machine was.
        """
        on_cpu = torch.device(self.device).type == "cpu"
        module = loaded.encoder.module
        loaded.bf16 = self.bf16 and not (on_cpu and module is not None and is_depthwise(module))

    def remembered_costs(self, loaded: Loaded, strategy: str) -> dict[str, float] | None:
        """Seconds of a ``step`` and of a ``forward`` pass of an item, as an earlier training on this machine took them."""
        found = self.journal.read_json(self._costs_name(loaded, strategy))
        return None if found is None else {name: float(found[name]) for name in ("step", "forward")}

    def remember_costs(self, loaded: Loaded, strategy: str, step: float, forward: float) -> None:
        """Keep what a training took, so that the next call plans with it instead of measuring again."""
        self.journal.write_json(self._costs_name(loaded, strategy), {"step": step, "forward": forward})

    def _costs_name(self, loaded: Loaded, strategy: str) -> str:
        asked = {
            "encoder": loaded.encoder.identity,
            "preprocess": loaded.preprocess.to_dict(),
            "strategy": strategy,
            "batch_size": self.batch_size,
            "bf16": loaded.bf16,
            "machine": cpu_model()
            if torch.device(self.device).type == "cpu"
            else torch.cuda.get_device_name(self.device),
        }
        return f"costs-{self.journal.key(asked)}"

    def measure_step(self, loaded: Loaded, strategy: str, steps: int = 3) -> float:
        """Seconds of one step, from those after a first; the module is thrown away."""
        times: list[float] = []
        plan = strategies.registry.get(strategy)
        module = plan.wrap(self._built(loaded))
        train(
            module,
            plan.groups(parts_of(module, loaded.encoder.blocks), layer_decay=loaded.layer_decay),
            self.feed(loaded.preprocess, augment=self.augment),
            self.indices["train"],
            self._settings(loaded, Candidate(loaded.name, strategy, 1e-6, 0), steps),
            clock=self.now,
            on_step=lambda _: times.append(self.now()),
        )
        return (times[-1] - times[0]) / max(len(times) - 1, 1) if len(times) > 1 else math.inf

    def run(self, loaded: Loaded, candidate: Candidate, steps: int, deadline: float = math.inf) -> Record | None:
        """Train from the linear-probe initialisation for so many steps, in one cycle of the rate, and measure on val.

        Returns:
            The record, from the journal when it was trained before; None when the deadline came
            first. A diverged training and one that failed are records with that status.
        Raises:
            StoreError: the disk is full.
        """
        key = self.key(loaded, candidate, steps)
        record = self.journal.read(key)
        if record is not None:
            return record
        job = functools.partial(self._train, loaded, candidate, steps, key)
        outcome = next(LocalEngine().map(job, [deadline], fatal=(StoreError,)))
        if outcome.result is None:
            reason = outcome.failure.reason if outcome.failure else "no reason given"
            return Record({"status": "failed", "notes": [reason], "seconds": 0.0, "steps": 0})
        record, module = outcome.result
        if record is None:
            return None
        if record.status == "ok":
            self._save_weights(key, module)
        self.journal.write(key, record)
        self.journal.checkpoint(key).unlink(missing_ok=True)
        return record

    def key(self, loaded: Loaded, candidate: Candidate, steps: int) -> str:
        """The address of a training."""
        return self.journal.key(
            {
                **self.facts(loaded, loaded.preprocess, loaded.bf16),
                "strategy": candidate.strategy,
                "rate": candidate.rate,
                "seed": candidate.seed,
                "steps": steps,
                "batch_size": self.batch_size,
                "augment": self.augment,
                "optimiser": self.optimiser(loaded, candidate.strategy),
            }
        )

    def module_of(self, loaded: Loaded, candidate: Candidate, steps: int) -> nn.Module:
        """The trained module; trained again when its weights were not kept."""
        state = self._weights(loaded, candidate, steps)
        module = self.fresh(loaded)
        module.load_state_dict(state)
        return module.eval()

    def final_stats(
        self, loaded: Loaded, candidate: Candidate, steps: int, split: str, context: Mapping[str, Any]
    ) -> Stats:
        """Statistics of a trained candidate with what validation chose; worked out once, then from the journal."""
        key = self.journal.key({"of": self.key(loaded, candidate, steps), "split": split, "context": dict(context)})
        record = self.journal.read(key)
        if record is None or record.stats is None:
            stats = self.stats_of(loaded, self.module_of(loaded, candidate, steps), split, context)
            record = Record({"status": "ok"}, stats)
            self.journal.write(key, record)
        assert record.stats is not None
        return record.stats

    def _train(
        self,
        loaded: Loaded,
        candidate: Candidate,
        steps: int,
        key: str,
        deadline: float,
    ) -> tuple[Record | None, nn.Module]:
        strategy = strategies.registry.get(candidate.strategy)
        module = self.fresh(loaded)
        module = strategy.wrap(module)
        groups = strategy.groups(parts_of(module, loaded.encoder.blocks), layer_decay=loaded.layer_decay)
        settings = self._settings(loaded, candidate, steps)
        processor = time.process_time()
        fit = train(
            module,
            groups,
            self.feed(loaded.preprocess, augment=self.augment),
            self.indices["train"],
            settings,
            checkpoint=self.journal.checkpoint(key),
            deadline=deadline - self._evaluate_seconds(loaded),
            clock=self.now,
            on_step=lambda step: self.notify(
                Progress("train", step, steps, "steps", loaded.name, f"{candidate.strategy}, rate {candidate.rate:g}")
            ),
        )
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        module = strategy.unwrap(module)
        if fit.status == "stopped":
            return None, module
        begun = self.now()
        status, stats = fit.status, None
        if status == "ok":
            try:
                stats = self.stats_of(loaded, module, "val")
            except NotFinite:
                status = "diverged"
                fit.notes.append("outputs on the validation items are not finite")
        facts = {
            "status": status,
            "steps": fit.steps,
            "loss": fit.losses[-1] if fit.losses and math.isfinite(fit.losses[-1]) else None,
            "seconds": fit.seconds,
            "evaluate_seconds": self.now() - begun,
            "processor_seconds": time.process_time() - processor,  # other work on the machine does not count
            "notes": fit.notes,
            "precision": "bfloat16" if loaded.bf16 else "float32",
            "trained_parameters": trained,
            "memory_bytes": fit.memory_bytes,
        }
        return Record(facts, stats), module

    def optimiser(self, loaded: Loaded, strategy: str) -> Optimiser:
        """Which one a lane trains with."""
        own = strategies.registry.get(strategy).optimiser
        return loaded.optimiser if own is None else cast(Optimiser, own)

    def rates(self, loaded: Loaded, strategy: str) -> tuple[float, ...]:
        """The learning rates to try, by preference."""
        factor = strategies.registry.get(strategy).rate_factor
        return tuple(rate * factor for rate in RATES[self.optimiser(loaded, strategy)])

    def _settings(self, loaded: Loaded, candidate: Candidate, steps: int) -> Settings:
        optimiser = self.optimiser(loaded, candidate.strategy)
        return Settings(
            steps=steps,
            batch_size=self.batch_size,
            rate=candidate.rate,
            optimiser=optimiser,
            seed=candidate.seed,
            bf16=loaded.bf16,
            device=self.device,
            weight_decay=1e-4 if optimiser == "sgd" else 0.05,
        )

    def _evaluate_seconds(self, loaded: Loaded) -> float:
        """What one pass over the validation items takes, as far as it is known."""
        known = loaded.forward_seconds
        return 0.0 if math.isnan(known) else known * len(self.indices["val"])

    def _weights(self, loaded: Loaded, candidate: Candidate, steps: int) -> dict[str, torch.Tensor]:
        """Of a finished training; trained again when they were not kept or are damaged."""
        key = self.key(loaded, candidate, steps)
        path = self.journal.weights(key)
        if path.is_file():
            try:
                return load_file(path)
            except (OSError, SafetensorError) as error:
                log.warning("weights %s are damaged (%s); they are trained again", path, error)
        (self.journal.folder / f"{key}.npz").unlink(missing_ok=True)
        record = self.run(loaded, candidate, steps)
        if record is None or record.status != "ok":
            raise TrainingError(f"{loaded.name} {candidate.strategy} could not be trained again for its weights.")
        return load_file(path)

    def _save_weights(self, key: str, module: nn.Module) -> None:
        state = {name: value.detach().to("cpu").contiguous().clone() for name, value in module.state_dict().items()}
        save_weights(self.journal.weights(key), state)

    def normalise(self, preprocess: AnyPreprocess) -> Normalise:
        return lambda batch: ready(batch, preprocess, self.device)

    def facts(self, loaded: Loaded, preprocess: AnyPreprocess, bf16: bool | None = None) -> dict[str, Any]:
        return {
            "target": self.target.fingerprint,
            "task": self.task.address,
            "encoder": {**loaded.encoder.identity, **loaded.contestant.identity},
            "preprocess": preprocess.to_dict(),
            "device": torch.device(self.device).type,
            "bf16": self.bf16 if bf16 is None else bf16,
        }


def save_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """safetensors under a temporary name, then renamed.

    Raises:
        StoreError: the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        save_file(state, temporary, metadata)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"weights cannot be written to {path} ({error}); free some space and run the same command again: "
            "finished trainings are kept."
        ) from error
    finally:  # after an interrupt as well
        temporary.unlink(missing_ok=True)
