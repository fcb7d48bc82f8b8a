"""The kernels need as many instructions per site as recorded, within 5 %: instructions.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import instructions
import pytest

from pyprune_fast._native import cpu

RECORD: dict[str, Any] = json.loads(instructions.RECORD.read_text())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := instructions.missing():
        pytest.skip(reason)
    recorded = RECORD["compiler"].removeprefix("g++ ")
    if instructions.compiler().split(".")[0] != recorded.split(".")[0]:
        pytest.skip(f"recorded with g++ {recorded}, this is {instructions.compiler()}: another major version, other code")
    return instructions.build(tmp_path_factory.mktemp("instructions"))


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "vbmi", "amx"])
def test_instructions_per_site(program: Path, isa: str) -> None:
    if isa not in instructions.levels(cpu.highest_isa()) or isa not in RECORD["per_site"]:
        pytest.skip(
            f"{isa} is counted only where it is the highest level, and recorded; here the highest is {cpu.highest_isa()}"
        )
    assert RECORD["flags"] == instructions.flags(), "other flags: python bench/instructions.py --record"
    changed = instructions.outside(instructions.count(program, isa), RECORD["per_site"][isa])
    assert not changed, f"at {isa}; if it is meant, or better: python bench/instructions.py --record"


def test_what_counts_as_changed() -> None:
    assert not instructions.outside({"take": 10.4}, {"take": 10.0})
    assert instructions.outside({"take": 10.6, "new": 1.0}, {"take": 10.0, "old": 1.0}) == [
        "new: only counted now",
        "take: 10.60 a site, recorded 10.00 (+6%)",
        "old: no longer counted",
    ]
