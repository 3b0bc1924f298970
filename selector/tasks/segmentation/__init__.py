"""A class a pixel: linear or deeper decoders on feature maps, cross-entropy, IoU from counts an image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, Unpack, cast

import numpy as np
import xxhash

from selector.core.contracts import Encoder, LabelKind, Target
from selector.core.errors import ConfigError, TargetError
from selector.core.prediction import Prediction
from selector.core.stats import Metric
from selector.core.table import Facet, RowPlan
from selector.core.task import BalanceOptions, Evaluator, NotFinite, Probe, Section, Stats
from selector.modalities.image import read_image
from selector.tasks import task
from selector.tasks._classes import balanced_note, class_weights
from selector.tasks._error_analysis import most_confused, rounded
from selector.tasks._maps import MapTask, telling
from selector.tasks.segmentation.mask_predictions import (
    SegmentedImage,
    SegmentedImages,
    mask_png,
    picture_size,
    small_overlay,
    swatch,
)
from selector.tasks.segmentation.reading import MaskAnnotations, SegmentationReading

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torchvision.tv_tensors import Mask

    from selector.tasks.segmentation.decoders import SegmentationNetwork

Condensed: TypeAlias = tuple[bytes, tuple[int, int], dict[str, float]]
"""PNG of a mask, its size, and the shares of the classes that it shows."""


def points_of(mask: np.ndarray, count: int, ignore: int, content: str, seed: int = 0) -> np.ndarray:
    """Pixels of a mask, int64 (<= count, 2): row and column.

    Classes share ``count`` evenly; what a small one leaves goes to the larger ones. Within a class the pixels
    with the smallest keys are taken, and keys are drawn from the image's content, not from its class: with a
    larger count, or another set of classes on the same images, most points stay where they were.

    Args:
        mask: integers (H, W).
        ignore: value that is no class.
        content: hash of the image.
    Cost: a random number a pixel.
    """
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(f"{content} points {seed}".encode()))
    keys = rng.random(mask.size, dtype=np.float32)
    flat = mask.ravel()
    known = np.flatnonzero(flat != ignore)
    classes, inverse, sizes = np.unique(flat[known], return_inverse=True, return_counts=True)
    taken = []
    left = count
    for place, number in enumerate(np.argsort(sizes, kind="stable")):
        share = min(int(sizes[number]), left // (len(classes) - place))
        own = known[inverse == number]
        taken.append(own[np.argsort(keys[own], kind="stable")[:share]])
        left -= share
    chosen = np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)
    return np.stack(np.divmod(chosen, mask.shape[1]), 1)


def relative(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Middles of pixels (R, 2) as x, y in 0..1, float32."""
    height, width = size
    return np.stack([(points[:, 1] + 0.5) / width, (points[:, 0] + 0.5) / height], 1).astype(np.float32)


METRICS: Mapping[str, Metric] = {"miou": Metric(), "pixel_accuracy": Metric()}
POINTS = 100  # an image, at most
FEWEST_POINTS = 7  # an image of many: with 5, intervals are three times as wide on camvid (``row_counts.csv``)
ENOUGH_ROWS = 1_400  # of all images; beyond it images tell more than further points in them
MOST_ROWS = 20_000  # the nearest neighbors of more take longer than the forward passes of their images
MOST_LEGEND = 60
MOST_CONFUSION = 200  # classes up to which the pixels of every pair of classes are counted
PRIORS = (0.0, 0.25, 0.5, 0.75, 1.0)  # between classes as the points show them and as the pixels do
_SMALLEST = 1e-6


class SegmentationStats(Stats):
    """Of each item and class ``hit`` (pixels of the class that were found), ``truth`` (its pixels) and ``said`` (pixels
    that were predicted as it, where there is a class), int64 (N, C): enough for every metric of any resample.

    ``summary`` holds ``confusion``: pixels (C, C) of all items, rows are the true class; up to 200 classes.
    """

    def __getitem__(self, items: np.ndarray) -> SegmentationStats:
        """The same of some items; the pairs of classes are known of all items only."""
        found = super().__getitem__(items)
        found.summary.pop("confusion", None)
        return found

    def value(self, metric: str) -> float:
        """Any of ``METRICS``."""
        hit = self.arrays["hit"].sum(axis=0)
        if metric == "pixel_accuracy":
            pixels = self.arrays["truth"].sum()
            return float(hit.sum() / pixels) if pixels else float("nan")
        if metric == "miou":
            return mean_iou(hit, self.arrays["truth"].sum(axis=0), self.arrays["said"].sum(axis=0))
        raise KeyError(metric)

    def ratio(self, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Pixel accuracy is pixels found over pixels."""
        if metric != "pixel_accuracy":
            return None
        return self.arrays["hit"].sum(axis=1).astype(float), self.arrays["truth"].sum(axis=1).astype(float)

    def of_each(self) -> np.ndarray:
        """Mean IoU of each item by itself (N,), over the classes that it shows or is said to show; NaN without any."""
        arrays = self.arrays
        return np.array(
            [mean_iou(h, t, s) for h, t, s in zip(arrays["hit"], arrays["truth"], arrays["said"], strict=True)]
        )


def ious(hit: np.ndarray, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Intersection over union of each class (C,); NaN for one that is neither there nor predicted."""
    union = (truth + said - hit).astype(float)
    found: np.ndarray = np.divide(hit, union, out=np.full(len(union), np.nan), where=union > 0)
    return found


def mean_iou(hit: np.ndarray, truth: np.ndarray, said: np.ndarray) -> float:
    """Mean of ``ious`` over the classes that have one; NaN where none has.

    >>> mean_iou(np.array([3, 0, 1]), np.array([4, 0, 2]), np.array([3, 0, 3]))
    0.5
    """
    found = ious(hit, truth, said)
    return float(np.nanmean(found)) if (found == found).any() else float("nan")


LIBRARY = ("unet", "segformer", "dpt")


@task("segmentation")
class Segmentation(SegmentationReading, MapTask):
    """See ``core.task.Task``.

    Attributes:
        decoder: what sits on the maps: ``linear`` (on all of them, starts as the probe), torchvision's ``fcn`` and
            ``deeplabv3``, or one of ``LIBRARY`` (of segmentation-models-pytorch, extra ``decoders``).
    """

    name = "segmentation"
    balances = ("weights",)
    smooths = True
    metrics = METRICS
    stats_type: ClassVar[type[SegmentationStats]] = SegmentationStats
    prediction_type = SegmentedImage
    tie_breaker = "pixel_accuracy"
    reader = "point"
    most_rows = MOST_ROWS
    free_size = True
    onnx_differs = (
        "Its logits have the size of the image that the network reads, so a mask of another size is interpolated twice; "
        "`predict` reads masks of any size off the decoder's own logits."
    )
    decoders = ("linear", "fcn", "deeplabv3", *LIBRARY)
    decoder = "linear"
    lacking = (
        "have no pixel in {split}, such as {names}: their IoU there is 0 once a pixel is predicted as them, and else left "
        "out of the mean."
    )

    def configured(
        self, *, decoder: str | None = None, loss: str | None = None, **options: Unpack[BalanceOptions]
    ) -> Self:
        """See ``MapTask``.

        Raises:
            ConfigError: what the decoder comes from is not installed, as well.
        """
        if decoder in LIBRARY and find_spec("segmentation_models_pytorch") is None:
            raise ConfigError(
                f"decoder '{decoder}' needs the extra 'decoders'; run: pip install 'zoo-selector[decoders]'"
            )
        return super().configured(decoder=decoder, loss=loss, **options)

    # rows

    def annotations(self, target: Target, indices: np.ndarray) -> Sequence[Mask]:
        """A ``tv_tensors.Mask`` (H, W) an item, of its image's own size."""
        import torch
        from torchvision import tv_tensors

        masks = _masks(target)
        found = [masks[int(index)] for index in indices]
        return [tv_tensors.Mask(torch.from_numpy(m if m.dtype == np.uint8 else m.astype(np.int32))) for m in found]

    def rows(self, target: Target, indices: np.ndarray, limit: int | None = None, seed: int = 0) -> RowPlan:
        """Points in the masks, as evenly by class as each allows: 100 an image, fewer of more than 14 images (7 from
        200 on) and where ``limit`` (at most 20,000 in all) asks for it; of more images than that those with the smallest
        hash. Pixels without a class are left out."""
        every = max(1, len(indices), len(target.indices("train", "val")))  # the first images of a scan show no more
        limit = min(MOST_ROWS, MOST_ROWS if limit is None else limit)
        return self._points(target, indices, max(FEWEST_POINTS, ENOUGH_ROWS // every), limit, seed)

    def probe_plan(self, target: Target, indices: np.ndarray) -> RowPlan:
        """100 points an image, 50,000 in all: a decoder that is used gains from more points than an order of models."""
        return self._points(target, indices, POINTS, self.probe_rows or MOST_ROWS)

    def _points(self, target: Target, indices: np.ndarray, count: int, limit: int, seed: int = 0) -> RowPlan:
        masks, indices = _masks(target), np.asarray(indices)
        if len(indices) > limit:
            indices = np.sort(sorted(indices.tolist(), key=lambda i: target.hashes[i])[:limit])
        count = max(1, min(POINTS, count, limit // max(1, len(indices))))
        found = [_sampled(target.hashes[i], masks, int(i), count, seed) for i in indices]
        places = [place for place, _ in found]
        labels = np.concatenate([label for _, label in found]) if found else np.empty(0, np.int64)
        return RowPlan(
            item=np.repeat(indices, [len(place) for place in places]).astype(np.int64),
            place=np.concatenate(places) if places else np.empty((0, 2), np.float32),
            facets={"class": Facet(LabelKind.CLASSES, labels, target.class_names)},
            reader=self.reader,
        )

    def check(self, target: Target) -> None:
        """Also: pixels of at least two classes in train."""
        super().check(target)
        if self.shows(target, target.indices("train")).sum() < 2:
            raise TargetError(
                f"target '{target.name}' shows fewer than two classes in train; there is nothing to learn."
            )

    def shows(self, target: Target, items: np.ndarray) -> np.ndarray:
        """See ``MapTask``."""
        return np.asarray(_masks(target).pixels[items].sum(axis=0) > 0)

    # learning

    def learner(
        self,
        encoder: Encoder,
        target: Target,
        init: Probe | None = None,
        size: tuple[int, int] | None = None,
        **settings: object,
    ) -> nn.Module:
        """The encoder's maps with a decoder; the linear one starts as the solved probe."""
        from selector.tasks.segmentation.decoders import Linear, SegmentationLearner

        classes = len(target.class_names)
        network = self.network(encoder.map_module(size), classes)
        if init is not None and isinstance(network.decoder, Linear):
            network.decoder.start_from(init["weight"], init["bias"], init["scale"])
        masks = _masks(target)
        pixels = masks.pixels[target.indices("train")].sum(axis=0)
        weights = None if self.balance == "none" else class_weights(pixels, always=self.balance == "weights")
        return SegmentationLearner(network, classes, weights, masks.ignore_index, self.label_smoothing)

    def notes(self, target: Target) -> list[str]:
        """See ``MapTask``; and how classes of few pixels are balanced."""
        pixels = _masks(target).pixels[target.indices("train")].sum(axis=0)
        return [*super().notes(target), *balanced_note(pixels, self.balance)]

    def network(self, maps: nn.Module, outputs: int) -> SegmentationNetwork:
        """See ``MapTask``."""
        from selector.tasks.segmentation.decoders import SegmentationNetwork, decoder_of

        shape = cast(Any, maps)
        return SegmentationNetwork(maps, decoder_of(self.decoder, shape.channels, shape.strides, outputs))

    def probe(self, target: Target, train: tuple[RowPlan, np.ndarray], val: tuple[RowPlan, np.ndarray]) -> Probe | None:
        """``weight`` (K, D), ``bias`` (K,), ``strength`` (), ``scale`` (D,) of the columns and ``prior`` ().

        Points show classes evenly and pixels do not: the bias is moved towards the pixels' shares as far as the mIoU
        of the held-out images, estimated from their points, wants it (``prior``: 0 not at all, 1 all the way).
        None for decoders that start from nothing.
        """
        from selector.linear import solve_head
        from selector.tasks._linear import steadied

        (plan, rows), (held_plan, held_rows) = train, val
        labels, held = plan.facets["class"].labels, held_plan.facets["class"].labels
        if self.decoder != "linear" or len(np.unique(labels)) < 2:
            return None
        classes = len(target.class_names)
        head = solve_head(steadied(rows), labels, held_rows, held, classes)
        masks = _masks(target)
        pixels = masks.pixels[np.unique(plan.item)].sum(axis=0)
        points = np.bincount(labels, minlength=classes)
        shown = points > 0
        shift = np.zeros(classes)
        shift[shown] = np.log(pixels[shown] / pixels.sum()) - np.log(points[shown] / points.sum())
        outputs = held_rows @ head.weight.T + head.bias
        weights = point_weights(masks, held_plan)
        values = [estimated_iou((outputs + t * shift).argmax(axis=1), held, weights, classes) for t in PRIORS]
        prior = PRIORS[int(np.nanargmax(values))] if len(held) else 0.5
        return {
            "weight": head.weight,
            "bias": (head.bias + prior * shift).astype(np.float32),
            "strength": np.array(head.strength),
            "scale": (1 / np.maximum(rows.std(axis=0, dtype=np.float64), _SMALLEST)).astype(np.float32),
            "prior": np.array(prior),
        }

    def evaluator(self, target: Target, context: Mapping[str, Any] | None = None) -> Evaluator:
        """Takes logits (B, K, h, w) and reads each mask when its image comes."""
        return _Counting(_masks(target), len(target.class_names))

    def written_as(self, class_names: Sequence[str], context: Mapping[str, object]) -> list[int]:
        """The values of its masks."""
        return _values(class_names, context)

    def calibrate(self, stats: Stats) -> dict[str, object]:
        """``values``: what each class is written as in a mask, as in the target's own files."""
        values = stats.summary.get("values")
        return {"values": list(values)} if values else {}

    def baseline(self, target: Target, metric: str, split: str = "test") -> float | None:
        """Always the most frequent class of train + val."""
        items = target.indices(split)
        if not len(items) or metric not in self.metrics:
            return None
        masks = _masks(target)
        most = int(masks.pixels[target.indices("train", "val")].sum(axis=0).argmax())
        truth = masks.pixels[items]
        hit, said = np.zeros_like(truth), np.zeros_like(truth)
        hit[:, most], said[:, most] = truth[:, most], truth.sum(axis=1)
        return SegmentationStats({"hit": hit, "truth": truth, "said": said}).value(metric)

    # use

    def output(self, network: nn.Module, batch: object) -> np.ndarray:
        """Logits (B, K, h, w) float32 of the decoder."""
        found: np.ndarray = cast(Any, network).coarse(batch).float().cpu().numpy()
        return found

    def predictions(
        self, outputs: np.ndarray, class_names: Sequence[str], context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """``mask`` (h, w) of class numbers at the size of the outputs, and ``shares`` of the classes that it shows."""
        each = (_predicted(row, row.shape[1:], class_names) for row in outputs)
        return [{"mask": mask, "shares": shares} for mask, shares in each]

    def condensed(
        self, output: np.ndarray, item: object, class_names: Sequence[str], context: Mapping[str, object]
    ) -> Condensed:
        """(PNG of the mask, its size, shares of the classes): logits of many images would fill the memory."""
        size = picture_size(item)
        mask, shares = _predicted(output[0], size, class_names)
        return mask_png(mask, _values(class_names, context)), size, shares

    def prediction(
        self,
        name: str,
        item: object,
        output: Condensed,
        class_names: Sequence[str],
        context: Mapping[str, object],
        top: int,
    ) -> SegmentedImage:
        """A mask of the image's own size, as ``condensed`` left it."""
        png, size, shares = output
        return SegmentedImage(name, values={"size": size, "classes": shares}, png=png, source=item)

    def gathered(
        self, rows: Sequence[Prediction], class_names: Sequence[str], context: Mapping[str, object]
    ) -> SegmentedImages:
        """With what each class is written as."""
        return SegmentedImages(rows, class_names, _values(class_names, context))

    def drawn(
        self, outputs: Sequence[object], target: Target, items: np.ndarray, context: Mapping[str, object]
    ) -> list[dict[str, object]]:
        """Small copies of each image: as it is, under its truth, and under what was predicted."""
        masks = _masks(target)
        found: list[dict[str, object]] = []
        for output, item in zip(outputs, items, strict=True):
            picture, mask = read_image(target.items[int(item)]), masks[int(item)]
            said, _ = _predicted(output, picture.shape[:2], target.class_names)
            nothing = np.full(mask.shape, masks.ignore_index)
            pictures = {
                "picture": small_overlay(picture, nothing, masks.ignore_index),
                "truth": small_overlay(picture, mask, masks.ignore_index),
                "predicted": small_overlay(picture, said),
            }
            found.append({"pictures": [{"title": title, "uri": uri} for title, uri in pictures.items()]})
        return found

    def activation(self, outputs: torch.Tensor, context: Mapping[str, object]) -> tuple[str, torch.Tensor]:
        """Probabilities of the classes a pixel."""
        return "probabilities", outputs.softmax(dim=1)

    def report(self, stats: Stats, class_names: Sequence[str]) -> Section:
        """IoU a class, confusions, and the worst, the median and the best images."""
        assert isinstance(stats, SegmentationStats)
        return _section(stats, class_names)


def point_weights(masks: MaskAnnotations, plan: RowPlan) -> np.ndarray:
    """How many pixels each row stands for (R,): the pixels of its class in its image over its points there."""
    labels = plan.facets["class"].labels
    classes = masks.pixels.shape[1]
    pairs, inverse, counts = np.unique(plan.item * classes + labels, return_inverse=True, return_counts=True)
    weights: np.ndarray = masks.pixels[pairs // classes, pairs % classes] / counts
    return weights[inverse]


def estimated_iou(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int) -> float:
    """Mean IoU of whole masks, estimated from points that stand for so many pixels each."""
    hit = np.bincount(labels, weights * (predicted == labels), classes)
    return mean_iou(hit, np.bincount(labels, weights, classes), np.bincount(predicted, weights, classes))


# ---------------------------------------------------------------------------- statistics


class _Counting:
    """Logits -> counts, an image at a time; see ``core.task.Evaluator``."""

    def __init__(self, masks: MaskAnnotations, classes: int) -> None:
        self._masks, self._classes = masks, classes
        self._rows: list[np.ndarray] = []
        self._confusion = np.zeros((classes, classes), np.int64)

    def update(self, outputs: object, items: np.ndarray) -> None:
        """``outputs`` (B, K, h, w)."""
        import torch

        from selector.tasks.segmentation.decoders import class_map

        logits = torch.as_tensor(outputs)
        if not bool(torch.isfinite(logits).all()):
            raise NotFinite("logits must be finite; those of some pixels are not.")
        classes = self._classes
        for row, item in zip(logits, items, strict=True):
            mask = self._masks[int(item)]
            said = class_map(row, mask.shape).cpu().numpy()
            known = mask != self._masks.ignore_index
            truth, predicted = mask[known].astype(np.int64), said[known]
            if classes <= MOST_CONFUSION:
                pairs = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)
                self._confusion += pairs
                counts = np.stack([np.diag(pairs), pairs.sum(axis=1), pairs.sum(axis=0)])
            else:
                several = (truth[truth == predicted], truth, predicted)
                counts = np.stack([np.bincount(part, minlength=classes) for part in several])
            self._rows.append(counts.astype(np.int64))

    def stats(self) -> SegmentationStats:
        """In the order in which the items came."""
        rows = np.stack(self._rows)
        summary: dict[str, object] = {"values": [int(value) for value in self._masks.values]}
        if self._classes <= MOST_CONFUSION:
            summary["confusion"] = self._confusion.tolist()
        return SegmentationStats({"hit": rows[:, 0], "truth": rows[:, 1], "said": rows[:, 2]}, summary)


def _section(stats: SegmentationStats, class_names: Sequence[str]) -> Section:
    hit, truth, said = (stats.arrays[name].sum(axis=0) for name in ("hit", "truth", "said"))
    found = ious(hit, truth, said)
    lines = [
        {
            "class": name,
            "pixels": int(truth[i]),
            "IoU": rounded(found[i]),
            "recall": rounded(hit[i] / truth[i] if truth[i] else np.nan),
            "precision": rounded(hit[i] / said[i] if said[i] else np.nan),
        }
        for i, name in enumerate(class_names)
    ]
    tables: dict[str, Sequence[Mapping[str, object]]] = {"results by class": lines}
    if "confusion" in stats.summary:
        tables["pixels taken for another class"] = [
            {
                "class": class_names[a],
                "predicted": class_names[b],
                "pixels": count,
                "share of the class": rounded(count / truth[a]),
            }
            for a, b, count in most_confused(np.array(stats.summary["confusion"]))
        ]
    each = stats.of_each()
    samples = [{"row": row, "group": group, "note": f"mIoU {each[row]:.3f}"} for row, group in telling(each, 2).items()]
    shown = [{"class": name, "picture": swatch(i)} for i, name in enumerate(class_names[:MOST_LEGEND])]
    return Section(tables, samples, {"counted": "pixels", "legend": shown})


def _values(class_names: Sequence[str], context: Mapping[str, Any]) -> list[int]:
    """What classes are written as: as in the target's own masks, where those are numbers that fit."""
    values = [int(value) for value in context.get("values", ())]
    fits = len(values) == len(class_names) and max(values, default=0) <= 65535
    return values if fits else list(range(len(class_names)))


def _predicted(
    logits: object, size: tuple[int, int], class_names: Sequence[str]
) -> tuple[np.ndarray, dict[str, float]]:
    """A class map of some size, of logits (K, h, w), and the shares of the classes that it shows."""
    import torch

    from selector.tasks.segmentation.decoders import class_map

    found = class_map(torch.as_tensor(logits), size).numpy()
    mask = found.astype(np.uint8 if len(class_names) <= 256 else np.uint16)
    counts = np.bincount(found.ravel(), minlength=len(class_names)) / found.size
    order = np.argsort(-counts, kind="stable")
    return mask, {class_names[i]: float(counts[i]) for i in order if counts[i]}


# ---------------------------------------------------------------------------- masks


def _masks(target: Target) -> MaskAnnotations:
    found = target.annotations
    assert isinstance(found, MaskAnnotations), "a target of this task has masks"
    return found


_MOST_KEPT = 20_000  # images
_known: OrderedDict[tuple[str, str, int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()


def _sampled(content: str, masks: MaskAnnotations, index: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (R, 2), classes (R,)) of an image; worked out once, since every model reads the same."""
    key = (content, masks.digest(index), count, seed)
    if key not in _known:
        mask = masks[index]
        points = points_of(mask, count, masks.ignore_index, content, seed)
        _known[key] = relative(points, mask.shape), mask[points[:, 0], points[:, 1]].astype(np.int64)
        while len(_known) > _MOST_KEPT:
            _known.popitem(last=False)
    return _known[key]
