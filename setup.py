"""Builds the compiled modules: _cpu, and _cuda where nvcc is, else _cuda_jit, whose kernels CuPy compiles when they are used.

Nothing is downloaded and torch is not needed.

Environment, at build time only:
    PYPRUNE_FAST_CPU         1 (default): build _cpu; 0: leave it out, for machines without a C++ compiler; numba then does its
                             work (pip install 'pyprune-fast[numba]'), or else plain torch
    PYPRUNE_FAST_CUDA        auto (default): build _cuda if nvcc works, warn if it fails; 1: fail without it; 0: leave it out
    PYPRUNE_FAST_CUDA_ARCHS  e.g. "90" or "80;90" (default: all that we support, and PTX of the newest for later ones)
"""

import os
import re
import shutil
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HEADERS = sorted(f for kind in ("h", "inl", "cuh") for f in glob(f"csrc/**/*.{kind}", recursive=True))
FLAGS = ["-O3", "-Wall", "-Wextra", "-ffp-contract=off", "-fno-math-errno"]
NVCC_FLAGS = ["-std=c++20", "-O3", "--fmad=false", "-Xcompiler=-fPIC,-Wall,-Wextra", "-Werror=all-warnings"]
JIT_FLAGS = ["-std=c++20", "-O1", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Icsrc/jit", "-x", "c++"]
DEFAULT_ARCHS = "75;80;86;90;100"


class CudaExtension(Pybind11Extension):
    """An extension whose .cu files go through nvcc, for some archs, or without any through g++; the rest is compiled as C++."""

    def __init__(self, name: str, sources: list[str], archs: list[str], **options: object) -> None:
        super().__init__(name, [s for s in sources if not s.endswith(".cu")], **options)
        self.archs = archs
        self.cuda_sources = [s for s in sources if s.endswith(".cu")]


def cuda_libraries(nvcc: str) -> list[str]:
    """Ask nvcc itself where its libraries are: the nvcc on PATH may be a wrapper far from the toolkit."""
    dry = subprocess.run([nvcc, "--dryrun", "-x", "cu", "/dev/null", "-o", "/dev/null"], capture_output=True, text=True)
    found = re.search(r"LIBRARIES=(.*)", dry.stderr)
    return re.findall(r'-L"?([^"\s]+)"?', found.group(1)) if found else []


def gencode(archs: str) -> list[str]:
    """The nvcc options for a list such as "80;90": machine code for each, PTX for the newest."""
    names = [a.strip() for a in archs.split(";") if a.strip()]
    if not names or not all(re.fullmatch(r"\d{2,3}[af]?", a) for a in names):
        raise SystemExit(f'PYPRUNE_FAST_CUDA_ARCHS: wanted numbers such as "80;90", got {archs!r}')
    options = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in names]
    newest = names[-1]
    return [*options, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


class BuildExt(build_ext):
    """build_ext with an nvcc step, and object files that are compiled side by side."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        """Compile one module; a failing CUDA module is an error only where it was asked for."""
        if not isinstance(ext, CudaExtension):
            return super().build_extension(ext)
        try:
            self.compile_cuda(ext)
            return super().build_extension(ext)
        except Exception as error:
            if os.environ.get("PYPRUNE_FAST_CUDA", "auto") == "1":
                raise
            self.extensions.remove(ext)
            return warnings.warn(f"building without CUDA: {error}. PYPRUNE_FAST_CUDA=0 leaves it out quietly", stacklevel=1)

    def compile_cuda(self, ext: CudaExtension) -> None:
        """Run nvcc, or g++, over the .cu files, and hand the objects to the linker."""
        nvcc = os.environ.get("NVCC", "nvcc")
        command = [nvcc, *NVCC_FLAGS, *ext.archs] if ext.archs else [os.environ.get("CXX", "g++"), *JIT_FLAGS]

        def compile_one(source: str) -> str:
            target = Path(self.build_temp) / ext.name / Path(source).with_suffix(".cu.o")
            newest = max(os.path.getmtime(f) for f in [source, *HEADERS, "setup.py"])
            if not target.exists() or target.stat().st_mtime < newest or self.force:
                target.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run([*command, "-c", source, "-o", str(target)], check=True)
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(compile_one, ext.cuda_sources))
        if ext.archs:
            ext.library_dirs = cuda_libraries(nvcc)


def extensions() -> list[Pybind11Extension]:
    """The modules that this machine builds."""
    wanted = os.environ.get("PYPRUNE_FAST_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"PYPRUNE_FAST_CUDA: wanted auto, 0 or 1, got {wanted!r}")
    cpu_wanted = os.environ.get("PYPRUNE_FAST_CPU", "1")
    if cpu_wanted not in ("0", "1"):
        raise SystemExit(f"PYPRUNE_FAST_CPU: wanted 0 or 1, got {cpu_wanted!r}")
    common = {"cxx_std": 20, "depends": HEADERS, "extra_compile_args": FLAGS}
    cpu = Pybind11Extension(
        "pyprune_fast._cpu",
        ["csrc/binding/cpu.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
        extra_link_args=["-pthread"],
        **common,
    )
    modules = [cpu] if cpu_wanted == "1" else []
    sources = ["csrc/binding/cuda.cpp", *sorted(glob("csrc/cuda/*.cu"))]
    if wanted == "0":
        return modules
    if wanted == "auto" and shutil.which(os.environ.get("NVCC", "nvcc")) is None:
        macros = [("PPF_CUDA_MODULE", "_cuda_jit")]
        jit = CudaExtension("pyprune_fast._cuda_jit", sources, [], define_macros=macros, **common)
        return [*modules, jit] if cpu_wanted == "1" else []  # it wants a C++ compiler too
    cuda = CudaExtension(
        "pyprune_fast._cuda",
        sources,
        gencode(os.environ.get("PYPRUNE_FAST_CUDA_ARCHS", DEFAULT_ARCHS)),
        libraries=["cudart_static", "dl", "rt", "pthread"],
        **common,
    )
    return [*modules, cuda]


class BuildPy(build_py):
    """build_py that takes the device code along: jit.cupy_cuda compiles it where the package is installed."""

    def run(self) -> None:
        """Copy the Python files, then csrc/cuda/*.cuh."""
        super().run()
        if not self.editable_mode:
            for source in glob("csrc/cuda/*.cuh"):
                target = Path(self.build_lib) / "pyprune_fast" / "jit" / "csrc" / Path(source).name
                self.mkpath(str(target.parent))
                self.copy_file(source, str(target))


ParallelCompile(default=os.cpu_count() or 1).install()
setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "build_py": BuildPy})
