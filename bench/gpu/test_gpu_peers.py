"""How glcm-cupy is asked for counts, with a stand-in that counts as its kernel does; the peers themselves need a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gpu_peers
import numpy as np
import torch

from pyprune_fast import Levels, ops


class Counter:
    """glcm_cupy.GLCM in NumPy: tables (windows, L, L), each pair counted both ways, as shares of their window."""

    def __init__(self, radius: int, bin_from: int, bin_to: int, max_partition_size: int, **options: Any) -> None:
        self.cells = (2 * radius + 1) ** 2
        self.ar_glcm = np.zeros((max_partition_size, bin_to, bin_to), np.float32)

    def glcm_ij(self, i: Any, j: Any) -> None:
        """The tables of windows i and their neighbours j."""
        assert i.dtype == j.dtype == np.uint8
        assert i.shape == j.shape == (len(self.ar_glcm), self.cells)
        self.ar_glcm[:] = 0
        for window, (row, column) in enumerate(zip(i, j, strict=True)):
            np.add.at(self.ar_glcm[window], (row, column), 1)
            np.add.at(self.ar_glcm[window], (column, row), 1)
        self.ar_glcm /= self.ar_glcm.sum((1, 2), keepdims=True)


def test_glcm_cupy_counts_the_same_pairs() -> None:
    glcm_cupy = SimpleNamespace(GLCM=Counter, conf=SimpleNamespace(Features=SimpleNamespace(ASM=2)))
    x, levels = torch.randn(3, 2, 8, 9), Levels.uniform(-1, 1, count=4, channels=2)
    wanted = gpu_peers.in_windows(x, levels)
    assert torch.equal(gpu_peers.by_glcm_cupy(np, glcm_cupy, x, levels)(), wanted)
    right = ops.aura_counts(x[..., :7, :8], levels, neighborhood=[(0, 1)]).squeeze()
    assert torch.equal(wanted[:, 0], right + right.mT)
