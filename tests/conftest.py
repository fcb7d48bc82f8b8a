"""Settings of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
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
