"""torch.compile and torch.export: ops, watched models and cut models are traced whole, and compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toy
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pyprune_fast import AuraInformation, ChannelInformation, Estimator, Levels, observe, ops, score_model
from pyprune_fast.graph import find_groups
from pyprune_fast.slicing import Plan, apply

LEVELS = Levels.uniform(0, 1, 4, channels=8)
BATCHES = toy.batches(3, 5, size=8)


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> None:
    torch._dynamo.reset()
    counters.clear()


def estimators() -> dict[str, Estimator]:
    return {"2": AuraInformation(LEVELS, num_classes=2), "4": ChannelInformation(LEVELS, num_classes=2)}


def watched(run: nn.Module, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and counts of the layers that are watched meanwhile."""
    found, outputs = estimators(), []
    with torch.no_grad(), observe(model, found) as observation:
        for x, labels in batches:
            observation.labels = labels
            outputs.append(run(x))
    return outputs, [estimator.counts for estimator in found.values()]


def test_every_op_is_checked() -> None:
    """Schema, shape rule and kernel agree: `opcheck` in each op's own test."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    names = {
        name.partition("::")[2].partition(".")[0] for name in torch._C._dispatch_get_all_op_names() if "pyprune_fast::" in name
    }
    assert names == {
        "aura_counts", "entropy", "extremes", "information", "joint_counts", "masked_norm", "masked_norm_backward", "norms",
        "pair_counts", "pair_information", "take", "take_all",
    }  # fmt: skip
    missing = {
        name for name in names if f"opcheck(torch.ops.pyprune_fast.{name}" not in tests.replace("\n", "").replace(" ", "")
    }
    assert not missing


@pytest.mark.filterwarnings("ignore:`torch.jit.script.*` is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_watched_model_is_one_graph(backend: str) -> None:
    model = toy.model()
    outputs, counts = watched(model, model, BATCHES[:2])
    found, traced = watched(torch.compile(model, fullgraph=True, backend=backend), model, BATCHES[:2])
    assert all(torch.equal(a, b) for a, b in zip(counts, traced, strict=True))
    for a, b in zip(outputs, found, strict=True):
        torch.testing.assert_close(a, b)


def test_batches_and_labels_that_change_compile_a_few_times_only() -> None:
    model, batches = toy.model(), [(x[:size], y[:size]) for x, y in BATCHES for size in (8, 5, 7, 3)]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _, wanted = watched(model, model, batches)
    _, got = watched(compiled, model, batches)
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert counters["stats"]["unique_graphs"] <= 5


def test_hooks_go_away() -> None:
    model, found = toy.model(), estimators()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        with observe(model, found, labels=BATCHES[0][1]):
            compiled(BATCHES[0][0])
        before = found["2"].counts.clone()
        compiled(BATCHES[0][0])
    assert torch.equal(found["2"].counts, before)


def test_what_was_compiled_before_sees_nothing_and_says_so() -> None:
    model, found = toy.model(), estimators()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(BATCHES[0][0])
        with observe(model, found, labels=BATCHES[0][1]):
            compiled(BATCHES[0][0])
    with pytest.raises(RuntimeError, match="wanted an update before compute, got none"):
        found["2"].compute()


def test_a_compiled_model_is_scored_as_the_plain_one() -> None:
    model = toy.model()
    compiled = torch.compile(model, backend="eager")
    compiled(BATCHES[0][0])
    wanted, got = (score_model(m, BATCHES).layers for m in (model, compiled))
    assert list(wanted) == list(got)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_a_compiled_model_follows_a_cut_and_its_undoing() -> None:
    model, x = toy.model(), BATCHES[0][0]
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        dense = compiled(x)
        cut = apply(model, Plan.of(model, find_groups(model, x), {"0": [1, 4]}))
        assert torch.equal(compiled(x), model(x))
        assert not torch.equal(compiled(x), dense)
        cut.undo()
        assert torch.equal(compiled(x), dense)


class Counting(nn.Module):
    """A model with an op in it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.joint_counts(x.relu(), LEVELS), ops.norms(x)[0]


def test_export_keeps_the_ops() -> None:
    x = torch.rand(2, 8, 3, 3)
    program = torch.export.export(Counting(), (x,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"pyprune_fast.joint_counts.default", "pyprune_fast.norms.default"} <= targets
    assert all(torch.equal(a, b) for a, b in zip(program.module()(x), Counting()(x), strict=True))
