"""The CUDA kernels on the CPU: csrc/cuda compiled by g++ against csrc/emulation, as the module `_cuda_emu`.

`module()` builds it once and keeps it in the build folder. It is the very binding of `_cuda`, so it takes tensors that say they
are on a CUDA device: `OnDevice` says so of a tensor in host memory.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pybind11
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
FLAGS = [
    "-std=c++20",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-pthread",
]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
AVAILABLE = shutil.which("g++") is not None and sysconfig.get_platform() == "linux-x86_64"
SHARED = 227 << 10  # what a block may have on the largest devices

_CODES = {torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.float32: (2, 32), torch.float64: (2, 64), torch.bool: (6, 8)}


def built(name: str, sources: list[Path], flags: list[str], runtime: str = "emulation") -> Path:
    """A file compiled from the sources, again only when something that they include or the command has changed.

    `runtime` is the folder of csrc whose cuda_runtime.h takes the place of CUDA's.
    """
    included = [
        path for folder in ("binding", "core", "cuda", runtime) for path in sorted((ROOT / "csrc" / folder).glob("*.*"))
    ]
    texts = [path.read_bytes() for path in included + sources]
    key = hashlib.sha256(b"\0".join([*texts, *(flag.encode() for flag in flags)])).hexdigest()[:16]
    target = ROOT / "build" / "emulated" / key / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{name}.part")
        subprocess.run(
            ["g++", *FLAGS, *flags, "-x", "c++", f"-I{ROOT / 'csrc' / runtime}", *map(str, sources), "-o", str(draft)],
            check=True,
        )
        draft.rename(target)
    return target


@functools.cache
def module() -> Any:
    """The module, built if need be."""
    include = ["-DPPF_CUDA_MODULE=_cuda_emu", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    path = built(
        "_cuda_emu.so",
        [*SOURCES, ROOT / "csrc" / "binding" / "cuda.cpp"],
        ["-O1", "-shared", "-fPIC", "-fvisibility=hidden", *include],
    )
    spec = importlib.util.spec_from_file_location("_cuda_emu", path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@contextmanager
def device(schedule: int = 0, multiprocessors: int = 4, shared_bytes: int = SHARED, trial: bool = False) -> Iterator[Any]:
    """The module on a device of this size, its threads and blocks run in this order, with the kernels on trial or without."""
    emulation = module()
    emulate = ctypes.CDLL(emulation.__file__).ppf_emulate
    emulate(schedule, multiprocessors, shared_bytes)
    emulation.set_trial_kernels(trial)
    try:
        yield emulation
    finally:
        emulate(0, 4, SHARED)
        emulation.set_trial_kernels(False)


class OnDevice:
    """Host memory that says it lies on a CUDA device: what a tensor of that device looks like to the binding."""

    class _Managed(ctypes.Structure):
        _fields_ = (
            ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
            ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
            ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
            ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        )  # fmt: skip

    def __init__(self, x: Tensor, device_type: int = 2, device: int = 0, strides: tuple[int, ...] | None = None) -> None:
        self.x = x
        self.shape = (ctypes.c_int64 * x.ndim)(*x.shape)
        self.strides = (ctypes.c_int64 * x.ndim)(*(strides or x.stride()))
        code, bits = _CODES.get(x.dtype, (5 if x.is_complex() else 0, 8 * x.element_size()))
        self.managed = self._Managed(
            x.data_ptr(), device_type, device, x.ndim, code, bits, 1,
            ctypes.addressof(self.shape), ctypes.addressof(self.strides), 0, None, None,
        )  # fmt: skip

    def __dlpack__(self) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), b"dltensor", None)


def on_device(x: Tensor | None) -> OnDevice | None:
    return None if x is None else OnDevice(x)


def workspace(size: int) -> OnDevice:
    """As many bytes, full of what nobody may count on, aligned as CUDA's are."""
    memory = torch.full((size // 8 + 65,), -(2**62) + 12345, dtype=torch.int64)
    skip = -memory.data_ptr() % 512 // 8
    return OnDevice(memory[skip : skip + size // 8 + 1].view(torch.uint8))


if __name__ == "__main__":
    print(module().__file__, file=sys.stderr)
