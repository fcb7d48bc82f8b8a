"""The CUDA kernels on a device: equal to the CPU's counts on any stream, in a graph, on any device. See bench/gpu/run.sh."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import build
from strategies import LAYOUTS, Case, cases, edges, laid_out, thorough, values
from torch import Tensor

from pyprune_fast import Levels, _native, ops
from pyprune_fast._checks import CORRECTIONS
from pyprune_fast.graph import find_groups
from pyprune_fast.slicing import Plan, apply


@pytest.fixture(params=[False, True], autouse=True, ids=["", "trial"])
def trial(request: pytest.FixtureRequest) -> Iterator[None]:
    """All of it once more with the kernels on trial."""
    _native.cuda.set_trial_kernels(request.param)
    yield
    _native.cuda.set_trial_kernels(False)


pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or _native.cuda_trouble() != "", reason="no CUDA device, or no kernels for it"
)


def there(x: Tensor, device: str = "cuda") -> Tensor:
    """The same values on the device, with the same strides."""
    whole = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0).to(device)
    return whole.as_strided(x.shape, x.stride(), x.storage_offset())


def counted(case: Case, x: Tensor, merged: bool = False) -> tuple[Tensor, ...]:
    """Aura, joint and pair counts and their NaN counters, on x's device."""
    levels = case.levels.to(x.device)
    labels = None if case.labels is None else case.labels.to(x.device)
    nans = torch.zeros(3, x.shape[1], dtype=torch.int64, device=x.device)
    options = {
        "neighborhood": case.offsets,
        "periodic": case.periodic,
        "merge_offsets": merged,
        "num_classes": case.num_classes,
    }
    aura = ops.aura_counts(x, levels, labels=labels, nans=nans[0], **options)
    joint = ops.joint_counts(x, levels, labels, case.num_classes, nans=nans[1])
    pairs = ops.pair_counts(x, levels, nans=nans[2])
    return aura, joint, pairs, nans if case.offsets else nans[1:]


def random_case(layout: str = "contiguous") -> Case:
    levels = Levels(edges(16, 16, seed=1))
    x = laid_out(values(levels, (3, 16, 24, 20), torch.bfloat16, seed=2, nan=True), layout)
    return Case(x, levels, torch.tensor([0, 1, 0]), 2, ((0, 1), (1, -1), (1, 0)), periodic=False)


def same(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(one, other, strict=True))


@thorough
@given(cases(nan=True), st.booleans())
def test_equal_to_the_cpu(case: Case, merged: bool) -> None:
    assert same(counted(case, there(case.x), merged), counted(case, case.x, merged))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_take(layout: str) -> None:
    case = random_case(layout)
    assert same(counted(case, there(case.x)), counted(case, case.x))
    rows, columns = torch.tensor([2, 0, 0]), torch.tensor([15, 3, 4])
    taken = ops.take(there(case.x), rows.cuda(), columns.cuda())
    assert torch.equal(taken.cpu().view(torch.int16), ops.take(case.x, rows, columns).view(torch.int16))
    with pytest.raises(ValueError, match=r"^take: rows: wanted indices in 0\.\.2, got 0\.\.3$"):
        ops.take(there(case.x), torch.tensor([3, 0], device="cuda"))


def test_take_all() -> None:
    """More tensors than one launch takes."""
    case = random_case()
    rows, columns = torch.tensor([2, 0, 0]), torch.tensor([15, 3, 4])
    cuts = [(laid_out(case.x, layout), rows, columns if i % 2 else None) for i in range(30) for layout in LAYOUTS]
    there_too = [(there(x), r.cuda(), None if c is None else c.cuda()) for x, r, c in cuts]
    for out, cut in zip(ops.take_all(there_too), cuts, strict=True):
        assert torch.equal(out.cpu().view(torch.int16), ops.take(*cut).view(torch.int16))
    with pytest.raises(ValueError, match=r"^take_all: rows: wanted indices in 0\.\.2, got 0\.\.3$"):
        ops.take_all([(there(case.x), torch.tensor([3, 0], device="cuda"), None)])


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cut_and_undone(layout: torch.memory_format, low_memory: bool, tmp_path: Path) -> None:
    """A model on the device, with gradients and an optimiser's state: as on the CPU, and back."""
    model, x = build("concat")
    groups = [g for g in find_groups(model, x) if not g.fixed]
    plan = Plan.of(model, groups, {g.name: range(0, g.channels - 1, 2) for g in groups})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    model(x).square().sum().backward()
    optimizer.step()
    there, there_too = copy.deepcopy((model, optimizer))
    there.to("cuda", memory_format=layout)
    for new, old in zip(there.parameters(), model.parameters(), strict=True):
        new.grad = old.grad.cuda()
        there_too.state[new] = {key: entry.to("cuda") for key, entry in optimizer.state[old].items()}
    there_too.param_groups[0]["params"] = list(there.parameters())
    whole = {name: tensor.cpu() for name, tensor in there.state_dict().items()}
    apply(model, plan, optimizer=optimizer)
    cut = apply(there, plan, optimizer=there_too, undo=tmp_path / "removed" if low_memory else True, low_memory=low_memory)
    for new, old in zip(there.parameters(), model.parameters(), strict=True):
        assert torch.equal(new.cpu(), old)
        assert torch.equal(new.grad.cpu(), old.grad)
        states = there_too.state[new], optimizer.state[old]
        assert all(torch.equal(states[0][key].cpu(), entry) for key, entry in states[1].items())
    cut.undo()
    assert all(torch.equal(tensor.cpu(), whole[name]) for name, tensor in there.state_dict().items())


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_information(correction: str) -> None:
    case = random_case()
    x, nans = case.x.nan_to_num(), torch.zeros(16, dtype=torch.int64)
    information = ops.pair_information(there(x), case.levels.to("cuda"), correction=correction).cpu()
    assert (information - ops.pair_information(x, case.levels, correction=correction, nans=nans)).abs().le(256 * 2.0**-52).all()


def test_on_a_side_stream() -> None:
    case = random_case()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = there(case.x)
        torch.cuda._sleep(10**8)  # what is queued on another stream must not be overtaken
        x.neg_().neg_()
        result = counted(case, x)
    stream.synchronize()
    assert same(result, counted(case, case.x))


def test_in_a_graph() -> None:
    case = random_case()
    x, levels = there(case.x), case.levels.to("cuda")
    counts = torch.zeros(16, 1, 3, 16, 16, dtype=torch.int64, device="cuda")
    nans = torch.zeros(16, dtype=torch.int64, device="cuda")
    options = {"neighborhood": case.offsets, "into": counts, "nans": nans}
    ops.aura_counts(x, levels, **options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.aura_counts(x, levels, **options)
    counts.zero_()
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    once = ops.aura_counts(case.x, case.levels, neighborhood=case.offsets, nans=nans.cpu())
    assert torch.equal(counts.cpu(), 3 * once)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_on_the_second_device() -> None:
    case = random_case()
    before = torch.cuda.current_device()
    assert same(counted(case, there(case.x, "cuda:1")), counted(case, case.x))
    assert torch.cuda.current_device() == before
