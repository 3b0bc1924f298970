"""Estimators of scikit-learn, by its own checks and in what its users build of them."""

import copy
import gc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris, make_classification, make_multilabel_classification, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import selector
from selector.core.errors import BadImagesError, OptionError
from tests.conftest import draw
from tests.support.text_models import text_model

TINY = selector.Model("timm:test_resnet", name="tiny", weights="none")
QUICK: dict[str, Any] = {"intervals": False, "proxies": "knn"}
FEW_ROWS = "ten values leave one row for the fit of a head that validation chooses"
TOO_FEW = dict.fromkeys(
    ("check_estimators_nan_inf", "check_regressors_no_decision_function", "check_fit2d_1feature"), FEW_ROWS
)

BY_BATCH = {
    "check_methods_subset_invariance": "heads are single precision: on some processors a row alone differs by 1e-6"
}


def pictures(count: int = 36, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) with stripes by class, and their labels."""
    labels = np.arange(count) % 3
    return np.stack([np.asarray(draw(int(label), i, size)) for i, label in enumerate(labels)]), labels


@pytest.fixture
def quick(tmp_path: Path) -> selector.ModelSelector:
    return selector.ModelSelector(store=tmp_path / "store", random_state=0, options=QUICK)


def test_classifier_passes_the_checks_of_scikit_learn(quick: selector.ModelSelector) -> None:
    found = check_estimator(quick, on_fail=None, expected_failed_checks=BY_BATCH)
    assert [one["check_name"] for one in found if one["status"] == "failed"] == []


def test_a_row_alone_is_predicted_as_in_a_batch(quick: selector.ModelSelector) -> None:
    rows, labels = load_iris(return_X_y=True)
    fitted = quick.fit(rows, labels)
    alone = np.concatenate([fitted.predict_proba(row[None]) for row in rows[::10]])
    np.testing.assert_allclose(alone, fitted.predict_proba(rows)[::10], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_regressor_passes_the_checks_of_scikit_learn(quick: selector.ModelSelector) -> None:
    regressor = quick.set_params(task="regression", options={"intervals": False})
    found = check_estimator(regressor, on_fail=None, expected_failed_checks=TOO_FEW)
    assert [one["check_name"] for one in found if one["status"] == "failed"] == []


@pytest.mark.filterwarnings("ignore:Can't test estimator")
def test_extractor_passes_the_checks_of_scikit_learn() -> None:
    assert all(
        found["status"] == "passed" for found in check_estimator(selector.FeatureExtractor("tiny"), on_fail=None)
    )


def test_parameters_and_clones(quick: selector.ModelSelector) -> None:
    quick.set_params(budget="1m", models="*lite*")
    again = clone(quick)
    assert again is not quick
    assert again.get_params() == quick.get_params()
    assert is_classifier(quick)
    assert is_regressor(quick.set_params(task="regression"))
    assert not hasattr(quick, "predict_proba")
    with pytest.raises(NotFittedError):
        again.predict(np.zeros((2, 4)))


def test_a_pickle_holds_the_model_and_no_data(quick: selector.ModelSelector, tmp_path: Path) -> None:
    rows, kinds = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[kinds]
    quick.fit(rows, names)
    assert quick.score(rows, names) > 0.9
    assert quick.ranking_.to_dataframe().iloc[0]["rank"] == 1
    joblib.dump(quick, tmp_path / "model.joblib")
    folder = quick.best_model_.path
    expected = quick.predict_proba(rows)
    twin = copy.deepcopy(quick)
    del quick
    assert twin.best_model_.path != folder
    loaded = joblib.load(tmp_path / "model.joblib")
    assert (loaded.ranking_.loaded_target, loaded.predict_proba(rows)) == (None, pytest.approx(expected))
    assert set(loaded.predict(rows)) == set(loaded.classes_) == set(names)
    assert expected.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_folder_goes_with_the_estimator(quick: selector.ModelSelector, tmp_path: Path) -> None:
    rows, labels = load_iris(return_X_y=True)
    own = clone(quick).fit(rows, labels)
    folder = own.best_model_.path
    assert folder.is_dir()
    kept = clone(quick).set_params(out=tmp_path / "run").fit(rows, labels).best_model_.path
    del own
    gc.collect()
    assert not folder.exists()
    assert kept == tmp_path / "run" / "best"
    assert kept.is_dir()


def test_numbers_as_labels_keep_their_order(quick: selector.ModelSelector) -> None:
    rows, labels = make_classification(240, n_informative=6, n_classes=4, n_clusters_per_class=1, random_state=0)
    fitted = quick.fit(rows, 5 * labels)  # as text 10 comes before 5
    assert fitted.classes_.tolist() == [0, 5, 10, 15]
    assert fitted.score(rows, 5 * labels) > 0.6
    assert (fitted.classes_[fitted.predict_proba(rows).argmax(axis=1)] == fitted.predict(rows)).all()


def test_several_labels_and_values(quick: selector.ModelSelector) -> None:
    rows, several = make_multilabel_classification(120, n_features=12, n_classes=3, random_state=0)
    found = clone(quick).set_params(task="multilabel", options={"intervals": False}).fit(rows, several)
    assert found.predict(rows).shape == several.shape
    assert set(np.unique(found.predict(rows))) <= {0, 1}
    assert found.score(rows, several) > 0.3
    assert found.predict_proba(rows).shape == several.shape
    points, values = make_regression(120, n_features=6, n_targets=2, noise=1.0, random_state=0)
    for target in (values, values[:, 0]):
        fitted = clone(quick).set_params(task="regression", options={"intervals": False}).fit(points, target)
        assert fitted.predict(points).shape == target.shape
        assert fitted.score(points, target) > 0.9


def test_images_from_a_network_to_labels(quick: selector.ModelSelector, tmp_path: Path) -> None:
    images, labels = pictures()
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file)
    quick.set_params(models=[TINY], strategies="frozen", options={**QUICK, "pilot_cost": 0.0, "measure_cost": "never"})
    arrays = clone(quick).fit(images, labels)
    assert (arrays.ranking_.best.name, arrays.predict(images[:5]).shape) == ("tiny", (5,))
    paths = clone(quick).fit([str(file) for file in files], labels)
    assert paths.predict_proba(files) == pytest.approx(arrays.predict_proba(images), abs=1e-3)
    files[1].write_bytes(b"no image")
    with pytest.raises(BadImagesError) as caught:
        paths.predict(files[:3])
    assert len(caught.value.bad) == 1


def test_texts_are_never_names_of_files(quick: selector.ModelSelector, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    texts = [f"{word} {i}" for i in range(30) for word in ("good film", "bad match")]
    labels = ["film", "match"] * 30
    zoo = [{"name": "bert", "source": f"transformers:{text_model(tmp_path / 'bert')}"}]
    quick.set_params(zoo=zoo, strategies="frozen", options={**QUICK, "pilot_cost": 0.0, "measure_cost": "never"})
    fitted = quick.fit(np.array(texts, object).reshape(-1, 1), labels)
    assert fitted.predict(["notes.txt", "good film"]).shape == (2,)


def test_features_in_a_pipeline_and_across_folds(tmp_path: Path) -> None:
    images, labels = pictures()
    extractor = selector.FeatureExtractor(TINY, store=tmp_path / "store")
    pipeline = make_pipeline(extractor, LogisticRegression(max_iter=200))
    scores = cross_val_score(pipeline, images, labels, cv=3, error_score="raise")
    assert scores.mean() > 1 / 3
    rows = extractor.fit_transform(images)
    assert rows.dtype == np.float32
    assert list(extractor.get_feature_names_out())[:2] == ["featureextractor0", "featureextractor1"]
    twice = extractor.transform([images[3], images[0], images[3]])
    assert np.array_equal(twice, rows[[3, 0, 3]])
    framed = clone(extractor).set_output(transform="pandas").fit_transform(images[:4])
    assert framed.shape == (4, rows.shape[1])
    fitted = pipeline.fit(images, labels)
    joblib.dump(fitted, tmp_path / "pipeline.joblib")
    assert (joblib.load(tmp_path / "pipeline.joblib").predict(images) == fitted.predict(images)).all()


def test_rows_come_from_the_store_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = pictures(6)
    extractor = selector.FeatureExtractor(TINY, store=tmp_path / "store").fit(images)
    monkeypatch.setattr("selector.extract.workspace.Workspace.load", lambda *_: pytest.fail("a network was loaded"))
    assert extractor.transform(images).shape[0] == 6


@pytest.mark.parametrize("model", [None, "timm:test_*"])
def test_an_extractor_has_one_model(model: str | None, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        selector.FeatureExtractor(model, store=tmp_path).transform(pictures(3)[0])
    assert caught.value.names == ("model",)


def test_errors_name_the_parameter(quick: selector.ModelSelector) -> None:
    rows, labels = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="'task' parameter"):
        clone(quick).set_params(task="ranking").fit(rows, labels)
    with pytest.raises(OptionError) as caught:
        clone(quick).set_params(options={"seed": 1}).fit(rows, labels)
    assert caught.value.names == ("options",)
    with pytest.raises(ValueError, match="0 and 1"):
        clone(quick).set_params(task="multilabel").fit(rows, 2 * np.ones((150, 2)))
