"""Losses that bring two domains together, by their papers' formulas, and what moves under them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from selector.tasks._learner import HeadLearner
from selector.tuning import strategies
from selector.tuning.strategies._loop import Feed, Settings, train
from selector.tuning.strategies._parts import parts_of
from selector.tuning.strategies.alignment import (
    WEIGHT,
    WIDEST,
    ClassConfusion,
    CovarianceDistance,
    DomainAdversary,
    OnJoint,
)

NAMES = ["cdan", "dann", "deep-coral", "mcc"]


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, width), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def get_classifier(self):
        return self.head

    def forward(self, batch):
        return self.head(self.body(batch))


def learner():
    return HeadLearner(Net(), nn.functional.cross_entropy)


def drawn(seed, rows=32):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, k, generator=rng) for k in (5, 3, 5, 3)]


def test_deep_coral_is_the_covariance_distance_whatever_the_scale_of_the_features():
    rows, logits, other, other_logits = drawn(0)
    own, theirs = (np.cov(part.numpy(), rowvar=False) for part in (rows, other))
    expected = WEIGHT * ((own - theirs) ** 2).sum() / ((own**2).sum() + (theirs**2).sum())
    for scale in (1e-3, 1.0, 1e3):
        found = CovarianceDistance()(scale * rows, logits, scale * other, other_logits, 0.5)
        assert float(found) == pytest.approx(expected, rel=1e-4)
    # there is nothing to be gained from smaller features: the gradient along them is 0
    moved = rows.clone().requires_grad_()
    far = other.clone().requires_grad_()
    CovarianceDistance()(moved, logits, far, other_logits, 0.5).backward()
    assert float((moved.grad * rows).sum() + (far.grad * other).sum()) == pytest.approx(0, abs=1e-6)


def test_mcc_class_by_class():
    rows, logits, other, other_logits = drawn(1)
    said = torch.softmax(other_logits / 2.5, dim=1).numpy().astype(float)
    entropy = -(said * np.log(said + 1e-5)).sum(axis=1)
    weight = len(said) * (1 + np.exp(-entropy)) / (1 + np.exp(-entropy)).sum()
    table = np.array([[sum(weight * said[:, i] * said[:, j]) for j in range(3)] for i in range(3)])
    table /= table.sum(axis=1, keepdims=True)
    expected = (table.sum() - np.trace(table)) / 3
    assert float(ClassConfusion()(rows, logits, other, other_logits, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_the_reversal_pushes_features_against_the_classifier_more_and_more():
    rows, _, other, _ = drawn(2)
    torch.manual_seed(0)
    adversary = DomainAdversary(5)

    def gradients(progress):
        own = rows.clone().requires_grad_()
        adversary.zero_grad()
        loss = adversary(own, other, progress)
        loss.backward()
        return float(loss.detach()), own.grad.clone(), adversary.classifier[0].weight.grad.clone()

    start, middle, end = (gradients(progress) for progress in (0.0, 0.3, 1.0))
    assert start[0] == middle[0] == end[0]
    assert start[1].abs().max() == 0
    assert middle[1] == pytest.approx(end[1] * (2 / (1 + np.exp(-3)) - 1) / (2 / (1 + np.exp(-10)) - 1), rel=1e-4)
    assert torch.equal(start[2], end[2])
    # without a reversal the step would lower the loss: with it the features raise it
    moved = DomainAdversary.forward(adversary, rows - 5 * end[1], other, 1.0)
    assert float(moved) > end[0]


def test_cdan_sees_features_times_predictions():
    rows, logits, _, _ = drawn(3)
    said = logits.softmax(dim=1)
    expected = torch.einsum("bd,bc->bdc", rows, said).reshape(32, 15)
    assert torch.allclose(OnJoint(5, 3).joint(rows, said), expected)


def test_cdan_projects_wide_products_and_keeps_their_inner_products():
    """Theorem 1 of the paper: <joint(f, g), joint(f', g')> is <f, f'><g, g'> in the mean over projections."""
    wide, (rows, said) = OnJoint(600, 9), (torch.randn(6, 600), torch.rand(6, 9).softmax(dim=1))
    found = wide.joint(rows, said)
    assert found.shape == (6, WIDEST)
    norms = (rows.norm(dim=1) * said.norm(dim=1)) ** 2
    expected = (rows @ rows.T) * (said @ said.T)
    spread = torch.sqrt(8 * norms[:, None] * norms / WIDEST)  # nearly: of a product of two pairs of normal variables
    assert ((found @ found.T - expected).abs() < 4 * spread).all()
    assert torch.allclose((found**2).sum(dim=1), norms, rtol=0.25)
    assert not OnJoint(400, 9).projected


def test_cdan_weights_sure_items_of_either_domain():
    rows, logits, other, other_logits = drawn(4)
    torch.manual_seed(1)
    module = OnJoint(5, 3)
    expected = 0.0
    for part, scores, domain in ((rows, logits, 0.0), (other, other_logits, 1.0)):
        said = torch.softmax(scores, dim=1).numpy().astype(float)
        weight = 1 + np.exp((said * np.log(said + 1e-5)).sum(axis=1))
        with torch.no_grad():
            joint = torch.from_numpy(np.einsum("bd,bc->bdc", part.numpy(), said).reshape(32, 15)).float()
            prob = torch.sigmoid(module.adversary.classifier(joint))[:, 0].numpy().astype(float)
        losses = -np.log(prob if domain else 1 - prob)
        expected += (weight / weight.mean() * losses).sum() / 64
    assert float(module(rows, logits, other, other_logits, 0.5).detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapped_learner_trains_its_network_and_gives_it_back(name):
    strategy, plain = strategies.registry.get(name), learner()
    assert strategy.adapts
    assert strategy.trains
    wrapped = strategy.wrap(plain)
    assert {n for n, _ in wrapped.named_parameters() if not n.startswith("alignment")} == {
        n for n, _ in plain.named_parameters()
    }
    groups = strategy.groups(parts_of(wrapped, ()), layer_decay=False)
    assert {n for group in groups for n in group.names} == {n for n, _ in wrapped.named_parameters()}
    before = plain.network.body[0].weight.detach().clone()
    batch, other = torch.randn(8, 2), torch.randn(8, 2)
    alone = float(wrapped.loss(batch, [0, 1] * 4))
    assert alone == pytest.approx(float(plain.loss(batch, [0, 1] * 4)))
    both = wrapped.loss(batch, [0, 1] * 4, other)
    assert float(both) > alone
    both.backward()
    assert plain.network.body[0].weight.grad is not None
    assert strategy.unwrap(wrapped) is plain
    assert torch.equal(before, plain.network.body[0].weight)


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def batch(self, indices):
        return self.rows[indices]


def fitted(name, rows, steps, batch, **options):
    """A training on the first half of the rows, whose two classes take turns; the other half is the target."""
    strategy, half = strategies.registry.get(name), len(rows) // 2
    wrapped = strategy.wrap(learner())
    groups = strategy.groups(parts_of(wrapped, ()), layer_decay=False)
    feed = Feed(
        Rows(rows.astype(np.float32)), lambda x: x, lambda items: [int(i) % 2 for i in items],
        unlabeled=np.arange(half, len(rows)),
    )  # fmt: skip
    return train(wrapped, groups, feed, np.arange(half), Settings(steps, batch, 1e-2, "adamw"), **options), wrapped


def trained(strategy):
    """How well a linear classifier tells the domains apart after training, and the accuracy on the source."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    rows = rng.standard_normal((400, 2)) * 0.4 + np.stack([2.0 * labels - 1, np.zeros(400)], axis=1)
    rows[200:, 1] += 2.0  # the target is moved along the axis that carries no class
    fit, module = fitted(strategy, rows, 400, 32)
    assert fit.status == "ok"
    with torch.no_grad():
        found = module.network.body(torch.from_numpy(rows).float()).numpy()
        said = module.network(torch.from_numpy(rows).float()).argmax(dim=1).numpy()
    standard, domain = (found - found.mean(axis=0)) / (found.std(axis=0) + 1e-6), np.arange(400) >= 200
    told_apart = LogisticRegression(max_iter=500).fit(standard, domain).score(standard, domain)
    return told_apart, (said[:200] == labels[:200]).mean()


def test_training_on_the_source_alone_keeps_the_domains_apart():
    assert trained("full")[0] > 0.7


@pytest.mark.parametrize("name", ["cdan", "dann", "deep-coral"])
def test_domains_that_are_moved_apart_come_together_and_the_classes_stay(name):
    told_apart, accuracy = trained(name)
    assert told_apart < 0.6
    assert accuracy > 0.95


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["cdan", "dann"])
def test_a_training_that_is_killed_goes_on_as_if_nothing_had_happened(name, tmp_path):
    rows = np.random.default_rng(1).standard_normal((120, 2))

    def run(checkpoint=None, until=None):
        ticks = iter(range(0, 10**6, 61))  # a checkpoint each step

        def stop(step, _):
            if step == until:
                raise Killed

        fit, wrapped = fitted(name, rows, 30, 16, checkpoint=checkpoint, clock=lambda: next(ticks), on_loss=stop)
        return fit, wrapped.state_dict()

    _, undisturbed = run()
    with pytest.raises(Killed):
        run(tmp_path / "state", until=13)
    fit, resumed = run(tmp_path / "state")
    assert fit.notes[0].startswith("went on from a checkpoint at step 1")
    assert all(torch.equal(undisturbed[key], resumed[key]) for key in undisturbed)


@pytest.mark.parametrize(
    ("name", "told"),
    [("dann", ["the strength of the domain classifier had risen to 0.42 of 1"]), ("mcc", [])],
)
def test_a_training_that_is_cut_says_how_far_the_adversary_had_risen(name, told):
    seconds = [0.0]

    def tick(step, _):
        seconds[0] = float(step)

    rows = np.random.default_rng(0).standard_normal((40, 2))
    fit, _ = fitted(name, rows, 100, 8, deadline=11.0, clock=lambda: seconds[0], on_loss=tick)
    assert fit.steps == 10
    assert fit.notes == ["cooled down after 10 of 100 steps: the time for it was over", *told]
