"""The SIMD levels of this machine, lowest first."""

from pyprune_fast import _cpu

ALL = ("portable", "avx2", "avx512", "vbmi", "amx")
OFFERED = ALL[: ALL.index(_cpu.highest_isa()) + 1]
