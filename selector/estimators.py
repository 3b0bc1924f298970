"""Estimators of scikit-learn: ``ModelSelector`` finds and trains a model, ``FeatureExtractor`` reads items into features.

Both follow scikit-learn's conventions (``get_params``, ``clone``, ``Pipeline``, ``cross_val_score``, ``joblib.dump``). The
options of ``selector.rank`` that matter most are parameters; all others go into ``options``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    assert_all_finite,
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from selector import api
from selector.config import ScanConfig, StoreLike, ZooLike
from selector.core.errors import OptionError, TrainingError
from selector.core.prediction import Predictions
from selector.data._memory import STRINGS
from selector.data.domains import load_items
from selector.data.readers.arrays import kind_of
from selector.deploy import load_model
from selector.deploy.serializers.text import LiteralText
from selector.extract.job import ExtractSettings
from selector.results import best_folder
from selector.scan.checks import open_store
from selector.scan.dataset_view import offline_hub
from selector.scan.extraction import Extraction
from selector.scan.selection import choose_models
from selector.tasks._read_labels import is_gap
from selector.zoo import ModelSpec
from selector.zoo.spec import at_place

__all__ = ["FeatureExtractor", "ModelSelector"]

TASKS = ("classification", "multilabel", "regression")


OWN = ("models", "budget", "zoo", "top_k", "strategies", "metric", "device", "store")
"""Parameters of ``ModelSelector`` that are options of ``rank`` under the same name."""
TAKEN = ("task", "out", "confirm", "seed")
"""Options of ``rank`` that ``ModelSelector`` decides itself."""


def _has_probabilities(estimator: ModelSelector) -> bool:
    return estimator.task != "regression"


def items_of(estimator: BaseEstimator, X: Any, *, reset: bool = True) -> Any:
    """Items as a list, a single column of them as well; whatever is no image or text as ready features float32 (N, D).

    Raises:
        ValueError: features that are no finite numbers (N, D), or of another width than in ``fit``.
    """
    items = X
    if hasattr(items, "columns"):  # a DataFrame
        items = items.to_numpy()
    if isinstance(items, np.ndarray) and items.dtype.kind in STRINGS and items.ndim == 2 and items.shape[1] == 1:
        items = items[:, 0]
    if kind_of(items, None) in ("images", "paths", "texts"):
        return items
    return validate_data(estimator, X, dtype=np.float32, reset=reset, ensure_min_samples=2 if reset else 1)


class ModelSelector(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Rank pretrained models on the training items, fine-tune the best few, and predict with the best one.

    Args:
        models: names or patterns of models, ``source:model``, torch modules, or a list of them; None for the whole zoo.
            Ready features (float (N, D)) need none: heads are fitted on them.
        budget: time for ``fit``, such as "90s" or "20m"; None for 20 minutes of fine-tuning.
        task: "classification" (y (N,) of any labels), "multilabel" (y (N, L) of 0 and 1) or "regression" (y (N,) or
            (N, T) floats). scikit-learn has to know it before ``fit``.
        zoo: zoo file, ``Zoo``, list or mapping of models; None for the shipped zoo.
        top_k: number of models to fine-tune; None to choose it automatically.
        strategies: "frozen", "partial", "full", "lora", comma-separated or a list; None for frozen and full.
        metric: that decides between fine-tuned models; None for the task's own.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        store: folder or URL of the feature store. Folds of a cross-validation share it, so each item is read once.
        random_state: int, ``RandomState`` or None; seed of splits, subsamples and training.
        out: run folder with the report; None keeps the run in a temporary folder as long as the estimator lives.
        options: further keywords of ``selector.rank`` as a dict, such as ``{"offline": True, "trust_zoo": True}``.
    Attributes:
        ranking_: the ``Ranking``; ``ranking_.to_dataframe()`` has a row per model, like ``cv_results_``.
        best_model_: the ``SavedModel`` that predicts.
        classes_: (C,) labels in the order of ``predict_proba``; of several labels their numbers; not of regressions.
        n_features_in_: D, of ready features only.

    ``fit`` takes images (arrays, Pillow images, paths), texts, pairs of texts, or ready features (N, D). 15% of the items
    choose rate, strategy and model, and 15% measure the selected one (``ranking_.best``).

    >>> from sklearn.datasets import load_iris
    >>> flowers, kinds = load_iris(return_X_y=True)
    >>> fitted = ModelSelector(random_state=0).fit(flowers, kinds)
    >>> fitted.score(flowers, kinds) > 0.9
    True
    """

    def __init__(
        self,
        models: str | Sequence[object] | None = None,
        *,
        budget: str | float | None = None,
        task: str = "classification",
        zoo: ZooLike | None = None,
        top_k: int | None = None,
        strategies: str | Sequence[str] | None = None,
        metric: str | None = None,
        device: str = "auto",
        store: StoreLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        out: str | os.PathLike[str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.models = models
        self.budget = budget
        self.task = task
        self.zoo = zoo
        self.top_k = top_k
        self.strategies = strategies
        self.metric = metric
        self.device = device
        self.store = store
        self.random_state = random_state
        self.out = out
        self.options = options

    def fit(self, X: object, y: object) -> Self:
        """Rank, fine-tune and keep the best model.

        Args:
            X: N items.
            y: N labels, see ``task``.
        Raises:
            ValueError: other shapes, NaN, or labels that do not suit the task.
            ConfigError: a wrong option, or a class with too few items for its splits.
            TrainingError: no model could be trained, as with a dozen items.
        """
        if self.task not in TASKS:
            raise ValueError(
                f"The 'task' parameter of ModelSelector must be one of {', '.join(TASKS)}. Got {self.task!r}."
            )
        more = dict(self.options or {})
        if taken := [name for name in more if name in (*OWN, *TAKEN)]:
            raise OptionError(f"options must not hold {', '.join(taken)}, which ModelSelector sets itself.", "options")
        items = items_of(self, X)
        labels = self._labels(y, items)
        given = {name: value for name in OWN if (value := getattr(self, name)) is not None}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        own = self.out is None
        folder = Path(tempfile.mkdtemp(prefix="selector-") if self.out is None else self.out)
        try:
            ranking = api.rank(
                (items, labels), confirm=True, task=self.task, seed=int(seed), out=folder, **given, **more
            )
            if best_folder(ranking) is None:
                raise TrainingError(f"no model could be trained: {'; '.join(ranking.warnings) or 'see ranking_'}")
            self._hold(folder, temporary=own)
        except BaseException:
            if own:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        self.ranking_ = replace(ranking, loaded_target=None)  # a pickle holds the model, not the data
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels (N,) of classes, 0 and 1 (N, L) of several labels, or values (N,) and (N, T).

        Raises:
            BadImagesError: items that cannot be read; all are listed.
        """
        found = self._predictions(X)
        if self.task == "classification":
            predicted: np.ndarray = self.classes_[np.argmax(self._ordered(found), axis=1)]
            return predicted
        if self.task == "multilabel":
            return np.array([[name in chosen for name in self._names] for chosen in found.labels]).astype(int)
        if not isinstance(found.values[0], Mapping):
            return np.array(found.values)
        names = found.class_names or [name for name in found.values[0] if not name.endswith(("_low", "_high"))]
        return np.array([[value[name] for name in names] for value in found.values])

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: object) -> np.ndarray:
        """Calibrated probabilities (N, C) in the order of ``classes_``."""
        return self._ordered(self._predictions(X))

    def score(self, X: object, y: object, sample_weight: object = None) -> float:
        """Accuracy of classes, share of items with exactly the right labels, or R² of values."""
        measure = r2_score if self.task == "regression" else accuracy_score
        return float(measure(y, self.predict(X), sample_weight=sample_weight))

    # ---------------------------------------------------------------- data

    def _labels(self, y: Any, items: object) -> Any:
        """Labels as ``load_target`` reads them; ``classes_`` and their names."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: ModelSelector learns from labels.")
        check_consistent_length(items, y)
        if self.task == "regression":
            values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
            return column_or_1d(values, warn=True) if values.ndim == 2 and values.shape[1] == 1 else values
        if self.task == "multilabel":
            array = check_array(y, input_name="y")
            if not np.isin(array, (0, 1)).all():
                raise ValueError("task='multilabel' expects y (N, L) of 0 and 1; it holds other values.")
            self.classes_ = np.arange(array.shape[1])
            self._names = [str(label) for label in self.classes_]
            return array.astype(int)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"Classifier can't train when only one class is present: y holds {self.classes_[0]!r} alone."
            )
        self._names = [str(label) for label in self.classes_]
        if len(set(self._names)) < len(self._names) or any(is_gap(name) for name in self._names):
            self._names = [f"class {code}" for code in range(len(self._names))]
        return [self._names[code] for code in codes]

    def _predictions(self, X: object) -> Predictions:
        check_is_fitted(self, "best_model_")
        items = items_of(self, X, reset=False)
        if kind_of(items, None) == "texts":  # data are never names of files
            items = [LiteralText(text) if isinstance(text, str) else text for text in items]
        device = "cpu" if self.device == "auto" else self.device
        return self.best_model_.predict(items, on_invalid="raise", device=device)

    def _ordered(self, found: Predictions) -> np.ndarray:
        return found.probabilities[:, [found.class_names.index(name) for name in self._names]]

    # ---------------------------------------------------------------- the model's files

    def _hold(self, folder: Path, *, temporary: bool) -> None:
        """Predict with the model of a run folder, which goes with this object if it is ``temporary``."""
        trust = bool((self.options or {}).get("trust_zoo"))
        self.best_model_ = load_model(folder, trust=trust)
        _ = self.best_model_.module  # predicting changes nothing of a fitted estimator
        if temporary:
            weakref.finalize(self.best_model_, shutil.rmtree, folder, ignore_errors=True)

    def __getstate__(self) -> dict[str, object]:
        state = dict(super().__getstate__())
        if (model := state.pop("best_model_", None)) is not None:
            state["_files"] = {path.name: path.read_bytes() for path in sorted(model.path.iterdir()) if path.is_file()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.pop("_files", None)
        super().__setstate__(state)
        if files is not None:
            folder = Path(tempfile.mkdtemp(prefix="selector-"))
            for name, content in files.items():
                (folder / Path(name).name).write_bytes(content)
            self._hold(folder, temporary=True)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.input_tags.string = True
        if self.task == "regression":
            tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        else:
            tags.estimator_type, tags.classifier_tags = (
                "classifier",
                ClassifierTags(multi_label=self.task == "multilabel"),
            )
            tags.target_tags.multi_output = self.task == "multilabel"
        return tags


class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn images or texts into the features of a pretrained model: a transformer for pipelines.

    Rows are kept in the feature store, so an item is read once whatever the fold, the classifier or the run.

    Args:
        model: name of the zoo, ``source:model``, ``selector.Model`` or torch module.
        layer: where features are read; None for the end of the model.
        pooling: how they are pooled; None for the model's own way.
        zoo: zoo file, ``Zoo``, list or mapping of models in which ``model`` is a name; None for the shipped zoo.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        store: folder or URL of the feature store; None for the user's own.
        precision: "auto", "float32" or "bfloat16".
        backend: "auto", "eager", "compile" or "openvino".
        offline: use only weights on this machine.
        trust_zoo: let "python:" entries run their code.

    There is nothing to fit: ``fit`` extracts the items, so that ``transform`` finds them in the store.

    Example:
        Pipeline([("features", FeatureExtractor("timm:resnet18.a1_in1k")), ("classifier", LogisticRegression())])
    """

    def __init__(
        self,
        model: object = None,
        *,
        layer: str | None = None,
        pooling: str | None = None,
        zoo: ZooLike | None = None,
        device: str = "auto",
        store: StoreLike | None = None,
        precision: str = "auto",
        backend: str = "auto",
        offline: bool = False,
        trust_zoo: bool = False,
    ) -> None:
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.zoo = zoo
        self.device = device
        self.store = store
        self.precision = precision
        self.backend = backend
        self.offline = offline
        self.trust_zoo = trust_zoo

    def fit(self, X: object, y: object = None) -> Self:
        """Extract the items into the store.

        Args:
            X: N items.
            y: ignored.
        Raises:
            ConfigError: as ``transform``.
        """
        self.transform(X)
        return self

    def fit_transform(self, X: object, y: object = None, **fit_params: object) -> np.ndarray:
        """``transform``: there is nothing to fit."""
        return self.transform(X)

    def transform(self, X: object) -> np.ndarray:
        """Features float32 (N, D) of N items, a row per item in their order.

        Raises:
            OptionError: ``model`` names no model, or several.
            BadImagesError: items that cannot be read; all are listed.
            SourceError: the model cannot be loaded or run.
        Cost: one forward pass per item the first time, none afterwards.
        """
        target = load_items(items_of(self, X))
        options = ScanConfig.of(
            device=self.device, precision=self.precision, backend=self.backend, offline=self.offline
        )
        with offline_hub(options.offline):
            settings = ExtractSettings(options.device, options.precision, options.backend, self.trust_zoo)
            extraction = Extraction(target, open_store(self.store), settings)
            rows = extraction.features(self._spec(target.modality), np.arange(len(target)))
        self._n_features_out = rows.shape[1]
        return rows

    def _spec(self, modality: str) -> ModelSpec:
        if self.model is None:
            raise OptionError("model must name a model, such as 'timm:resnet18.a1_in1k'. Got None.", "model")
        specs, _ = choose_models(self.zoo, [self.model], trust_zoo=self.trust_zoo, modality=modality)
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs[:5])
            raise OptionError(f"model must name one model. {self.model!r} names {len(specs)}: {names}.", "model")
        (spec,) = specs
        return at_place(spec, self.layer or spec.layer, self.pooling or spec.pooling)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = InputTags(two_d_array=False, three_d_array=True, string=True)
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
