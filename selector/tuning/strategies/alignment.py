"""Strategies that train the whole network on the source's labels while they bring the two domains together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from selector.core.task import Learner
from selector.tasks._learner import head_layer
from selector.tuning.strategies import Strategy, strategy

Seen = list[tuple[torch.Tensor, torch.Tensor]]


class AlignmentStrategy(Strategy):
    """What counts is ``alignment``."""

    adapts = True
    mends = "items"

    @abstractmethod
    def alignment(self, features: int, classes: int) -> nn.Module:
        """A module (source features (B, D) and logits (B, C), those of the target, progress 0..1) -> loss."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The learner with the alignment added to its loss; what the alignment learns starts alike in every run."""
        head = head_layer(cast(Learner, module).network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AligningLearner(module, self.alignment(head.in_features, head.out_features))

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The learner alone."""
        return cast(AligningLearner, module).learner


class AligningLearner(nn.Module):
    """See ``core.task.Learner``: another learner whose loss also sees items without labels.

    Args:
        learner: around a network with one linear head.
        alignment: what ``AlignmentStrategy.alignment`` gave; its parameters live as long as the training.
    Attributes:
        progress: share of the training that is done, set by the loop.
    """

    adapts = True

    def __init__(self, learner: nn.Module, alignment: nn.Module) -> None:
        super().__init__()
        self.network = cast(Learner, learner).network
        self.alignment = alignment
        self.new = (*cast(Learner, learner).new, "alignment")
        self.progress = 0.0
        self._learner = (learner,)  # not a second owner of the network's parameters

    @property
    def learner(self) -> nn.Module:
        """What was wrapped, with what was learned since."""
        return self._learner[0]

    def loss(self, batch: object, annotations: Sequence[object], unlabeled: object = None) -> torch.Tensor:
        """The learner's own loss on the source, and the alignment of both domains."""
        with self._caught() as seen:
            own = cast(Learner, self.learner).loss(batch, annotations)
            if unlabeled is None:
                return own
            self.network(unlabeled)
        (rows, logits), (other_rows, other_logits) = seen
        with torch.autocast(rows.device.type, enabled=False):
            found: torch.Tensor = self.alignment(
                rows.float(), logits.float(), other_rows.float(), other_logits.float(), self.progress
            )
        return own + found

    def reached(self) -> str:
        """How far what rises with ``progress`` had risen at the last step, in words; empty where nothing does."""
        if not any(isinstance(part, DomainAdversary) for part in self.alignment.modules()):
            return ""
        return f"the strength of the domain classifier had risen to {strength_at(self.progress):.2f} of 1"

    def weight(self, annotations: Sequence[object]) -> float:
        """The learner's own."""
        return cast(Learner, self.learner).weight(annotations)

    def predict(self, batch: Any) -> object:
        """The learner's own."""
        return cast(Learner, self.learner).predict(batch)

    @contextmanager
    def _caught(self) -> Iterator[Seen]:
        """What the head reads and gives, a pair a forward pass."""
        seen: Seen = []
        handle = head_layer(self.network).register_forward_hook(
            lambda _, inputs, output: seen.append((inputs[0], output))
        )
        try:
            yield seen
        finally:
            handle.remove()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor, strength: float) -> torch.Tensor:
        context.strength = strength
        return rows.view_as(rows)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -context.strength * gradient, None


def strength_at(progress: float) -> float:
    """Of the reversed gradient, 0..1, at a share of the training."""
    return 2 / (1 + float(torch.exp(torch.tensor(-10.0 * progress)))) - 1


class DomainAdversary(nn.Module):
    """A domain classifier behind a gradient reversal whose strength rises from 0 to 1 (Ganin et al., JMLR 2016, sec. 5.2.2)."""

    def __init__(self, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        progress: float,
        weights: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Its cross-entropy: the classifier lowers it, and the network, through the reversal, raises it.

        Args:
            weights: of the items of either domain (B,), with a mean of 1.
        """
        strength = strength_at(progress)
        said = self.classifier(_Reversed.apply(torch.cat([source, target]), strength))[:, 0]  # type: ignore[no-untyped-call]
        domain = torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).to(said.device)
        weight = None if weights is None else torch.cat(weights)
        return nn.functional.binary_cross_entropy_with_logits(said, domain, weight)


def certainty(probabilities: torch.Tensor) -> torch.Tensor:
    """(B,) weights 1 + exp(-H) of predictions (B, C) of entropy H, brought to a mean of 1; no gradient goes through them.

    Source: Long et al., NeurIPS 2018, sec. 3.3; Jin et al., ECCV 2020, eq. 5.
    """
    weight = 1 + torch.exp((probabilities * torch.log(probabilities + 1e-5)).sum(dim=1))
    return (len(weight) * weight / weight.sum()).detach()


WEIGHT = 0.1
"""Of the alignment beside the classes: both losses are then about equal towards the end, as the paper sets it."""


@strategy("deep-coral")
class DeepCoral(AlignmentStrategy):
    """Sun & Saenko, ECCV 2016 workshops, arXiv:1607.01719, relative to the size of both covariances."""

    name = "deep-coral"
    version = 2  # 1 depended on the fourth power of the features' scale

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return CovarianceDistance()


class CovarianceDistance(nn.Module):
    """‖C_s − C_t‖²_F / (‖C_s‖²_F + ‖C_t‖²_F) of the features, times ``WEIGHT``: shrinking the features does not lower it.

    The paper divides by 4D² and multiplies by a weight that its authors set: of features as networks of different
    scales give them that is nothing for one (1e-5 of the classes' loss) and ruin for another.
    """

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        own, aim = torch.cov(rows.T), torch.cov(other.T)
        size = (own**2).sum() + (aim**2).sum()
        return WEIGHT * ((own - aim) ** 2).sum() / size.clamp(min=1e-30)


@strategy("dann")
class Dann(AlignmentStrategy):
    """Ganin et al., JMLR 2016, arXiv:1505.07818."""

    name = "dann"

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return OnFeatures(features)


class OnFeatures(nn.Module):
    """The adversary on the features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.adversary = DomainAdversary(features)

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        found: torch.Tensor = self.adversary(rows, other, progress)
        return found


WIDEST = 4096  # beyond, the outer product is projected at random (as in the paper); 1,024 made a training collapse


@strategy("cdan")
class Cdan(AlignmentStrategy):
    """Long et al., NeurIPS 2018, arXiv:1705.10667, with entropy conditioning."""

    name = "cdan"
    version = 2  # 1 projected to 1,024 columns

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return OnJoint(features, classes)


class OnJoint(nn.Module):
    """The adversary on the outer product of features and predicted probabilities."""

    of_features: torch.Tensor
    of_classes: torch.Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        joint = features * classes
        self.projected = joint > WIDEST
        if self.projected:
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("of_features", torch.randn(features, WIDEST, generator=generator))
            self.register_buffer("of_classes", torch.randn(classes, WIDEST, generator=generator))
        self.adversary = DomainAdversary(min(joint, WIDEST))

    def joint(self, rows: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """(B, D·C) of features (B, D) and probabilities (B, C), or (B, WIDEST) projected."""
        if self.projected:
            found: torch.Tensor = (rows @ self.of_features) * (said @ self.of_classes) / WIDEST**0.5
            return found
        return (rows[:, :, None] * said[:, None, :]).flatten(1)

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        said, other_said = (some.softmax(dim=1).detach() for some in (logits, other_logits))
        weights = certainty(said), certainty(other_said)
        found: torch.Tensor = self.adversary(self.joint(rows, said), self.joint(other, other_said), progress, weights)
        return found


TEMPERATURE = 2.5


@strategy("mcc")
class Mcc(AlignmentStrategy):
    """Jin et al., ECCV 2020, arXiv:1912.03699."""

    name = "mcc"

    def alignment(self, features: int, classes: int) -> nn.Module:
        """See ``AlignmentStrategy``."""
        return ClassConfusion()


class ClassConfusion(nn.Module):
    """Share of the class correlation of the target's predictions that lies off the diagonal; certain items count more."""

    def forward(
        self, rows: torch.Tensor, logits: torch.Tensor, other: torch.Tensor, other_logits: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """See ``AlignmentStrategy``."""
        said = (other_logits / TEMPERATURE).softmax(dim=1)
        correlation = (said * certainty(said)[:, None]).T @ said
        correlation = correlation / correlation.sum(dim=1, keepdim=True)
        return (correlation.sum() - correlation.trace()) / said.shape[1]
