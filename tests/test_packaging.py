"""The sdist holds all that a build needs: the wheel is built from it, elsewhere, and works there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_from_sdist_works(tmp_path: Path) -> None:
    quiet = {**os.environ, "PYPRUNE_FAST_CUDA": "0"}
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, env=quiet, capture_output=True, text=True)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"csrc/cuda/device.cu", "csrc/core/aura.h", "tests/oracle.py", "Makefile", "LICENSE"} <= names
    assert not any(name.endswith(".so") for name in names)

    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as files:
        wanted = {"py.typed", "report/style.css.j2", "demo/template.txt", "jit/csrc/aura_kernels.cuh"}
        assert {f"pyprune_fast/{name}" for name in wanted} <= set(files.namelist())
        assert [Path(name).name.split(".")[0] for name in files.namelist() if name.endswith(".so")] == ["_cpu"]
        files.extractall(site)
    code = (
        "import torch, pyprune_fast as p;print(p._native.cpu.__file__, p.ops.take(torch.arange(4), torch.tensor([2])).item())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
                         check=True, capture_output=True, text=True)  # fmt: skip
    assert run.stdout.startswith(str(site))
    assert run.stdout.split()[-1] == "2"


def test_build_refuses_nonsense(tmp_path: Path) -> None:
    for name, value in (("PYPRUNE_FAST_CPU", "maybe"), ("PYPRUNE_FAST_CUDA", "maybe"), ("PYPRUNE_FAST_CUDA_ARCHS", "ninety")):
        env = {**os.environ, "PYPRUNE_FAST_CUDA": "1", name: value, "NVCC": sys.executable}
        command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert run.returncode != 0
        assert f"{name}: wanted" in run.stderr
