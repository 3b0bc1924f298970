"""How much do a few images say of bfloat16? Cosine and nearest neighbours on 16 and 32 photos against those on 128.

    SELECTOR_ASSETS=... python -m benchmarks.bench_few_images [--models GLOBS] [--quick]

Every network runs once in eager torch in float32 and once in OpenVINO in bfloat16 over 128 photos; ``results/few_images.csv``
has, by network and number of images, the agreement of the two as ``extract.backend_choice`` measures it: the mean over the parts
that the photos are cut into, and the lowest and highest cosine among them. A short scan decides on 16 images.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.bench_extract import RESULTS, chosen_models, lay_out
from benchmarks.rows import write_rows
from selector import sources
from selector.core.system import versions
from selector.data import load_target
from selector.extract.backend_choice import JUDGED_ON, agreement
from selector.extract.backends import open_backend
from selector.modalities.pixels.prepared import open_pixels_many

BATCH, COUNTS = 16, (16, 32, JUDGED_ON)
WAYS = (("eager", "float32"), ("openvino", "bfloat16"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two networks: does it run?")
    parser.add_argument("--models", default=None, help="globs on names, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "few_images.csv")
    args = parser.parse_args(argv)
    models, rows = chosen_models(args.models), []
    facts = versions()
    with tempfile.TemporaryDirectory() as folder:
        target = load_target(lay_out(Path(folder) / "photos", JUDGED_ON, 1, args.seed)[0])
        for spec in models[:2] if args.quick else models:
            encoder = sources.registry.get(spec.source_name).load(spec)
            items = (target.items, target.hashes, target.names)
            opened, _ = open_pixels_many(*items, [encoder.preprocess], folder=Path(folder) / "pixels")
            (pixels,) = opened.values()
            order = np.random.default_rng(args.seed).permutation(len(target))  # the folder has a class after the other
            found = []
            for backend, precision in WAYS:
                run = open_backend(backend, encoder, "cpu", precision, BATCH, None)
                parts = [run.start(pixels.batch(order[i : i + BATCH]))() for i in range(0, JUDGED_ON, BATCH)]
                found.append(np.concatenate(parts))
            for count in COUNTS:
                each = [agreement(*(rows_[i : i + count] for rows_ in found)) for i in range(0, JUDGED_ON, count)]
                cosines = [near.cosine for near in each]
                rows.append(
                    {
                        "model": spec.name, "images": count, "cosine": f"{np.mean(cosines):.5f}",
                        "cosine_low": f"{min(cosines):.5f}", "cosine_high": f"{max(cosines):.5f}",
                        "neighbours": f"{np.mean([near.neighbours for near in each]):.3f}", "processor": facts["cpu"],
                        "torch": facts["torch"], "openvino": facts.get("openvino", ""),
                    }
                )  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
            write_rows(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
