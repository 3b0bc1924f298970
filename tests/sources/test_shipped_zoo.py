"""Every model of the shipped zoo, built without its weights, one process after another."""

import json
import subprocess
import sys

import pytest

from selector.zoo import load_zoo

MODELS = [model for model in load_zoo().models if model.reads == "image"]
MEMORY_GB = 4.0

CHECK = """
import json, resource, sys, torch
from selector.sources import registry
from selector.zoo import ModelSpec
torch.set_num_threads(2)
model = ModelSpec.model_validate_json(sys.argv[1])
encoder = registry.get(model.source_name).load(model)
batch = torch.randn((2, *encoder.preprocess.input_size), generator=torch.Generator().manual_seed(1))
with torch.inference_mode():
    features = encoder.encode(batch)
names = dict(encoder.module.named_modules())
print(json.dumps({
    "shape": list(features.shape),
    "finite": bool(torch.isfinite(features).all()),
    "width": encoder.num_features,
    "params": encoder.num_parameters,
    "blocks": len(encoder.blocks),
    "known": all(name in names for name in encoder.blocks),
    "head": encoder.recipe(3)["head"],
    "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [model.name for model in MODELS])
def test_every_entry_builds_without_its_weights(name: str) -> None:
    (model,) = (m for m in MODELS if m.name == name)
    frozen = model.model_copy(update={"weights": "none"}).model_dump_json()
    done = subprocess.run([sys.executable, "-c", CHECK, frozen], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["finite"]
    assert found["shape"] == [2, found["width"]]
    assert found["params"] == model.params
    assert found["blocks"] >= 3
    assert found["known"]
    assert found["head"] in ("native", "added")
    assert found["peak_gb"] < MEMORY_GB
