"""Makes selector/zoo/timm_facts.csv: what timm publishes of its weights, by name.

    git clone https://github.com/huggingface/pytorch-image-models
    python -m benchmarks.timm_facts pytorch-image-models/results

Joined from its tables: top-1 on ImageNet and parameters by name and image size, multiply-adds by architecture and image
size. Of a name that is listed at several sizes the smallest is kept: the size that it
was trained at, and that features are taken at. Its column of pretraining is by architecture, which is wrong for most
tagged weights (it says in1k of tf_efficientnetv2_l.in21k_ft_in1k); the tag itself says what they were trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.rows import options

TABLE = Path(__file__).parents[1] / "selector" / "zoo" / "timm_facts.csv"
ACCURACIES = "results-imagenet.csv"
COSTS = "benchmark-infer-amp-nchw-pt291-cu130-pro6000maxq.csv"


def joined(folder: Path) -> pd.DataFrame:
    """The table, a row a model, in the order of names."""
    made = pd.read_csv(folder / ACCURACIES, thousands=",").sort_values("img_size").drop_duplicates("model")
    made = made.rename(columns={"top1": "imagenet_top1", "param_count": "params_millions"})
    costs = pd.read_csv(folder / COSTS, thousands=",").drop_duplicates(["model", "infer_img_size"])
    costs = costs.rename(columns={"model": "architecture", "infer_img_size": "img_size", "infer_gmacs": "gmacs"})
    made["architecture"] = made["model"].str.partition(".")[0]
    made = made.merge(costs[["architecture", "img_size", "gmacs"]], on=["architecture", "img_size"], how="left")
    columns = ["model", "img_size", "imagenet_top1", "params_millions", "gmacs"]
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
