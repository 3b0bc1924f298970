"""Makes selector/zoo/timm_facts.csv: what timm publishes of its weights, by name.

    git clone https://github.com/huggingface/pytorch-image-models
    python -m benchmarks.timm_facts pytorch-image-models/results

Joined from its tables: top-1 on ImageNet, ReaL, ImageNet-R and Sketch and parameters by name and image size, multiply-
adds by architecture and image size. Of a name that is listed at several sizes the smallest is kept: the size that it
was trained at, and that features are taken at. Its column of pretraining is by architecture, which is wrong for most
tagged weights (it says in1k of tf_efficientnetv2_l.in21k_ft_in1k); the tag itself says what they were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.rows import options

TABLE = Path(__file__).parents[1] / "selector" / "zoo" / "timm_facts.csv"
ACCURACIES = {
    "imagenet_top1": "results-imagenet.csv",
    "imagenet_real_top1": "results-imagenet-real.csv",
    "imagenet_r_top1": "results-imagenet-r.csv",
    "sketch_top1": "results-sketch.csv",
}
COSTS = "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv"


def joined(folder: Path) -> pd.DataFrame:
    """The table, a row a model, in the order of names."""
    made: pd.DataFrame | None = None
    for column, name in ACCURACIES.items():
        found = pd.read_csv(folder / name, thousands=",").sort_values("img_size").drop_duplicates("model")
        found = found.rename(columns={"top1": column, "param_count": "params_millions"})
        if made is None:
            made = found[["model", "img_size", column, "params_millions"]]
        else:
            made = made.merge(found[["model", "img_size", column]], on=["model", "img_size"], how="left")
    assert made is not None
    costs = pd.read_csv(folder / COSTS, thousands=",").drop_duplicates(["model", "infer_img_size"])
    costs = costs.rename(columns={"model": "architecture", "infer_img_size": "img_size", "infer_gmacs": "gmacs"})
    made["architecture"] = made["model"].str.partition(".")[0]
    made = made.merge(costs[["architecture", "img_size", "gmacs"]], on=["architecture", "img_size"], how="left")
    columns = ["model", "img_size", *ACCURACIES, "params_millions", "gmacs"]
    return made[columns].sort_values("model").reset_index(drop=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = options(__doc__, TABLE)
    parser.add_argument("results", type=Path, help="folder results/ of a checkout of pytorch-image-models")
    args = parser.parse_args(argv)
    table = joined(args.results)
    table.to_csv(args.out, index=False)
    print(f"{len(table)} models, {int(table.gmacs.notna().sum())} with multiply-adds: {args.out}")


if __name__ == "__main__":
    main()
