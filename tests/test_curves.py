"""Loss curves and the plans made from them: exact where losses and costs add up, and undone whatever happens."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.demo import toy
from pyprune_fast.demo.batches import Loaders
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Curve, Pruner, Target, count_cost, loss_curves, mean_loss, plan_by_curves
from pyprune_fast.prune.tune import first_batches
from pyprune_fast.slicing import Group, apply
from pyprune_fast.slicing.fingerprint import fingerprint

X = torch.zeros(1, 3)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)
    ).eval()


def groups_and_scores(model: nn.Module) -> tuple[list[Group], dict[str, Tensor]]:
    groups = list(find_groups(model, X))
    return groups, {g.name: torch.arange(g.channels, dtype=torch.float64) for g in groups if not g.fixed}


def widths(model: nn.Module) -> tuple[int, ...]:
    return tuple(m.out_features for m in model.modules() if isinstance(m, nn.Linear))


def test_hull_lies_below_and_is_convex() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rise = torch.rand(9, generator=generator).cummax(0).values
        rise[0] = 0
        curve = Curve(tuple(range(0, 18, 2)), tuple(rise.tolist()))
        corners = curve.hull()
        assert corners[0] == (0, 0.0)
        assert corners[-1] == (16, curve.rise[-1])
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(corners)]
        assert slopes == sorted(slopes)
        assert len(set(slopes)) == len(slopes)
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            for x, y in zip(curve.removed, curve.rise, strict=True):
                if x0 <= x <= x1:
                    assert y >= y0 + (y1 - y0) * (x - x0) / (x1 - x0) - 1e-12


def test_curves_cut_the_lowest_and_restore(model: nn.Sequential) -> None:
    groups, scores = groups_and_scores(model)
    before, seen = fingerprint(model), []

    def loss(model: nn.Module) -> float:
        seen.append(widths(model))
        return float(sum(widths(model)))  # falls as channels go

    curves = loss_curves(model, groups, scores, loss, points=4, min_channels=2)
    assert fingerprint(model) == before
    assert curves["0"].removed == (0, 2, 4, 6)  # the narrowest of the four is 2 by min_channels, so two of them are one
    assert curves["2"].removed == (0, 3, 6, 9, 10)
    assert all(set(curve.rise) == {0.0} for curve in curves.values())  # a loss that falls is not believed
    assert seen[0] == (8, 12, 6, 2)
    assert all(sum(a != b for a, b in zip(w, seen[0], strict=True)) == 1 for w in seen[1:])
    rounded = loss_curves(model, groups, scores, loss, points=4, round_to=4)
    assert rounded["0"].removed == (0, 4)
    assert rounded["2"].removed == (0, 4, 8)


def test_a_loss_that_raises_leaves_the_model_whole(model: nn.Sequential) -> None:
    groups, scores = groups_and_scores(model)
    before, calls = fingerprint(model), itertools.count()

    def loss(model: nn.Module) -> float:
        if next(calls) == 3:
            raise RuntimeError("no more")
        return 0.0

    with pytest.raises(RuntimeError, match="no more"):
        loss_curves(model, groups, scores, loss)
    assert fingerprint(model) == before


def test_rise_is_that_of_the_lowest_channels(model: nn.Sequential) -> None:
    groups, _ = groups_and_scores(model)
    scores = {"0": torch.tensor([5.0, 1.0, 3.0, 2.0, 9.0, 9.0, 9.0, 9.0])}
    batches = [(torch.randn(64, 3), torch.arange(64) % 2)]
    curve = loss_curves(model, groups, scores, lambda m: mean_loss(m, batches), points=4)["0"]
    weight = model[2].weight
    kept = weight.detach().clone()
    base = mean_loss(model, batches)
    with torch.no_grad():
        weight[:, [1, 3]] = 0
    assert curve.rise[1] == pytest.approx(max(mean_loss(model, batches) - base, 0), abs=1e-6)
    with torch.no_grad():
        weight.copy_(kept)


def best_by_search(curves: dict[str, Curve], wanted: int) -> float:
    """The least rise at which at least so many channels go."""
    choices: list[Sequence[tuple[int, float]]] = [list(zip(c.removed, c.rise, strict=True)) for c in curves.values()]
    return min(sum(r for _, r in way) for way in itertools.product(*choices) if sum(n for n, _ in way) >= wanted)


def test_plans_are_the_best_where_costs_add_up(model: nn.Sequential) -> None:
    groups, scores = groups_and_scores(model)
    generator = torch.Generator().manual_seed(0)
    total = sum(g.channels for g in groups if not g.fixed)
    for _ in range(20):
        curves = {}
        for name, row in scores.items():
            rise = torch.rand(len(row), generator=generator).sort().values.cumsum(0).tolist()  # convex
            curves[name] = Curve(tuple(range(len(row))), (0.0, *rise[:-1]))
        for wanted in (1, 5, 11, 17):
            plan = plan_by_curves(model, groups, scores, curves, target=Target("channels", wanted / total), example_inputs=X)
            removed = {name: len(plan.remove.get(name, ())) for name in curves}
            assert sum(removed.values()) == wanted
            assert sum(curves[n].rise[c] for n, c in removed.items()) == pytest.approx(
                best_by_search(curves, wanted), rel=1e-12
            )
            assert plan.remove == {n: tuple(range(c)) for n, c in removed.items() if c}


@pytest.mark.parametrize("measure", ["macs", "parameters"])
def test_targets_are_reached(model: nn.Sequential, measure: str) -> None:
    groups, scores = groups_and_scores(model)
    curves = {name: Curve((0, len(row) // 2, len(row) - 1), (0.0, 1.0, 3.0)) for name, row in scores.items()}
    dense = getattr(count_cost(model, X), measure)
    for remove in (0.0, 0.2, 0.5, 0.8):
        target = Target(measure, remove)  # type: ignore[arg-type]
        plan = plan_by_curves(model, groups, scores, curves, target=target, example_inputs=X, note={"criterion": "order"})
        cut = apply(model, plan)
        assert 1 - getattr(count_cost(model, X), measure) / dense == pytest.approx(plan.note["reached"])
        assert abs(plan.note["reached"] - remove) < 0.05
        assert (plan.note["ranking"], plan.note["criterion"]) == ("curves", "order")
        cut.undo()


def test_the_landing_keeps_to_multiples(model: nn.Sequential) -> None:
    groups, scores = groups_and_scores(model)
    curves = loss_curves(model, groups, scores, lambda m: -sum(widths(m)), points=3, round_to=4)
    plan = plan_by_curves(model, groups, scores, curves, target=Target("macs", 0.3), example_inputs=X, round_to=4)
    assert all(after % 4 == 0 for _, after in plan.widths().values())


def test_what_cannot_be_reached_is_said(model: nn.Sequential) -> None:
    groups, scores = groups_and_scores(model)
    text = r"^plan_by_curves: target macs: wanted 0\.9 removed, got at most 0\.\d+ with the curves as given$"
    with pytest.raises(ValueError, match=text):
        plan_by_curves(model, groups, scores, {"0": Curve((0, 1), (0.0, 1.0))}, target=Target("macs", 0.9), example_inputs=X)


def test_mean_loss_is_of_all_batches() -> None:
    batches = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), (torch.full((4, 2), 1e9), torch.zeros(4).long())]
    batches[1][0][:, 0] = 0
    assert [len(first_batches(iter(batches), images)) for images in (1, 4, 5, 9)] == [1, 1, 2, 2]
    assert mean_loss(nn.Identity(), first_batches(batches, 3)) == pytest.approx(0.693147, abs=1e-6)
    assert mean_loss(nn.Identity(), batches) > 1e8
    with pytest.raises(ValueError, match="mean_loss: loader: wanted at least one image, got none"):
        mean_loss(nn.Identity(), [])


class Passes:
    """Batches that count how often they are read."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return iter(self.batches)


def test_curves_read_their_images_once() -> None:
    data = toy.data()
    calibration = Passes(list(data.calibration))
    options = {"criterion": "l1", "ranking": "curves", "steps": 0, "target": Target("macs", 0.4)}
    Pruner(toy.model(), Loaders(data.train, calibration, data.test), **options).run()
    assert calibration.passes == 1
