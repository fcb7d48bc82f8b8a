"""Loads the compiled modules, and explains a load that failed.

A missing module does not disturb the import of the package. For a missing `_cpu` its ops are done by numba where that is
installed, else in plain torch (jit/), and the first use says so in one RuntimeWarning. For a missing `_cuda` its kernels are
compiled by CuPy where that and `_cuda_jit` are installed; else CUDA tensors are done in plain torch, and the first use of each
op says so (ops/_common.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import warnings
from functools import cache, cached_property, partial
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch.utils import _pytree as pytree

_REMEDY = {
    "_cpu": "pip install --force-reinstall pyprune-fast, or pip install -e . in a checkout"
    " (it needs g++ with C++20, and PYPRUNE_FAST_CPU=0 leaves it out)",
    "_cuda_jit": "install without nvcc on PATH and with g++",
    "_cuda": "install with nvcc on PATH and PYPRUNE_FAST_CUDA=1, which then says what fails",
}


class _Missing:
    """Stands for a module that could not be loaded; every use says why."""

    def __init__(self, name: str, error: ImportError) -> None:
        self._text = f"pyprune_fast.{name} could not be loaded: {error}. To mend it: {_REMEDY[name]}"

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(self._text)


def load(name: str) -> ModuleType | _Missing:
    """The compiled module of this name, or what explains its absence."""
    try:
        return importlib.import_module(f"pyprune_fast.{name}")
    except ImportError as error:
        return _Missing(name, error)


class _Fallback:
    """Stands for `_cpu` where it could not be loaded: the same functions, slower; the first use of one says so."""

    def __init__(self, missing: _Missing) -> None:
        self._missing = missing._text
        self._said = False

    @cached_property
    def _chosen(self) -> tuple[ModuleType, str]:
        """The module in use, imported only now, and what to call it."""
        try:
            return importlib.import_module("pyprune_fast.jit.numba_cpu"), f"numba (compiled module missing: {self._missing})"
        except ImportError as error:
            text = (
                f"plain torch (numba missing: {error}. To mend it: pip install numba; compiled module missing: {self._missing})"
            )
            return importlib.import_module("pyprune_fast.jit.torch_cpu"), text

    @property
    def _text(self) -> str:
        return self._chosen[1]

    def __getattr__(self, attribute: str) -> Any:
        function = getattr(self._chosen[0], attribute)
        if not self._said:
            self._said = True
            text = f"pyprune_fast: CPU ops run slower than they could, by {self._text}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return function


def _load_cpu() -> ModuleType | _Fallback:
    module = load("_cpu")
    return _Fallback(module) if isinstance(module, _Missing) else module


cpu: Any = _load_cpu()


class _ByCupy:
    """Stands for `_cuda` where it was not built but CuPy is installed: the same functions, compiled when they are used."""

    def __getattr__(self, attribute: str) -> Any:
        jit = importlib.import_module("pyprune_fast.jit.cupy_cuda")
        if attribute == "device_status":
            return jit.device_status
        return partial(self._call, jit, attribute)

    @staticmethod
    def _call(jit: ModuleType, function: str, *arguments: Any) -> Any:
        leaves = pytree.tree_leaves(arguments)  # take_all gives lists
        device = next((a.device.index for a in leaves if isinstance(a, torch.Tensor)), 0)
        return jit.call(device, function, *arguments)


def _load_cuda() -> ModuleType | _Missing | _ByCupy:
    module = load("_cuda")
    by_cupy = all(importlib.util.find_spec(name) for name in ("cupy", "pyprune_fast._cuda_jit"))
    return _ByCupy() if by_cupy and isinstance(module, _Missing) else module


cuda: Any = _load_cuda()


@cache
def cuda_trouble() -> str:
    """Why CUDA tensors cannot go to the kernels of `_cuda`; "" when they can."""
    if isinstance(cuda, _Missing):
        return cuda._text
    status = cuda.device_status()
    return "" if status["count"] else f"CUDA finds no device: {status['reason']}"


def build_info() -> dict[str, str]:
    """What was built and what works here.

    Returns:
        A dict of text: versions of pyprune_fast, torch and Python; `cpu` and `cuda`, each "built" or why not, with what `cpu`
        uses instead, "numba (...)" or "plain torch (...)"; `isa`, the SIMD level in use (PYPRUNE_FAST_ISA forces one: portable,
        avx2, avx512, vbmi, amx) and the highest of this machine; `cuda_device`, the number of devices or CUDA's own words for
        why there is none; `cuda_tensors`, what counts and cuts them. Starts no CUDA context.

    Example:
        >>> import pyprune_fast
        >>> pyprune_fast.build_info()["cpu"]
        'built'
    """
    info = {"pyprune_fast": version("pyprune-fast"), "torch": torch.__version__, "python": platform.python_version()}
    for name, module in (("cpu", cpu), ("cuda", cuda)):
        info[name] = module._text if isinstance(module, (_Missing, _Fallback)) else "built"
    if isinstance(cuda, _ByCupy):
        info["cuda"] = "by CuPy, which compiles the kernels when they are used"
    if info["cpu"] == "built":
        info["isa"] = f"{cpu.isa()}, highest here {cpu.highest_isa()}"
    if not isinstance(cuda, _Missing):
        status = cuda.device_status()
        info["cuda_device"] = str(status["count"]) if status["count"] else f"none: {status['reason']}"
    info["cuda_tensors"] = "plain torch" if cuda_trouble() else "kernels of _cuda"
    return info
