"""Loads the compiled modules, and explains a load that failed.

A missing module does not disturb the import of the package. The first use of a missing `_cuda` raises one RuntimeError with the
command that mends it. For a missing `_cpu` its ops are done by numba where that is installed, else in plain torch (jit/), and
the first use says so in one RuntimeWarning.
"""

from __future__ import annotations

import importlib
import platform
import warnings
from functools import cached_property
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch

_REMEDY = {
    "_cpu": "pip install --force-reinstall pyprune-fast, or pip install -e . in a checkout"
    " (it needs g++ with C++20, and PYPRUNE_FAST_CPU=0 leaves it out)",
    "_cuda": "install with nvcc on PATH and PYPRUNE_FAST_CUDA=1, which then says what fails",
}


class _Missing:
    """Stands for a module that could not be loaded; every use says why."""

    def __init__(self, name: str, error: ImportError) -> None:
        self._text = f"pyprune_fast.{name} could not be loaded: {error}. To mend it: {_REMEDY[name]}"

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(self._text)


def _load(name: str) -> ModuleType | _Missing:
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
    module = _load("_cpu")
    return _Fallback(module) if isinstance(module, _Missing) else module


cpu: Any = _load_cpu()
cuda: Any = _load("_cuda")


def build_info() -> dict[str, str]:
    """What was built and what works here.

    Returns:
        A dict of text: versions of pyprune_fast, torch and Python; `cpu` and `cuda`, each "built" or why not, with what `cpu`
        uses instead, "numba (...)" or "plain torch (...)"; `isa`, the SIMD level in use (PYPRUNE_FAST_ISA forces one: portable,
        avx2, avx512, vbmi, amx) and the highest of this machine; `cuda_device`, the number of devices or CUDA's words for why
        there is none. Starts no CUDA context.

    Example:
        >>> import pyprune_fast
        >>> pyprune_fast.build_info()["cpu"]
        'built'
    """
    info = {"pyprune_fast": version("pyprune-fast"), "torch": torch.__version__, "python": platform.python_version()}
    for name, module in (("cpu", cpu), ("cuda", cuda)):
        info[name] = module._text if isinstance(module, (_Missing, _Fallback)) else "built"
    if info["cpu"] == "built":
        info["isa"] = f"{cpu.isa()}, highest here {cpu.highest_isa()}"
    if info["cuda"] == "built":
        status = cuda.device_status()
        info["cuda_device"] = str(status["count"]) if status["count"] else f"none: {status['reason']}"
    return info
