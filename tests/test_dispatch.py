"""Which kernels CUDA tensors reach. The wrappers run against the emulated device, with host tensors in the role of CUDA's."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import emulated
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyprune_fast import Levels, _native, build_info, ops
from pyprune_fast.ops import _common

# The package's attributes of these names are functions.
aura, joint, pairs, take = (importlib.import_module(f"pyprune_fast.ops.{op}") for op in ("aura", "joint", "pairs", "take"))


class OnEmulatedDevice:
    """The module `_cuda` as the wrappers see it: their tensors say that they are on a CUDA device."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(emulated.module(), name)
        return lambda *arguments: function(*pytree.tree_map_only(Tensor, emulated.OnDevice, arguments))


@pytest.fixture
def on_emulated_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_native, "cuda", OnEmulatedDevice())
    for op in (aura, joint, pairs, take):
        monkeypatch.setattr(op, "stream_of", lambda x: 0)
    with emulated.device():
        yield


def arguments() -> tuple[Tensor, Levels, Tensor]:
    x = torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    return x, Levels.uniform(-2, 2, count=5, channels=3), torch.tensor([0, 1, 1, 0])


@pytest.mark.skipif(not emulated.AVAILABLE, reason="the emulator needs g++ on x86-64")
@pytest.mark.usefixtures("on_emulated_device")
def test_cuda_wrappers_call_the_kernels_as_the_cpu_ones_do() -> None:
    x, levels, labels = arguments()
    edges, nans = levels.edges, torch.zeros(3, dtype=torch.int64)
    counts = torch.zeros(3, 2, 2, 5, 5, dtype=torch.int64)
    aura._aura_counts_cuda(x, edges, [0, 0, 1, 0, 1, 0], False, labels, counts, nans)
    assert torch.equal(counts, ops.aura_counts(x, levels, labels=labels, num_classes=2))
    counts = torch.zeros(3, 2, 5, dtype=torch.int64)
    joint._joint_counts_cuda(x, edges, labels, counts, nans)
    assert torch.equal(counts, ops.joint_counts(x, levels, labels, 2))
    counts = torch.zeros(3, 3, 5, 5, dtype=torch.int64)
    pairs._pair_counts_cuda(x, edges, counts, nans)
    assert torch.equal(counts, ops.pair_counts(x, levels))
    information = pairs._pair_information_cuda(x, edges, "miller-madow", nans)
    assert torch.allclose(information, ops.pair_information(x, levels, correction="miller-madow"), rtol=0, atol=1e-13)
    rows, columns = torch.tensor([3, 0]), torch.tensor([2, 1])
    assert torch.equal(take._take_cuda(x, rows, columns), ops.take(x, rows, columns))
    assert torch.equal(take._take_cuda(x[:, 0, 0, 0], rows, None), ops.take(x[:, 0, 0, 0], rows))
    with pytest.raises(ValueError, match=r"^take: columns: wanted indices in 0\.\.2, got 1\.\.3$"):
        take._take_cuda(x, None, torch.tensor([1, 3]))
    lists = [x, labels, x[:, 0]], [rows, None, rows], [columns, None, columns]
    for cut, out in zip(zip(*lists, strict=True), take._take_all_cuda(*lists), strict=True):
        assert torch.equal(out, ops.take(*cut))
    with pytest.raises(ValueError, match=r"^take_all: rows: wanted indices in 0\.\.2, got 0\.\.3$"):
        take._take_all_cuda([x, x[:3]], [rows, rows], [None, None])
    assert nans.tolist() == [0, 0, 0]


def test_without_a_device_plain_torch_does_it_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "cuda_trouble", lambda: "no driver")
    _common._say_once.cache_clear()
    calls: list[str] = []
    kernels = (lambda: calls.append("cuda"), lambda: calls.append("other"))
    with pytest.warns(RuntimeWarning, match=r"^an_op: cuda tensors are done in plain torch, which is slower: no driver$"):
        _common._on_cuda("an_op", *kernels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _common._on_cuda("an_op", *kernels)
        monkeypatch.setattr(_native, "cuda_trouble", lambda: "")
        _common._on_cuda("an_op", *kernels)
    assert calls == ["other", "other", "cuda"]


def test_a_device_without_a_kernel_is_said_once() -> None:
    _common._say_once.cache_clear()
    x, factor = torch.zeros(2, device="meta"), None
    text = r"^an_op: meta tensors are done in plain torch, which is slower: there is no kernel for them$"
    with pytest.warns(RuntimeWarning, match=text):
        assert _common._elsewhere("an_op", lambda *arguments: arguments, factor, x) == (factor, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _common._elsewhere("an_op", lambda *arguments: None, x)


def test_trouble_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutDriver:
        def device_status(self) -> dict[str, Any]:
            return {"count": 0, "reason": "no driver", "runtime": 13000, "driver": 0}

    monkeypatch.setattr(_native, "cuda", WithoutDriver())
    assert _native.cuda_trouble.__wrapped__() == "CUDA finds no device: no driver"
    monkeypatch.setattr(_native, "cuda", _native._Missing("_cuda", ImportError("not built")))
    assert "not built" in _native.cuda_trouble.__wrapped__()
    assert build_info()["cuda_tensors"] in ("plain torch", "kernels of _cuda")
