"""Load a saved model and use it on images or texts."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from selector import modalities
from selector.core.documents import checked, read_document
from selector.core.errors import BadImagesError, ConfigError, SelectorError, SourceError, first_line
from selector.core.prediction import Predictions
from selector.core.preprocess import AnyPreprocess
from selector.core.resources import is_out_of_memory
from selector.deploy import serializers
from selector.deploy.hub import from_library
from selector.deploy.save import CONFIG, READABLE, WEIGHTS
from selector.deploy.serializers._serializer import AGAIN
from selector.results import BEST, RUN_FILE, best_folder, load_ranking
from selector.sources._hub import snapshot, split_revision
from selector.zoo.trust import check_recipe_trusted

if TYPE_CHECKING:
    from torch import nn

    from selector.core.task import Task

HUB = "hf:"
FILES = (CONFIG, WEIGHTS, "*.json", "*.txt", "*.model")
"""What is fetched of a hub repository: configuration and weights, and files of a tokenizer; never programs."""

LEAST = 1e-6
"""Of a temperature: what is less divides outputs into what is no number."""


class _SavedConfig(BaseModel):
    """What decides predictions; further keys are facts for people."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    task: str
    source: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    recipe: dict[str, object]
    modality: Literal["image", "text", "rows"] = "image"
    preprocess: dict[str, Any]
    class_names: list[str]
    pairs: bool | None = None
    temperature: float | None = Field(default=None, ge=LEAST, le=1 / LEAST)
    context: dict[str, Any] | None = None

    @field_validator("context")
    @classmethod
    def _usable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, found in (value or {}).items():
            if not _finite(found):
                raise ValueError(f"'{name}' must hold finite numbers")
            number = isinstance(found, int | float) and not isinstance(found, bool)
            if name == "temperature" and not (number and LEAST <= found <= 1 / LEAST):
                raise ValueError(
                    f"'temperature' must be a number in the range [{LEAST:g}, {1 / LEAST:g}], got {found!r}"
                )
        return value


def read_config(path: Path, formats: tuple[int, ...]) -> dict[str, object]:
    """The configuration of a saved model, checked.

    Raises:
        FileNotFoundError, NotADirectoryError: there is none.
        ConfigError: it cannot be read; the message names the file and the field.
    """
    data = read_document(path, AGAIN)
    if data.get("format") not in formats:
        raise ConfigError(
            f"{path} has format {data.get('format')!r}, expected {max(formats)}; use the version that wrote it."
        )
    config = checked(_SavedConfig, data, path, AGAIN)
    if config.context is None and config.temperature is None:
        raise ConfigError(f"{path}: context: field required; {AGAIN}.")
    return {**data, "preprocess": serializers.of(config.modality).checked(config.preprocess, path)}


def _finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_finite(part) for part in value)
    return all(_finite(part) for part in value.values()) if isinstance(value, dict) else True


Images = Any
"""A path, a glob, a folder, bytes, a uint8 array or a Pillow image, or a sequence of them; or texts."""


class SavedModel:
    """A trained model with everything that it needs to read images.

    Attributes:
        config: ``config.json``.
        path: its folder.
        preprocess: how it reads an item, as trained.
        class_names: in the order of its outputs.
        task: what its outputs mean.
        context: what validation chose for it (a temperature, thresholds).
        pairs: whether it reads pairs of texts; None where its record does not say.
        module: the network (B, C, H, W), or tokens of B texts, -> logits (B, K), built on first use.
    """

    def __init__(self, path: Path, config: dict[str, Any], trust: bool) -> None:
        self.path = path
        self.config = config
        self._form = serializers.of(config.get("modality", "image"))
        self.preprocess: AnyPreprocess = self._form.read(path, config["preprocess"])
        self.pairs: bool | None = config.get("pairs")
        self.class_names: tuple[str, ...] = tuple(config["class_names"])
        # format 1 knew a temperature only
        known = config["context"] if "context" in config else {"temperature": config["temperature"]}
        self.context: dict[str, Any] = dict(known)
        self._trust = trust

    def __repr__(self) -> str:
        return f"SavedModel({self.config.get('name')}: {len(self.class_names)} classes, {self.path})"

    @cached_property
    def task(self) -> Task:
        """What its outputs mean."""
        from selector.tasks import registry

        return registry.get(self.config["task"]).of(self.class_names)

    @cached_property
    def module(self) -> nn.Module:
        """The network with its weights, in eval mode on the CPU.

        Raises:
            SourceError: it runs code that is not trusted, its library is missing, or the weights
                are damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from selector.sources import registry
        from selector.sources._bounded import bounded_by

        recipe, weights = self.config["recipe"], self.path / WEIGHTS
        check_recipe_trusted(self.config, self._trust, self.path)
        try:
            with bounded_by(weights, f"{self.path / CONFIG}: recipe"):
                module = self.task.rebuild(recipe, registry.get(self.config["source"]).build)
        except SelectorError:
            raise
        except Exception as error:
            # a recipe that was changed makes libraries raise whatever they raise on wrong settings
            raise SourceError(
                f"{self.path / CONFIG}: recipe: no model can be built from it ({type(error).__name__}: "
                f"{(str(error) or 'no reason given').splitlines()[0][:200]}); run 'selector confirm' again."
            ) from error
        try:
            module.load_state_dict(from_library(self.config["source"], load_file(weights)))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise SourceError(
                f"weights {weights} cannot be loaded ({str(error).splitlines()[0]}); save the model again with 'selector confirm'."
            ) from None
        return module.eval()

    def predict(
        self,
        images: Images,
        top: int | None = None,
        batch_size: int = 32,
        *,
        on_invalid: Literal["report", "raise"] = "report",
        device: str = "cpu",
        text_column: str | Sequence[str] | None = None,
        min_score: float | None = None,
    ) -> Predictions:
        """Labels and calibrated probabilities.

        Args:
            images: files, folders (searched for images), globs, arrays, Pillow images, or a
                sequence of these, or an open text file with one a line; for a model that reads texts see ``deploy.serializers.text``.
            top: how many leading classes to name an image; None for one.
            batch_size: images at a time; of texts at most, fewer of long ones.
            on_invalid: an image that cannot be read becomes a row with an error, or ends the call
                with all of them listed.
            text_column: of .csv, .tsv, .jsonl and .parquet files, the column of the texts, or the two of pairs.
            min_score: of a model that finds boxes, the score from which on they are returned; None for the one that
                validation chose.
        Raises:
            ConfigError: a path that does not exist, a glob or folder without images, single texts
                where pairs are read or the reverse, a bad number; names of classes, or what validation
                chose, that do not fit the outputs of the network.
            BadImagesError: images that cannot be read, with ``on_invalid="raise"``.
        """
        for name, value in (("top", 1 if top is None else top), ("batch_size", batch_size)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be an int in the range [1, inf). Got {value!r}.")
        columns = () if text_column is None else (text_column,) if isinstance(text_column, str) else tuple(text_column)
        context = self.context if min_score is None else {**self.context, "min_score": self._checked(min_score)}
        named = self._form.collect(images, self.preprocess, self.pairs, columns)
        items = [item for _, item in named]
        run = partial(self._run, device=device)
        outputs, reasons = self._form.outputs(run, items, self.preprocess, batch_size, device, self._condensed)
        with self._names_fit():
            found = self.task.predicted(named, outputs, reasons, self.class_names, context, top or 1)
        _raise_bad(found, self._form.noun(self.preprocess), on_invalid)
        return found

    def _checked(self, min_score: float) -> float:
        if "min_score" not in self.context:
            raise ConfigError(
                f"min_score is for models that find boxes; this one is for {self.task.name}. Leave it out."
            )
        if not 0 <= min_score <= 1:
            raise ConfigError(f"min_score must be a number in the range [0, 1]. Got {min_score}.")
        return float(min_score)

    def push(self, repo: str, *, private: bool = False, revision: str | None = None) -> str:
        """Upload the model with its card to the Hugging Face hub.

        Args:
            repo: ``org/name``; it is created where it is missing.
            private: of a new repository: whether only its owners see it.
            revision: branch; None for the main one.
        Returns:
            The address of the commit.
        Raises:
            ConfigError: a wrong name, no network, or no token that may write there.

        Example:
            selector.load_model("runs/photos").push("org/textiles")
            selector.load_model("hf:org/textiles").predict("new.jpg")
        """
        from selector.deploy.hub import push_model

        return push_model(self.path, repo, private=private, revision=revision)

    def logits(self, batch: np.ndarray, device: str = "cpu") -> np.ndarray:
        """Outputs (B, K) float32, not calibrated, of uint8 images (B, H, W, 3) of the model's size."""
        ready = modalities.of(self.preprocess).ready(batch, self.preprocess, device)
        result: np.ndarray = self._run(ready, device)
        return result

    def _run(self, batch: Any, device: str) -> Any:
        """Outputs of a batch that is ready, as the task takes them."""
        import torch

        module = self.module.to(device)
        try:
            with torch.inference_mode():
                found = self.task.output(module, batch.to(device))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise SourceError(
                f"{self.path}: the model does not run on items as {CONFIG} prepares them: {first_line(error)}"
            ) from error
        if isinstance(found, np.ndarray) and found.dtype.kind == "f" and not np.isfinite(found).all():
            raise SourceError(f"{self.path}: outputs of the model are not finite; its weights or {CONFIG} are damaged.")
        # a task without names (a single value) numbers its outputs itself
        if isinstance(found, np.ndarray) and self.class_names and found.shape[1] != len(self.class_names):
            raise ConfigError(
                f"{self.path / CONFIG}: class_names: the model has {found.shape[1]} outputs, found "
                f"{len(self.class_names)} name(s); {AGAIN}."
            )
        return found

    def _condensed(self, output: object, item: object) -> object:
        with self._names_fit():
            return self.task.condensed(output, item, self.class_names, self.context)

    @contextlib.contextmanager
    def _names_fit(self) -> Iterator[None]:
        try:
            yield
        except (IndexError, KeyError, TypeError, ValueError) as error:
            # names that are gone, thresholds of other labels: what a task needs of them is its own matter
            raise ConfigError(
                f"{self.path / CONFIG}: class_names or context do not fit the outputs of the model "
                f"({type(error).__name__}: {error}); {AGAIN}."
            ) from error


def _raise_bad(found: Predictions, noun: str, on_invalid: str) -> None:
    bad = [(row.item, row.error) for row in found if row.error is not None]
    if bad and on_invalid == "raise":
        listed = "; ".join(f"{name} {reason}" for name, reason in bad[:10])
        raise BadImagesError(f"{len(bad)} of {len(found)} {noun}(s) cannot be read: {listed}.", bad)


def load_model(path: str | os.PathLike[str], *, trust: bool = False) -> SavedModel:
    """Read a saved model; its network is built when it is first used.

    Args:
        path: its folder (``RUN/best``), or the run's folder; or a repository of the Hugging Face hub, as ``selector push``
            makes it: ``hf:org/name`` or ``hf:org/name@revision``.
        trust: let a model run the python code that its ``config.json`` names. The networks of
            this package (``selector.zoo.trust.OWN_FACTORIES``) need no trust.
    Raises:
        ConfigError: there is no saved model, or it was written by a newer version.
        WeightsMissing: the repository is not on this machine and the hub does not give it.
    """
    address = str(path)
    if address.startswith(HUB):
        repo, revision = split_revision(address.removeprefix(HUB))
        return load_model(snapshot(repo, FILES, revision, address), trust=trust)
    folder = Path(path)
    if (folder / RUN_FILE).is_file():
        _check_own(folder)
    if not (folder / CONFIG).is_file() and (folder / BEST / CONFIG).is_file():
        folder = folder / BEST
    try:
        config = read_config(folder / CONFIG, READABLE)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{folder} holds no saved model (no {CONFIG}); give the folder 'best' of a run that was confirmed."
        ) from None
    return SavedModel(folder, config, trust)


def _check_own(run: Path) -> None:
    """A run is used through its own best model.

    Raises:
        ConfigError: it was not confirmed, or the model in its folder is another run's.
    """
    try:
        ranking = load_ranking(run)
    except ConfigError:
        return  # the model can be used all the same
    if best_folder(ranking) is not None:
        return
    there = (
        f"{run / BEST} is another run's; give that folder to use it all the same, or"
        if (run / BEST).is_dir()
        else "so it holds no model yet;"
    )
    raise ConfigError(f"{run} is a run without its own confirmation, {there} run: selector confirm {run}")
