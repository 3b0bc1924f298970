"""What timm publishes of its weights: a table in the package, known before anything is fetched."""

import csv
from pathlib import Path

import pytest

import selector
from benchmarks.timm_facts import joined
from selector.ranking.prior import pretraining_images
from selector.scan.past import facts_of
from selector.scan.selection import choose_models
from selector.sources import _hub
from selector.zoo import ModelSpec
from selector.zoo.timm_facts import timm_facts, with_facts


def test_facts_of_a_model_are_those_that_are_published():
    spec = ModelSpec(source="timm:convnextv2_large.fcmae_ft_in22k_in1k")
    found = timm_facts(spec)
    assert found is not None
    assert (found.img_size, found.imagenet, found.parameters) == (224, 87.266, 197_960_000)
    assert found.operations == pytest.approx(34.40e9)
    filled = with_facts(spec)
    assert (filled.params, filled.upstream_accuracy) == (found.parameters, 87.266)
    stated = with_facts(spec.model_copy(update={"upstream_accuracy": 12.0}))
    assert stated.upstream_accuracy == 12.0  # what the zoo says wins
    known = facts_of(filled, {})
    assert known.flops == found.operations
    assert known.pretraining_images == pretraining_images("fcmae_ft_in22k_in1k")
    assert timm_facts(ModelSpec(source="timm:resnet50.a1_in1k", weights="none")) is None
    assert timm_facts(ModelSpec(source="torchvision:resnet50.IMAGENET1K_V1")) is None


def test_a_wildcard_lists_all_of_timm_without_a_zoo_file_and_limits_know_its_sizes(photos, tmp_path):
    chosen, _ = choose_models(None, "timm:*")
    assert len(chosen) > 1000
    sources = [spec.source for spec in chosen if spec.weights is None]
    assert len(set(sources)) == len(sources)  # what the shipped zoo names is not listed twice
    named = [ModelSpec(name="mine", source="timm:resnet50.a1_in1k"), ModelSpec(source="timm:resnet18.a1_in1k")]
    assert [spec.name for spec in choose_models(named, "timm:*")[0]] == ["mine", "timm:resnet18.a1_in1k"]
    plan = selector.plan(photos, models="timm:*", max_params="10M", store=tmp_path / "s", offline=True)
    assert sum("more than 10.0M" in model["note"] for model in plan.models) > 800


def test_a_plan_of_many_models_asks_the_hub_for_none(photos, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def asked(*args: object, **kwargs: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(_hub, "find", asked)
    plan = selector.plan(photos, models="timm:*", store=tmp_path / "s")
    assert len(plan.models) > 1000
    assert plan.fetch_bytes > 1e11
    with pytest.raises(AssertionError, match="the hub was asked"):  # a few are looked up one by one
        selector.plan(photos, models="timm:resnet18.a1_in1k", store=tmp_path / "s")


def test_the_table_is_what_its_script_makes(tmp_path):
    rows = {"a.x": [(224, 80.0), (288, 81.0)], "b.y": [(240, 70.0)]}
    with (tmp_path / "results-imagenet.csv").open("w") as out:
        out.write("model,img_size,top1,param_count\n")
        for model, sizes in rows.items():
            out.writelines(f'{model},{size},{top1},"1,{size}.5"\n' for size, top1 in sizes)
    costs = "model,infer_img_size,infer_gmacs\na,224,4.1\na,288,6.8\nb,224,1.0\n"
    (tmp_path / "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv").write_text(costs)
    made = joined(tmp_path).set_index("model")
    facts = {"img_size": 224, "imagenet_top1": 80.0, "params_millions": 1224.5, "gmacs": 4.1}
    assert made.loc["a.x"].to_dict() == facts
    assert made.loc["b.y", "gmacs"] != made.loc["b.y", "gmacs"]  # measured at another size only
    shipped = Path(selector.__file__).parent / "zoo" / "timm_facts.csv"
    with shipped.open() as file:
        assert csv.DictReader(file).fieldnames == ["model", *made.columns]
