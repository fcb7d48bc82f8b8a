"""The binding and tensors of other devices: seen rightly, refused by CPU kernels. No such device is needed."""

from __future__ import annotations

import pytest
import torch
from emulated import OnDevice

from pyprune_fast import _cpu


def test_a_cuda_tensor_is_seen_and_refused_by_cpu_kernels() -> None:
    x = OnDevice(torch.zeros(2, 3), device=1)
    seen = _cpu.describe(x)
    assert (seen["on_cuda"], seen["device"], seen["shape"]) == (True, 1, (2, 3))
    edges, counts, nans = torch.zeros(3, 1), torch.zeros(3, 1, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for call in (
        lambda: _cpu.joint_counts(x, edges, None, counts, nans, 1),
        lambda: _cpu.norms(x, 1, None, torch.zeros(2), torch.zeros(3), 1),
        lambda: _cpu.take(x, None, None, torch.zeros(2, 3), 1),
    ):
        with pytest.raises(ValueError, match="wanted tensors on the CPU, got one on a CUDA device"):
            call()
    assert _cpu.describe(OnDevice(torch.zeros(2, 3), device_type=1))["on_cuda"] is False


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted one on the CPU or on a CUDA device"):
        _cpu.describe(OnDevice(torch.zeros(2, 3), device_type=10))
