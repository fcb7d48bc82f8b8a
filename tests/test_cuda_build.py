"""Device code compiles for every target without a device: by NVRTC, without standard headers, and by nvcc, without spills."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CUDA = Path(__file__).parents[1] / "csrc" / "cuda"
VALUES = {"ppf::float16": 2, "ppf::bfloat16": 2, "float": 4, "double": 8}
HAS_NVRTC = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None


def accesses(levels: bool = False) -> Iterator[str]:
    """The ways to read that reading.cuh chooses from; `levels`: those of levels that were written before."""
    for value, size in {"uint8_t": 1, "uint16_t": 2}.items() if levels else VALUES.items():
        yield f"ppf::cuda::Access<{value}, 1, false>"
        yield f"ppf::cuda::Access<{value}, {16 // size}, false>"
        if not levels:
            yield f"ppf::cuda::Access<{value}, {min(16 // size, 4)}, true>"


KERNELS = {
    "aura": [f"aura_kernel<{a}>" for a in (*accesses(), *accesses(levels=True))]
    + ["aura_far_kernel<uint8_t>", "aura_far_kernel<uint16_t>"],
    "aura_bits": [
        f"aura_bits_{across}kernel<{value}, {tables}>"
        for value in ("ppf::float16", "ppf::bfloat16", "float")
        for across in ("", "across_")
        for tables in (2, 4)
    ],
    "joint": [f"joint_kernel<{a}, ppf::cuda::{t}>" for a in accesses() for t in ("BlockTables", "ThreadColumns")]
    + ["classes_kernel"],
    "levels": [f"levels_kernel<{a}>" for a in accesses()],
    "pairs": [f"pairs_kernel<uint8_t, {side}, true>" for side in (8, 4, 1)]
    + [f"pairs_kernel<{level}, 1, false>" for level in ("uint8_t", "uint16_t")]
    + ["pairs_words_kernel", "pairs_bits_kernel"],
    "take": ["take_kernel<1>", "take_kernel<64>"],
}


@pytest.mark.skipif(not HAS_NVRTC, reason="cuda-bindings is not installed")
@pytest.mark.parametrize("arch", ["75", "80", "90", "100"])
@pytest.mark.parametrize("op", KERNELS)
def test_nvrtc_compiles_every_kernel(op: str, arch: str) -> None:
    from cuda.bindings import nvrtc

    def checked(result: tuple[Any, ...]) -> Any:
        error, *values = result
        assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, error
        return values[0] if values else None

    text = f'#include "{op}_kernels.cuh"\n'
    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], []))
    for kernel in KERNELS[op]:
        checked(nvrtc.nvrtcAddNameExpression(program, f"ppf::cuda::{kernel}".encode()))
    options = [f"--gpu-architecture=sm_{arch}".encode(), b"--std=c++20", f"-I{CUDA}".encode(), b"--fmad=false"]
    error, *_ = nvrtc.nvrtcCompileProgram(program, len(options), options)
    # NVRTC writes into the bytes that it is given, and Python has only one object for all equal bytes of length 1.
    log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)) + 2)
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    assert log.strip(b" \0\n") == b""
    names = [checked(nvrtc.nvrtcGetLoweredName(program, f"ppf::cuda::{kernel}".encode())) for kernel in KERNELS[op]]
    assert len(set(names)) == len(KERNELS[op])
    assert checked(nvrtc.nvrtcGetCUBINSize(program)) > 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("op", ["aura", "joint", "pairs", "take"])
def test_no_kernel_spills(tmp_path: Path, op: str) -> None:
    """ptxas reports registers, stack and spills; 64 registers let two blocks of 512 threads share a multiprocessor.

    Kernels that keep sums of products in registers are bounded by their own launch bounds.
    """
    command = ["nvcc", "-std=c++20", "-O3", "--fmad=false", "-gencode=arch=compute_90,code=sm_90", "-Xptxas=-v", "-c"]
    run = subprocess.run(
        [*command, str(CUDA / f"{op}.cu"), "-o", str(tmp_path / "o")], capture_output=True, text=True, check=True
    )
    report = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers",
        run.stderr,
        re.DOTALL,
    )
    assert len(report) >= len(KERNELS[op])
    assert not [name for name, stack, spills, _ in report if int(stack) or int(spills)]
    assert not {name: int(registers) for name, _, _, registers in report if int(registers) > 64 and "bits" not in name}
