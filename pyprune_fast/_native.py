"""Loads the compiled modules, and explains a load that failed.

A missing module does not disturb the import of the package: its first use raises one RuntimeError with the command that
mends it.
"""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch

_REMEDY = {
    "_cpu": "pip install --force-reinstall pyprune-fast, or pip install -e . in a checkout (it needs g++ with C++20)",
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


cpu: Any = _load("_cpu")
cuda: Any = _load("_cuda")


def build_info() -> dict[str, str]:
    """What was built and what works here.

    Returns:
        A dict of text: versions of pyprune_fast, torch and Python; `cpu` and `cuda`, each "built" or why not; `isa`, the
        SIMD level in use (PYPRUNE_FAST_ISA forces one: portable, avx2, avx512, vbmi, amx) and the highest of this machine;
        `cuda_device`, the number of devices or CUDA's own words for why there is none. Starts no CUDA context.

    Example:
        >>> import pyprune_fast
        >>> pyprune_fast.build_info()["cpu"]
        'built'
    """
    info = {"pyprune_fast": version("pyprune-fast"), "torch": torch.__version__, "python": platform.python_version()}
    for name, module in (("cpu", cpu), ("cuda", cuda)):
        info[name] = module._text if isinstance(module, _Missing) else "built"
    if info["cpu"] == "built":
        info["isa"] = f"{cpu.isa()}, highest here {cpu.highest_isa()}"
    if info["cuda"] == "built":
        status = cuda.device_status()
        info["cuda_device"] = str(status["count"]) if status["count"] else f"none: {status['reason']}"
    return info
