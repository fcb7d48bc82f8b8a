"""What others offer on a GPU for counts of level pairs at the axial offsets: torch in three ways, plain CuPy, and glcm-cupy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyprune_fast import Levels, reference

GLCM_CUPY = "glcm-cupy (levels given, no sum over images but ours)"

# One launch an offset, one thread a site, one global atomic a pair: what one writes first.
CUPY_SOURCE = """
extern "C" __global__ void aura(const float* x, const float* edges, unsigned long long* counts, int C, int H, int W, int L,
                                int r, int dh, int dw, long long total) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= total) return;
  const int w = i % W, h = i / W % H, c = i / W / H % C;
  if (h + dh >= H || w + dw >= W) return;
  int g = 0, t = 0;
  for (int e = 0; e < L - 1; ++e) {
    g += edges[c * (L - 1) + e] < x[i];
    t += edges[c * (L - 1) + e] < x[i + dh * W + dw];
  }
  atomicAdd(&counts[((c * 2 + r) * L + g) * L + t], 1ull);
}
"""


def contestants(x: Tensor, levels: Levels) -> dict[str, Callable[[], Tensor]]:
    """Name -> call for (C, 2, L, L) counts of maps x (N, C, H, W); those of `in_windows` count only some of the pairs."""
    calls: dict[str, Callable[[], Tensor]] = {
        "torch bincount": lambda: _by_reference(x, levels),
        "torch histc (levels given)": _by_cells(x, levels, lambda cell, n: torch.histc(cell.float(), n, 0, n - 1).long()),
        "torch one-hot matmul (levels given)": _by_one_hot(x, levels),
    }
    try:
        import cupy
    except ImportError:
        return calls
    calls["CuPy, a kernel an offset"] = _by_cupy(cupy, x.float().contiguous(), levels)
    try:
        import glcm_cupy
    except ImportError:
        return calls
    calls[GLCM_CUPY] = by_glcm_cupy(cupy, glcm_cupy, x, levels)
    return calls


def in_windows(x: Tensor, levels: Levels) -> Tensor:
    """(C, 2, L, L) counts as glcm-cupy makes them: both ways, of the sites of the largest odd square and their neighbours."""
    D, L = _window(x), levels.count
    pairs = [(site[..., :D, :D], neighbor[..., :D, :D]) for site, neighbor in _pairs_of(_levels_of(x, levels))]
    tables = [[torch.bincount(c, minlength=L * L) for c in (s * L + n).flatten(1)] for s, n in pairs]
    counts = torch.stack([torch.stack(table) for table in tables], 1).reshape(x.shape[1], 2, L, L)
    return counts + counts.mT


def _by_reference(x: Tensor, levels: Levels) -> Tensor:
    C, L = x.shape[1], levels.count
    counts = torch.zeros(C, 1, 2, L, L, dtype=torch.int64, device=x.device)
    reference.aura_counts(x, levels.edges, [0, 0, 1, 0, 1, 0], False, None, counts, torch.zeros_like(counts[:, 0, 0, 0, 0]))
    return counts[:, 0]


def _levels_of(x: Tensor, levels: Levels) -> Tensor:
    """(C, N, H, W) int64."""
    values = x.movedim(1, 0).float().contiguous()
    return torch.searchsorted(levels.edges, values.flatten(1)).reshape(values.shape)


def _pairs_of(q: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Sites and neighbours at the offsets (0, 1) and (1, 0)."""
    return [(q[..., :-1], q[..., 1:]), (q[..., :-1, :], q[..., 1:, :])]


def _by_cells(x: Tensor, levels: Levels, histogram: Callable[[Tensor, int], Tensor]) -> Callable[[], Tensor]:
    q, L = _levels_of(x, levels), levels.count

    def run() -> Tensor:
        tables = [torch.stack([histogram(c.flatten(), L * L) for c in site * L + neighbor]) for site, neighbor in _pairs_of(q)]
        return torch.stack(tables, 1).reshape(len(q), 2, L, L)

    return run


def _by_one_hot(x: Tensor, levels: Levels) -> Callable[[], Tensor]:
    q, L = _levels_of(x, levels), levels.count

    def one_hot(levels: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(levels.flatten(1), L).to(torch.float32)  # exact up to 2^24 pairs a cell

    def run() -> Tensor:
        return torch.stack([one_hot(s).transpose(1, 2) @ one_hot(n) for s, n in _pairs_of(q)], 1).long()

    return run


def _window(x: Tensor) -> int:
    """Side of the largest odd square whose sites all have a right and a lower neighbour."""
    side = min(x.shape[-2:]) - 1
    return side - 1 + side % 2


def by_glcm_cupy(cupy: Any, glcm_cupy: Any, x: Tensor, levels: Levels) -> Callable[[], Tensor]:
    """glcm-cupy on levels that are given: a window a map, which is the most that its windows let it do at once."""
    q, L, D = _levels_of(x, levels).to(torch.uint8), levels.count, _window(x)
    (C, N), cells = q.shape[:2], D * D
    pairs = [
        [cupy.from_dlpack(side[..., :D, :D].reshape(C * N, cells).contiguous()) for side in sides] for sides in _pairs_of(q)
    ]
    feature = glcm_cupy.conf.Features.ASM  # the least it can be asked for
    counter = glcm_cupy.GLCM(radius=D // 2, bin_from=L, bin_to=L, max_partition_size=C * N, features=(feature,), verbose=False)

    def run() -> Tensor:
        tables = []
        for site, neighbor in pairs:
            counter.glcm_ij(site, neighbor)
            shares = torch.utils.dlpack.from_dlpack(counter.ar_glcm).reshape(C, N, L, L)
            tables.append((shares * (2 * cells)).round().long().sum(1))
        return torch.stack(tables, 1)

    return run


def _by_cupy(cupy: Any, x: Tensor, levels: Levels) -> Callable[[], Tensor]:
    kernel = cupy.RawKernel(CUPY_SOURCE, "aura")
    (_, C, H, W), L, edges = x.shape, levels.count, levels.edges.contiguous()
    counts = torch.zeros(C, 2, L, L, dtype=torch.int64, device=x.device)

    def run() -> Tensor:
        counts.zero_()
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            for r, (dh, dw) in enumerate(((0, 1), (1, 0))):
                sizes = [cupy.int32(i) for i in (C, H, W, L, r, dh, dw)]
                arguments = (x.data_ptr(), edges.data_ptr(), counts.data_ptr(), *sizes, cupy.int64(x.numel()))
                kernel(((x.numel() + 255) // 256,), (256,), arguments)
        return counts

    return run
