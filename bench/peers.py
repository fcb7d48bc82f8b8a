"""What others offer for the same counts, each at its best setting, fed with levels (quantised for free) where it takes those.

`contestants` gives, for each op, calls that return the same table as ours, so that they can be compared before they are timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
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
    tables = _tables(L)
    for name, table in tables.items():
        aura[f"{name} (levels given)"] = partial(_aura_by, table, maps)
    joint: dict[str, Callable[[], Any]] = {"ours": lambda: ops.joint_counts(x, levels)[:, 0]}
    joint["torch bincount"] = lambda: torch.stack(
        [torch.bincount(torch.searchsorted(e, v), minlength=L) for e, v in _rows(x, levels)]
    )
    joint["torch.histc (levels given)"] = lambda: torch.stack([torch.histc(m.float(), L, 0, L - 1) for m in q]).long()
    for name, histogram in _histograms(L).items():
        joint[f"{name} (levels given)"] = partial(_joint_by, histogram, maps)
    pairs: dict[str, Callable[[], Any]] = {"ours": lambda: ops.pair_information(x, levels)}
    pairs |= {f"{name} (levels given)": call for name, call in _information(q, L, tables).items()}
    return {"aura axial": aura, "joint": joint, "pairs": pairs}


def estimators(x: Tensor, levels: Levels) -> dict[str, Callable[[], Any]]:
    """Contestant -> call for the information of channel pairs (C, C) from values: all but ours by nearest neighbours.

    Other estimators of the same quantity, so values differ, and the diagonal is nobody's business.
    """
    values = x.movedim(1, 0).flatten(1).double().T.contiguous().numpy()  # (samples, C)
    columns = range(values.shape[1])
    calls: dict[str, Callable[[], Any]] = {"ours": lambda: ops.pair_information(x, levels)}
    if sklearn := _optional("sklearn.feature_selection"):
        regression = sklearn.mutual_info_regression
        calls["scikit-learn mutual_info_regression"] = lambda: np.array([regression(values, values[:, c]) for c in columns])
    if ennemi := _optional("ennemi"):
        calls["ennemi pairwise_mi"] = lambda: ennemi.pairwise_mi(values, max_threads=1)
    if npeet := _optional("npeet_plus"):
        calls["npeet-plus mi"] = lambda: _of_pairs(values.T, lambda a, b: npeet.mi(a[:, None], b[:, None]))
    return calls


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


Table = Callable[[Any, Any], Any]  # levels, levels -> (L, L)


def _tables(L: int) -> dict[str, Table]:
    """What counts pairs of levels."""
    ends = [(-0.5, L - 0.5)] * 2
    tables: dict[str, Table] = {
        "numpy bincount": lambda a, b: np.bincount(a.astype(np.int64) * L + b, minlength=L * L).reshape(L, L),
        "numpy histogram2d": lambda a, b: np.histogram2d(a, b, L, ends)[0],
    }
    if fast := _optional("fast_histogram"):
        tables["fast-histogram 2-d"] = lambda a, b: fast.histogram2d(a, b, L, ends)
    if boost := _optional("boost_histogram"):
        axis = boost.axis.Integer(0, L, underflow=False, overflow=False)
        tables["boost-histogram 2-d"] = lambda a, b: (
            boost.Histogram(axis, axis, storage=boost.storage.Int64()).fill(a, b).view()
        )
    return tables


def _histograms(L: int) -> dict[str, Callable[[Any], Any]]:
    """What counts levels."""
    ends = (-0.5, L - 0.5)
    histograms: dict[str, Callable[[Any], Any]] = {
        "numpy bincount": lambda m: np.bincount(m, minlength=L),
        "numpy histogram": lambda m: np.histogram(m, L, ends)[0],
    }
    if fast := _optional("fast_histogram"):
        histograms["fast-histogram"] = lambda m: fast.histogram1d(m, L, ends)
    if boost := _optional("boost_histogram"):
        axis = boost.axis.Integer(0, L, underflow=False, overflow=False)
        histograms["boost-histogram"] = lambda m: boost.Histogram(axis, storage=boost.storage.Int64()).fill(m).view()
    return histograms


def _information(q: Tensor, L: int, tables: dict[str, Table]) -> dict[str, Callable[[], Any]]:
    """What gives the information of channel pairs from their levels; tables by way of NumPy's logarithms."""
    flat = q.flatten(1).numpy()
    calls: dict[str, Callable[[], Any]] = {}
    if sklearn := _optional("sklearn.metrics"):
        calls["scikit-learn mutual_info_score"] = lambda: _of_pairs(flat, sklearn.mutual_info_score)
    if npeet := _optional("npeet_plus"):
        calls["npeet-plus midd"] = lambda: _of_pairs(flat, lambda a, b: npeet.midd(a[:, None], b[:, None], base=np.e))
    for name, table in tables.items():
        calls[name] = partial(_of_pairs, flat, partial(_of_table, table))
    calls["torch _int_mm one-hot"] = lambda: _of_products(q, L, torch.int8)
    calls["torch float32 one-hot matmul"] = lambda: _of_products(q, L, torch.float32)
    return calls


def _aura_by(table: Table, maps: Any) -> Any:
    return np.array([[table(a.ravel(), b.ravel()) for a, b in _axial(images)] for images in maps]).astype(np.int64)


def _joint_by(histogram: Callable[[Any], Any], maps: Any) -> Any:
    return np.stack([histogram(m.ravel()) for m in maps]).astype(np.int64)


def _of_pairs(rows: Any, information: Callable[[Any, Any], Any]) -> Any:
    """(C, C), each pair computed once."""
    C = len(rows)
    found = np.zeros((C, C))
    for a in range(C):
        for b in range(a, C):
            found[a, b] = found[b, a] = information(rows[a], rows[b])
    return found


def _of_table(table: Table, a: Any, b: Any) -> float:
    counts = np.asarray(table(a, b), float)
    return _entropy(counts.sum(0)) + _entropy(counts.sum(1)) - _entropy(counts)


def _entropy(counts: Any) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _of_products(q: Tensor, L: int, dtype: torch.dtype) -> Tensor:
    """All pairs of channels and levels as one product of one-hot matrices."""
    hot = torch.nn.functional.one_hot(q.flatten(1).long(), L).to(dtype)  # (C, S, L)
    C, S, _ = hot.shape
    matrix = hot.permute(0, 2, 1).reshape(C * L, S).contiguous()
    product = torch._int_mm(matrix, matrix.T.contiguous()) if dtype == torch.int8 else matrix @ matrix.T
    p = product.reshape(C, L, C, L).permute(0, 2, 1, 3).double() / S
    marginal = torch.special.entr(torch.diagonal(p, dim1=0, dim2=1).diagonal(dim1=0, dim2=1)).sum(-1)
    information: Tensor = marginal[:, None] + marginal[None] - torch.special.entr(p).sum((-2, -1))
    return information
