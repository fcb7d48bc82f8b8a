"""What candidates compute alike is computed once, and nothing that is measured changes by it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import nets
import pytest
import torch
from sequence_nets import SeparateAttention, TorchAttention, ViT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from vision_nets import CifarResNet

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Metric, Problem, Target, group_norms, metrics, searches, simulate
from pyprune_fast.prune.metrics import shared, sharing, together
from pyprune_fast.slicing import Group, Plan, apply

PRODUCTS = ("addmm", "mm", "linear")


class Products(TorchDispatchMode):
    """Counts the products that really run."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.ran[name] += name in PRODUCTS
        return func(*args, **(kwargs or {}))


def outputs(batches: Any, name: str = "outputs") -> tuple[Metric, list[Tensor]]:
    """A metric that keeps copies of all that the model puts out."""
    seen: list[Tensor] = []

    def measure(model: nn.Module) -> float:
        with torch.no_grad(), shared(model):
            found = [model(x) for x in batches]
        flat = [y.clone() for out in found for y in (out.values() if isinstance(out, dict) else [out])]
        seen.append(torch.cat([y.flatten() for y in flat]))
        return float(seen[-1].sum())

    return Metric(name, measure), seen


def candidates(model: nn.Module, groups: list[Group]) -> list[dict[str, tuple[int, ...]]]:
    free = [group for group in groups if not group.fixed and group.channels > 1]
    return [{}, *({g.name: tuple(range(count))} for g in free for count in (1, g.channels // 2)), {}]


def measured(model: nn.Module, groups: list[Group], metric: Metric) -> None:
    """Every candidate, and the dense model before and after them."""
    for remove in candidates(model, groups):
        cut = apply(model, Plan.of(model, groups, remove)) if remove else None
        metric.estimate(model)
        if cut is not None:
            cut.undo()


class InPlace(nn.Module):
    """Writes into what layers put out, and into what they took."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = self.b(y.relu_())
        y += self.norm(z)
        y.mul_(0.5)
        return self.out(nn.functional.relu(self.c(y), inplace=True)).sigmoid_()


CASES = {
    **nets.NETS,
    "resnet": lambda: (CifarResNet(1), torch.randn(2, 3, 8, 8)),
    "attention": lambda: (ViT(SeparateAttention), torch.randn(2, 3, 8, 8)),
    "in place": lambda: (InPlace(), torch.randn(3, 4)),
}


@pytest.mark.parametrize("limit", [0, 3000, 1 << 20])
@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_plain_ones_bit_for_bit(case: str, limit: int) -> None:
    torch.manual_seed(0)
    model, x = CASES[case]()
    groups = find_groups(model.eval(), x)
    batches = [x, x.flip(0), x]
    metric, seen = outputs(batches)
    measured(model, groups, metric)
    plain = list(seen)
    seen.clear()
    with sharing(limit):
        measured(model, groups, metric)
    assert len(seen) == len(plain) > 3
    assert all(torch.equal(a, b) for a, b in zip(seen, plain, strict=True))
    assert torch.equal(seen[0], seen[-1])


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [module for _ in range(4) for module in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(6, 2)).eval()


def run(model: nn.Module, metric: Metric) -> int:
    with Products() as products:
        metric.estimate(model)
    return products.ran["addmm"]


def test_layers_before_the_first_change_are_not_run_again() -> None:
    model, x = chain(), torch.randn(5, 6)
    groups = find_groups(model, x)
    metric, _ = outputs([x])
    with sharing():
        assert run(model, metric) == 5
        assert run(model, metric) == 0
        for number, name in enumerate(("0", "2", "4", "6")):
            for count in (1, 3):
                cut = apply(model, Plan.of(model, groups, {name: tuple(range(count))}))
                # The layer that lost outputs, and all behind it; the layers between this group and the last once more.
                again = 1 if number and count == 1 else 0
                assert run(model, metric) == 5 - number + again
                assert run(model, metric) == 0
                cut.undo()
    assert run(model, metric) == 5


def test_metrics_of_the_same_data_share_a_pass() -> None:
    model, data = chain(), [(torch.randn(5, 6), torch.randint(0, 2, (5,))) for _ in range(3)]
    wanted = [
        metrics.accuracy(data),
        metrics.recall(data, of=0),
        metrics.agreement(data, model),
        metrics.latent_drift(data, model),
    ]
    plain = metrics.evaluate(model, wanted)
    with sharing(), Products() as products:
        table = metrics.evaluate(model, wanted)
    assert products.ran["addmm"] == 5 * 3
    assert [row.value for row in table.rows] == [row.value for row in plain.rows]


def test_changes_that_versions_do_not_tell_are_seen() -> None:
    """A batch in a buffer that NumPy fills anew, and weights that training or a cut wrote to."""
    model, buffer = chain(), torch.zeros(5, 6)
    metric, seen = outputs([buffer])

    def expect(count: int) -> None:
        assert run(model, metric) == count
        with torch.no_grad():
            assert torch.equal(seen[-1], model(buffer).flatten())

    with sharing():
        expect(5)
        buffer.numpy()[:] = 1.0
        expect(5)
        buffer.numpy()[:, 0] = -0.0
        expect(5)
        buffer.numpy()[:, 0] = 0.0  # equal, in other bits
        assert run(model, metric) > 0
        with torch.no_grad():
            model[4].weight.mul_(2)
        expect(3)
        model[4].weight.grad = None
        model[4].weight = nn.Parameter(model[4].weight.detach().clone())  # another tensor, the same numbers
        expect(0)


def test_chance_gradients_casts_and_foreign_tensors_run_as_ever() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    x, found = torch.randn(16, 4), []

    def drawn(net: nn.Module) -> float:
        with torch.no_grad(), shared(net):
            found.append(net(x))
        return 0.0

    with sharing():
        for seed in (0, 1, 0):
            Metric("drawn", drawn, seed=seed).estimate(model)
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])

    def slope(net: nn.Module) -> float:
        with shared(net):
            (grad,) = torch.autograd.grad(net(x).sum(), net[0].weight)
        return float(grad.norm())

    def cast(net: nn.Module) -> float:
        with torch.no_grad(), shared(net), torch.autocast("cpu", torch.bfloat16):
            return float(net(x).sum())

    def inferred(net: nn.Module) -> float:
        with torch.inference_mode(), shared(net):
            return float(net(x.clone()).sum())

    model.eval()
    for function in (slope, cast, inferred):
        metric = Metric("own", function)
        plain = metric.estimate(model)
        with sharing(), Products() as products:
            assert metric.estimate(model) == metric.estimate(model) == plain
        assert sum(products.ran.values()) >= 4  # both passes ran


def test_fused_attention_keeps_its_path() -> None:
    model, x = TorchAttention().eval(), torch.randn(2, 5, 6)
    metric, seen = outputs([x])
    metric.estimate(model)
    with sharing():
        metric.estimate(model)
        assert run(model, metric) > 0
    assert torch.equal(seen[0], seen[1])


def test_what_has_no_room_is_not_kept() -> None:
    model, x = chain(), torch.randn(50, 6)
    groups = find_groups(model, x)
    metric, _ = outputs([x])
    found = together._Shared(4000)
    token = together._SHARED.set(found)
    try:
        for remove in candidates(model, groups):
            cut = apply(model, Plan.of(model, groups, remove)) if remove else None
            metric.estimate(model)
            held = {id(x.numbers): x.numbers.nbytes for c in found._calls.values() for x in (*c.made, *_taken(c))}
            assert 0 < found.bytes <= 4000
            assert sum(held.values()) == found.bytes
            if cut is not None:
                cut.undo()
    finally:
        together._SHARED.reset(token)
    with pytest.raises(ValueError, match="sharing: limit: wanted"), sharing(-1):
        pass


def _taken(call: together._Call) -> list[together._Argument]:
    return [x for x in call.arguments if isinstance(x, together._Argument)]


def test_simulations_and_searches_share() -> None:
    model, x = chain(), torch.randn(40, 6)
    groups = find_groups(model, x)
    importance, labels = group_norms(model, groups), torch.randint(0, 2, (40,))
    wanted = [metrics.accuracy([(x, labels)]), metrics.latent_drift([x], model, floor=1.0)]

    def found() -> tuple[Any, ...]:
        problem = Problem(
            model, groups, importance, x, metrics=wanted, target=Target("parameters", 0.5), tolerance=0.05, bounds={}
        )  # fmt: skip
        simulation = simulate(model, groups, importance, wanted, ratios=(0.25, 0.5))
        results = [searches.grid(problem, levels=(0.0, 0.3, 0.6)), searches.spsa(problem, steps=5)]
        rows = [{key: [row.value for row in c.table.rows] for key, c in problem.measured.items()}]
        return simulation, [(r.candidate.counts, r.history, r.evaluations) for r in results], rows

    with Products() as products:
        with_sharing = found()
    few = products.ran["addmm"]
    with sharing(0), Products() as products:  # searches within share as this block does: not at all
        assert found() == with_sharing
    assert few < 0.6 * products.ran["addmm"]
