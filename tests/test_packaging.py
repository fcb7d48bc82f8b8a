"""The sdist holds all that a build needs: the wheel is built from it, elsewhere, and works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
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

    with zipfile.ZipFile(wheel) as files:
        wanted = {"py.typed", "report/style.css.j2", "demo/template.txt", "jit/csrc/aura_kernels.cuh"}
        assert {f"pyprune_fast/{name}" for name in wanted} <= set(files.namelist())
        assert [Path(name).name.split(".")[0] for name in files.namelist() if name.endswith(".so")] == ["_cpu"]
    python = installed(wheel, tmp_path / "environment")
    where = run(python, "-c", "import pyprune_fast; print(pyprune_fast._native.cpu.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "environment"))
    assert run(python.parent / "pyprune-fast", "doctor", cwd=tmp_path).endswith("The CPU kernels work.\n")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if (path / "csrc").is_dir())
    (source / "tests").rename(tmp_path / "tests")  # away from the sources, so that what is tested is what is installed
    tests = re.findall(r"\{project\}/(tests/\w+\.py)", (ROOT / "pyproject.toml").read_text())  # those of the wheels' own check
    assert len(tests) == 4
    out = run(python, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", *tests, cwd=tmp_path)
    assert re.search(r"\d{2,} passed", out)
    assert "failed" not in out


def installed(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment with the wheel alone; what it depends on lies on the path, but no other copy of it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel)], check=True, capture_output=True)
    return python


def run(*command: str | Path, cwd: Path) -> str:
    """What it prints; it must end well."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(list(map(str, command)), cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_build_refuses_nonsense(tmp_path: Path) -> None:
    for name, value in (("PYPRUNE_FAST_CPU", "maybe"), ("PYPRUNE_FAST_CUDA", "maybe"), ("PYPRUNE_FAST_CUDA_ARCHS", "ninety")):
        env = {**os.environ, "PYPRUNE_FAST_CUDA": "1", name: value, "NVCC": sys.executable}
        command = [sys.executable, "setup.py", "build_ext", "--build-temp", str(tmp_path), "--build-lib", str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert run.returncode != 0
        assert f"{name}: wanted" in run.stderr
