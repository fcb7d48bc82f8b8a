"""Settings of the whole suite."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from pyprune_fast import _cpu

# No deadline: the machines are shared, and a first call may compile or fork. Fewer examples where each costs more.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("sanitize", settings.get_profile("default"), max_examples=25)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def _same_simd_level() -> Iterator[None]:
    """Every test leaves the SIMD level as it was."""
    before = _cpu.isa()
    yield
    _cpu.set_isa(before)


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of each rank of ranks.py: one launch for all tests that look at them."""
    folder, root = tmp_path_factory.mktemp("ranks"), Path(__file__).resolve().parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    program = [str(root / "tests" / "ranks.py"), str(folder)]
    done = subprocess.run([*command, *program], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(4)]
