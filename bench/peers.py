"""What others offer for the same counts, each at its best setting, fed with levels (quantised for free) where it takes those.

`contestants` gives, for each op, calls that return the same table as ours, so that they can be compared before they are timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyprune_fast import Levels, ops

MISSING: list[str] = []


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        if name not in MISSING:
            MISSING.append(name)
        return None


def contestants(x: Tensor, levels: Levels) -> dict[str, dict[str, Callable[[], Any]]]:
    """Op -> contestant -> call. Maps (N, C, H, W); aura at the axial offsets, joint without labels, pairs as information."""
    L, (N, C, _, _) = levels.count, x.shape
    q = torch.searchsorted(levels.edges, x.movedim(1, 0).flatten(1).contiguous()).reshape(C, N, *x.shape[2:]).to(torch.uint8)
    maps = q.numpy()
    aura: dict[str, Callable[[], Any]] = {"ours": lambda: ops.aura_counts(x, levels)[:, 0]}
    aura["torch bincount"] = lambda: _torch_bincount(x, levels)
    aura["torch one-hot matmul (levels given)"] = lambda: _torch_one_hot(q, L)
    if numba := _optional("numba"):
        loops = _numba_aura(numba)
        edges, values = levels.edges.numpy(), x.numpy()
        aura["Numba njit, one thread"] = lambda: loops(values, edges, np.zeros((C, 2, L, L), np.int64))
    if skimage := _optional("skimage.feature"):
        aura["scikit-image graycomatrix (levels given)"] = lambda: _skimage(skimage, maps, L)
    if mahotas := _optional("mahotas"):
        aura["mahotas cooccurence (levels given)"] = lambda: _mahotas(mahotas, maps, L)
    if fast := _optional("fast_histogram"):
        aura["fast-histogram 2-d (levels given)"] = lambda: _fast_histogram(fast, maps, L)
    joint: dict[str, Callable[[], Any]] = {"ours": lambda: ops.joint_counts(x, levels)[:, 0]}
    joint["torch bincount"] = lambda: torch.stack(
        [torch.bincount(torch.searchsorted(e, v), minlength=L) for e, v in _rows(x, levels)]
    )
    joint["torch.histc (levels given)"] = lambda: torch.stack([torch.histc(m.float(), L, 0, L - 1) for m in q]).long()
    if fast:
        joint["fast-histogram (levels given)"] = lambda: np.stack(
            [fast.histogram1d(m.ravel(), L, (-0.5, L - 0.5)) for m in maps]
        ).astype(np.int64)
    pairs: dict[str, Callable[[], Any]] = {"ours": lambda: ops.pair_information(x, levels)}
    if sklearn := _optional("sklearn.metrics"):
        pairs["scikit-learn mutual_info_score (levels given)"] = lambda: _sklearn(sklearn, maps)
    pairs["torch _int_mm one-hot (levels given)"] = lambda: _int_mm(q, L)
    return {"aura axial": aura, "joint": joint, "pairs": pairs}


def _rows(x: Tensor, levels: Levels) -> zip[tuple[Tensor, Tensor]]:
    return zip(levels.edges, x.movedim(1, 0).flatten(1).contiguous(), strict=True)


def _axial(maps: Any) -> list[tuple[Any, Any]]:
    """Sites and their neighbours at (0, 1) and (1, 0)."""
    return [(maps[..., :, :-1], maps[..., :, 1:]), (maps[..., :-1, :], maps[..., 1:, :])]


def _torch_bincount(x: Tensor, levels: Levels) -> Tensor:
    L, C = levels.count, x.shape[1]
    q = torch.searchsorted(levels.edges, x.movedim(1, 0).flatten(1).contiguous()).reshape(C, x.shape[0], *x.shape[2:])
    channel = torch.arange(C).reshape(C, 1, 1, 1) * (L * L)
    tables = [torch.bincount((channel + a * L + b).flatten(), minlength=C * L * L).reshape(C, L, L) for a, b in _axial(q)]
    return torch.stack(tables, 1)


def _torch_one_hot(q: Tensor, L: int) -> Tensor:
    hot = [[torch.nn.functional.one_hot(side.flatten(1).long(), L).float() for side in pair] for pair in _axial(q)]
    return torch.stack([a.mT @ b for a, b in hot], 1).round().long()


def _numba_aura(numba: Any) -> Any:
    @numba.njit(boundscheck=False)  # type: ignore[untyped-decorator]
    def loops(x: Any, edges: Any, counts: Any) -> Any:  # pragma: no cover
        N, C, H, W = x.shape
        q = np.empty((H, W), np.uint8)
        for c in range(C):
            for n in range(N):
                for h in range(H):
                    for w in range(W):
                        level = 0
                        for e in edges[c]:
                            level += e < x[n, c, h, w]
                        q[h, w] = level
                for h in range(H):
                    for w in range(W - 1):
                        counts[c, 0, q[h, w], q[h, w + 1]] += 1
                for h in range(H - 1):
                    for w in range(W):
                        counts[c, 1, q[h, w], q[h + 1, w]] += 1
        return counts

    return loops


def _skimage(skimage: Any, maps: Any, L: int) -> Any:
    out = np.zeros((maps.shape[0], 2, L, L), np.int64)
    for c, images in enumerate(maps):
        for image in images:
            table = skimage.graycomatrix(image, [1], [0, np.pi / 2], levels=L)
            out[c, 0] += table[:, :, 0, 0]
            out[c, 1] += table[:, :, 0, 1]
    return out


def _mahotas(mahotas: Any, maps: Any, L: int) -> Any:
    cooccurence = mahotas.features.texture.cooccurence
    out = np.zeros((maps.shape[0], 2, L, L), np.int64)
    for c, images in enumerate(maps):
        for image in images:
            for r, direction in enumerate((0, 2)):
                table = cooccurence(image, direction, symmetric=False)
                out[c, r, : table.shape[0], : table.shape[1]] += table
    return out


def _fast_histogram(fast: Any, maps: Any, L: int) -> Any:
    ends = [(-0.5, L - 0.5)] * 2
    tables = [[fast.histogram2d(a.ravel(), b.ravel(), L, ends) for a, b in _axial(images)] for images in maps]
    return np.array(tables).astype(np.int64)


def _sklearn(sklearn: Any, maps: Any) -> Any:
    flat = maps.reshape(len(maps), -1)
    return np.array([[sklearn.mutual_info_score(a, b) for b in flat] for a in flat])


def _int_mm(q: Tensor, L: int) -> Tensor:
    hot = torch.nn.functional.one_hot(q.flatten(1).long(), L).to(torch.int8)  # (C, S, L)
    C, S, _ = hot.shape
    matrix = hot.permute(0, 2, 1).reshape(C * L, S).contiguous()
    counts = torch._int_mm(matrix, matrix.T.contiguous()).reshape(C, L, C, L).permute(0, 2, 1, 3).double()
    p = counts / S
    marginal = torch.special.entr(torch.diagonal(p, dim1=0, dim2=1).diagonal(dim1=0, dim2=1)).sum(-1)
    information: Tensor = marginal[:, None] + marginal[None] - torch.special.entr(p).sum((-2, -1))
    return information
