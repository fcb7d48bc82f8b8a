"""The binding and tensors of other devices: seen rightly, refused by CPU kernels. No such device is needed."""

from __future__ import annotations

import ctypes

import pytest
import torch

from pyprune_fast import _cpu


class OnDevice:
    """Host memory that says it lies on another device: what a tensor of that device looks like to the binding."""

    class _Managed(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
            ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
            ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        )  # fmt: skip

    def __init__(self, device_type: int) -> None:
        self.memory, self.shape = (ctypes.c_float * 6)(), (ctypes.c_int64 * 2)(2, 3)
        memory, shape = ctypes.addressof(self.memory), ctypes.addressof(self.shape)
        self.managed = self._Managed(memory, device_type, 1, 2, 2, 32, 1, shape, None, 0, None, None)

    def __dlpack__(self) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), b"dltensor", None)


def test_a_cuda_tensor_is_seen_and_refused_by_cpu_kernels() -> None:
    x = OnDevice(device_type=2)
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
    assert _cpu.describe(OnDevice(device_type=1))["on_cuda"] is False


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted one on the CPU or on a CUDA device"):
        _cpu.describe(OnDevice(device_type=10))
