"""jit.cupy_cuda as far as it goes without CuPy and a device: what `_cuda_jit` hands over for each launch."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import emulated
import pybind11
import pytest
import torch
from test_cuda_build import KERNELS

from pyprune_fast import Levels, _native

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not emulated.AVAILABLE, reason="the build needs g++ on x86-64")
KNOWN = {kernel for kernels in KERNELS.values() for kernel in kernels}


class FakeCupy(types.ModuleType):
    """As much of CuPy as a launch needs; remembers kernels that were asked for and launched."""

    class CudaDevice:
        attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 227 << 10, "ComputeCapabilityMajor": 9}  # noqa: RUF012
        id = 0

        def __init__(self, device: int = 0) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    def __init__(self) -> None:
        super().__init__("cupy")
        self.launched: list[tuple[Any, ...]] = []
        driver = types.SimpleNamespace(launchKernel=lambda *arguments: self.launched.append(arguments))
        runtime = types.SimpleNamespace(getDeviceCount=lambda: 1)
        self.cuda = types.SimpleNamespace(Device=self.CudaDevice, driver=driver, runtime=runtime)

    def RawModule(self, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> Any:  # noqa: N802
        function = types.SimpleNamespace(kernel=types.SimpleNamespace(ptr=name_expressions[0]), max_dynamic_shared_size_bytes=0)
        return types.SimpleNamespace(get_function=lambda name: function)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    include = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    flags = ["-O0", "-shared", "-fPIC", "-fvisibility=hidden", "-DPPF_CUDA_MODULE=_cuda_jit", *include]
    sources = [*emulated.SOURCES, ROOT / "csrc" / "binding" / "cuda.cpp"]
    path = emulated.built("_cuda_jit.so", sources, flags, runtime="jit")
    spec = importlib.util.spec_from_file_location("_cuda_jit", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "pyprune_fast.jit.cupy_cuda", raising=False)
    monkeypatch.setattr(_native, "load", lambda name: module)
    return cupy


def launched(fake: FakeCupy, function: str, *arguments: Any) -> list[str]:
    """The kernels that a call launches, by their names."""
    jit = importlib.import_module("pyprune_fast.jit.cupy_cuda")
    fake.launched.clear()
    on_device = [emulated.OnDevice(a) if isinstance(a, torch.Tensor) else a for a in arguments]
    jit.call(0, function, *on_device)
    return [str(launch[0]).removeprefix("ppf::cuda::") for launch in fake.launched]


def test_every_launch_names_a_kernel_that_nvrtc_compiles(fake: FakeCupy) -> None:
    zeros = torch.zeros(2, dtype=torch.int64)
    labels = torch.zeros(4, dtype=torch.int64)
    kinds = (torch.float16, 16), (torch.bfloat16, 100), (torch.float32, 256), (torch.float64, 5), (torch.float32, 7)
    for (dtype, count), trial in itertools.product(kinds, (False, True)):
        launched(fake, "set_trial_kernels", trial)
        x, levels = torch.zeros(4, 2, 8, 8, dtype=dtype), Levels(torch.zeros(2, count - 1))
        counts = torch.zeros(2, 1, 1, count, count, dtype=torch.int64)
        arguments = (x, levels.edges, [(0, 0, 1)], False, labels, counts)
        memory = torch.zeros(1 << 20, dtype=torch.int64)
        memory = memory[-memory.data_ptr() % 256 // 8 :].view(torch.uint8)
        names = launched(fake, "aura_counts", *arguments, zeros, memory, 5)
        assert names[0] == "classes_kernel"
        assert names[1].startswith("aura_bits_kernel") == (trial and count <= 16 and dtype != torch.float64)
        names += launched(
            fake, "joint_counts", x, levels.edges, None, torch.zeros(2, 1, count, dtype=torch.int64), zeros, memory, 0
        )
        names += launched(
            fake, "pair_counts", x, levels.edges, torch.zeros(2, 2, count, count, dtype=torch.int64), zeros, memory, 0
        )
        names += launched(fake, "take", x, labels, None, torch.zeros_like(x), 0)
        assert {
            name.replace(" >", ">").replace("unsigned char", "uint8_t").replace("short unsigned int", "uint16_t")
            for name in names
        } <= KNOWN
    assert fake.launched[-1][7:9] == (0, 0)  # shared memory, stream


def test_a_failed_launch_is_an_error_with_its_cause(fake: FakeCupy) -> None:
    def fail(*arguments: Any) -> None:
        raise ValueError("no such device")

    fake.cuda.driver.launchKernel = fail
    with pytest.raises(RuntimeError, match=r"^CUDA: .*: no such device$"):
        launched(fake, "take", torch.zeros(2, 3), None, None, torch.zeros(2, 3), 0)
