"""The CUDA ops where nvcc was not at hand: CuPy's NVRTC compiles the very same csrc/cuda/*_kernels.cuh at the first use.

`_cuda_jit` is `_cuda` built by g++ alone: the same arguments, checks and launches, but each launch is handed to this file, with
the kernel's name and its parameters. CuPy keeps what it has compiled on disk.

Functions take CuPy arrays, or whatever else offers DLPack on a CUDA device, in the order of the contracts in csrc/core; they
allocate the workspace and queue the work on CuPy's current stream. Torch tensors go through pyprune_fast.ops.
"""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Any

import cupy

from pyprune_fast import _native

_HERE = Path(__file__).parent
_SOURCES = ("aura", "aura_bits", "joint", "levels", "pairs", "take")
_ALWAYS_THERE = 48 << 10  # bytes of shared memory that need not be asked for


class _Driver(ctypes.Structure):
    """ppf::jit::Driver of csrc/jit/cuda_runtime.h."""

    LAUNCH = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_void_p, ctypes.c_int,
    )  # fmt: skip
    _fields_ = (
        ("launch", LAUNCH), ("multiprocessors", ctypes.c_int), ("shared_bytes", ctypes.c_int),
        ("compute_capability", ctypes.c_int), ("devices", ctypes.c_int),
    )  # fmt: skip


def kernel_name(text: str) -> str:
    """The kernel in what g++ says of a launch, `... [with auto kKernel = ppf::cuda::{anonymous}::name<...>; ...]`."""
    found = re.search(r"kKernel = ([^;\]]+)", text)
    if found is None:
        raise ValueError(f"launch: wanted a text with a kernel's name, got {text!r}")
    return found.group(1).replace("{anonymous}::", "")


@functools.cache
def _kernel(name: str, device: int) -> Any:
    folder = _HERE / "csrc" if (_HERE / "csrc").is_dir() else _HERE.parents[1] / "csrc" / "cuda"
    code = "".join(f'#include "{source}_kernels.cuh"\n' for source in _SOURCES)
    options = ("--std=c++20", "--fmad=false", f"-I{folder}")
    return cupy.RawModule(code=code, options=options, name_expressions=(name,)).get_function(name)


class _Launcher:
    """What `_cuda_jit` calls for each launch; keeps the error of one that failed."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __call__(
        self, text: bytes, blocks: int, threads: int, shared: int, stream: int | None, parameters: int, sizes: int, count: int
    ) -> int:
        try:
            function = _kernel(kernel_name(text.decode()), cupy.cuda.Device().id)
            if shared > _ALWAYS_THERE:
                function.max_dynamic_shared_size_bytes = shared
            handle = function.kernel.ptr
            cupy.cuda.driver.launchKernel(handle, blocks, 1, 1, threads, 1, 1, shared, stream or 0, parameters, 0)
        except BaseException as error:  # an exception cannot pass through C++
            self.error = error
            return 1
        return 0


_launcher = _Launcher()
_LAUNCH = _Driver.LAUNCH(_launcher)


@functools.cache
def _module(device: int) -> Any:
    """`_cuda_jit`, told of the device."""
    module = _native.load("_cuda_jit")
    attributes = cupy.cuda.Device(device).attributes
    driver = _Driver(
        _LAUNCH,
        attributes["MultiProcessorCount"],
        attributes["MaxSharedMemoryPerBlockOptin"],
        attributes["ComputeCapabilityMajor"],
        cupy.cuda.runtime.getDeviceCount(),
    )
    ctypes.CDLL(module.__file__).ppf_set_driver(ctypes.byref(driver))
    return module


def device_status() -> dict[str, Any]:
    """As of `_cuda`: how many devices there are, and why there is none."""
    try:
        return {"count": cupy.cuda.runtime.getDeviceCount(), "reason": ""}
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return {"count": 0, "reason": str(error)}


def call(device: int, function: str, *arguments: Any) -> Any:
    """A function of `_cuda_jit` on this device, with CuPy's error where a launch failed."""
    with cupy.cuda.Device(device):
        _launcher.error = None
        try:
            return getattr(_module(device), function)(*arguments)
        except RuntimeError as error:
            if _launcher.error is not None:
                raise RuntimeError(f"{error}: {_launcher.error}") from _launcher.error
            raise


def _run(function: str, sizer: str, measured: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    device = cupy.cuda.Device().id
    memory = cupy.empty(call(device, sizer, *measured), cupy.uint8)
    call(device, function, *arguments, memory, cupy.cuda.get_current_stream().ptr)


def aura_counts(
    x: Any, edges: Any, offsets: list[tuple[int, int, int]], periodic: bool, labels: Any, counts: Any, nans: Any
) -> None:
    """Contract: csrc/core/aura.h."""
    measured = (x, edges, offsets, periodic, labels, counts)
    _run("aura_counts", "aura_counts_workspace", measured, (*measured, nans))


def joint_counts(x: Any, edges: Any, labels: Any, counts: Any, nans: Any) -> None:
    """Contract: csrc/core/joint.h."""
    _run("joint_counts", "joint_counts_workspace", (labels, counts), (x, edges, labels, counts, nans))


def pair_counts(x: Any, edges: Any, counts: Any, nans: Any) -> None:
    """Contract: csrc/core/pairs.h."""
    _run("pair_counts", "pairs_workspace", (x, edges), (x, edges, counts, nans))


def pair_information(x: Any, edges: Any, correction: str, information: Any, nans: Any) -> None:
    """Contract: csrc/core/pairs.h. Corrections: "plug-in" and "miller-madow"."""
    _run("pair_information", "pairs_workspace", (x, edges), (x, edges, correction, information, nans))


def take(x: Any, rows: Any, columns: Any, out: Any) -> None:
    """Contract: csrc/core/take.h."""
    call(cupy.cuda.Device().id, "take", x, rows, columns, out, cupy.cuda.get_current_stream().ptr)
