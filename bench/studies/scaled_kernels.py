"""The kernels of kernel_scaling.py: the call of a point, and what the design says that its time is made of.

A point gives each variable of a kernel a value. The amounts of `terms` follow csrc/: what is read and written, what is done a
value, what a neighbour, what a table. A term that the active SIMD level does otherwise has a name of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import activations, quantiles
from torch import Tensor

from pyprune_fast import Levels, ops
from pyprune_fast._native import cpu
from pyprune_fast.neighborhood import half_offsets, moore

Point = dict[str, Any]
Terms = dict[str, float]

# Term -> (what it counts, what the design does for each).
MEANING = {
    "call": ("call", "arguments are checked, work is handed out"),
    "read": ("byte of input", "the input passes once"),
    "memory": ("byte over half the last cache", "of input, result and tables together: as much comes from memory"),
    "channels": ("channel", "its edges are prepared, its buffers made, its range ended"),
    "written": ("byte of result", "in memory that is fresh"),
    "values": ("value", "searched among the edges, its level stored; or compared, added"),
    "widened": ("value of 16 bits", "made float32"),
    "search": ("value and step, L > 32", "the edges fill more than a grid of 31: log2 L steps; every counter is an increment"),
    "maps": ("map (image, channel)", "a run of sites is begun and ended"),
    "histograms": ("counter of levels", "cleared and added, a channel, class and chunk of images"),
    "compared": ("counter, L in 33..64", "made by comparisons, whose lanes and last sites are added up"),
    "triples": ("site and two neighbours", "one increment counts both, in a table of (L + 1)^3"),
    "pairs": ("site and neighbour", "one increment, in a table of (L + 1)^2"),
    "pairs > 64": ("site and neighbour, L > 64", "the increment's table has left the first-level cache"),
    "direct": ("site and neighbour, few", "fewer than L^2 pairs go straight into the 64-bit counts"),
    "lines": ("line of counts, few pairs", "of counts that fill more than half the last cache, fetched when a pair meets it"),
    "tiles": ("site and neighbour, in tiles", "one-hot products of 64 sites (AMX, L <= 16)"),
    "table cells": ("counter of pairs", "cleared, and added to the counts"),
    "cells": ("cell of a table", "a count is looked at"),
    "filled": ("cell that holds something", "at most one a site: n log n is added"),
    "tables": ("table", "begun, and divided by its total"),
    "rows": ("row", "of a weight or a sample: begun"),
    "columns": ("column of a block", "the sums of 64 rows are added up"),
    "windows": ("column of a window", "a range is begun and ended: of 128 sites of a channel, or all of a small map"),
    "compressed": (
        "byte of words",
        "rows pass whole, in vectors whose kept words are packed (of 4 bytes with AVX-512, of 2 with VBMI)",
    ),
    "words": ("word kept", "gathered one by one (items of 1, 2, 4, 8 or 16 bytes)"),
    "runs": ("run kept", "one copy of neighbouring columns, where an item is larger"),
    "comparisons": ("value and step", "NumPy's sort: log2 of the sample"),
}


@dataclass(frozen=True)
class Kernel:
    """What is timed, and over what.

    base: a point. axes: a variable -> its values, the others as in the base. corners: several changed, for what no axis
    meets alone. call: what is timed. terms: their amounts, without "call"; under "moved" the bytes that are touched, which
    `amounts` makes "memory" or nothing; and under "held" the bytes of large results, which cost nothing by themselves.
    """

    base: Point
    axes: Mapping[str, Sequence[Any]]
    corners: Sequence[Point]
    call: Callable[[Point], Callable[[], Any]]
    terms: Callable[[Point], Terms]


def neighbors(point: Point) -> list[tuple[int, ...]]:
    """The stored offsets of `near`: axial, moore, or the radius of a square."""
    near = point["near"]
    return list(half_offsets(near if isinstance(near, str) else moore(near, 2), 2))


def dtype_of(point: Point) -> torch.dtype:
    """The torch dtype by its name."""
    dtype: torch.dtype = getattr(torch, point["dtype"])
    return dtype


def _maps(point: Point) -> tuple[Tensor, Levels]:
    x = activations((point["N"], point["C"], point["side"], point["side"]), dtype_of(point))
    return x, quantiles(x, point["L"])


def _labels(point: Point) -> tuple[Tensor, int]:
    return torch.arange(point["N"]) % point["K"], point["K"]


# --- calls: results are added to, and their memory was touched before, as in a pass over many batches ----------------------


def call_joint(point: Point) -> Callable[[], Any]:
    (x, levels), (labels, K) = _maps(point), _labels(point)
    return partial(ops.joint_counts, x, levels, labels, into=ops.joint_counts(x, levels, labels, K))


def call_aura(point: Point) -> Callable[[], Any]:
    (x, levels), (labels, K) = _maps(point), _labels(point)
    near = neighbors(point)
    counts = ops.aura_counts(x, levels, neighborhood=near, labels=labels, num_classes=K)
    return partial(ops.aura_counts, x, levels, neighborhood=near, labels=labels, into=counts)


def call_pairs(point: Point) -> Callable[[], Any]:
    return partial(ops.pair_information, *_maps(point))


def call_extremes(point: Point) -> Callable[[], Any]:
    shape = (point["N"], point["C"], point["side"], point["side"])
    return partial(ops.extremes, activations(shape, dtype_of(point)))


def call_levels(point: Point) -> Callable[[], Any]:
    return partial(Levels.quantiles, activations((point["C"], point["S"])), point["L"])


def call_information(point: Point) -> Callable[[], Any]:
    torch.manual_seed(0)
    shape = (point["tables"], point["K"], point["cells"])
    counts = torch.randint(1, 2000, shape) * (torch.rand(shape) < point["filled"])
    return partial(ops.information, counts)


def call_norms(point: Point) -> Callable[[], Any]:
    return partial(ops.norms, _weight(point), 2)


def call_take(point: Point) -> Callable[[], Any]:
    w = _weight(point)
    i, j = (torch.randperm(n)[: round(point["kept"] * n)].sort().values for n in w.shape[:2])
    return partial(ops.take, w, i, j)


def _weight(point: Point) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(point["rows"], point["columns"], point["taps"]).to(dtype_of(point))


# --- terms ---------------------------------------------------------------------------------------------------------------


def _maps_read(point: Point) -> Terms:
    """What every kernel on maps does: N C side^2 values, read once; and N C maps."""
    maps = point["N"] * point["C"]
    values = maps * point["side"] ** 2
    size = values * dtype_of(point).itemsize
    return {"read": size, "moved": size, "values": values, "maps": maps, "channels": point["C"]}


def _levels_read(point: Point) -> Terms:
    L, terms = point["L"], _maps_read(point)
    return {**terms, "search": terms["values"] * (L - 1).bit_length()} if L > 32 else terms


def _images(point: Point) -> list[int]:
    """Of each class; labels go round."""
    return [len(range(k, point["N"], point["K"])) for k in range(min(point["K"], point["N"]))]


def terms_joint(point: Point) -> Terms:
    """A histogram a channel, class, and chunk of images (1,024 sites, or one image)."""
    together = max(1, 1024 // point["side"] ** 2)
    chunks = sum(-(-images // together) for images in _images(point))
    counters = point["C"] * chunks * point["L"]
    return {**_levels_read(point), "histograms": counters, "compared": counters * (32 < point["L"] <= 64)}


def terms_aura(point: Point) -> Terms:
    """Pairs of places (sites and the gaps beside them), class by class."""
    near, C, L = neighbors(point), point["C"], point["L"]
    reach = max(max(map(abs, offset)) for offset in near)
    terms = Counter(_levels_read(point) | {"held": 8 * C * point["K"] * len(near) * L**2})
    for images in _images(point):
        places = images * (point["side"] + reach) ** 2
        counted = _pairs_counted(L, len(near), places, point["isa"] == "amx")
        touched = len(near) * min(L**2 / 8, places)  # lines of the counts: all, or that of each pair
        counted |= {"moved": 64 * touched, "lines": touched * ("direct" in counted)}
        terms.update({name: C * amount for name, amount in counted.items()})
    return dict(terms)


def _pairs_counted(L: int, R: int, places: int, amx: bool) -> Terms:
    """Of one channel and class, by the rules of csrc/cpu/pair_tables.h."""
    if amx and L <= 16:
        return {"tiles": places * R}
    if places < L**2:
        return {"direct": places * R}
    if R >= 2 and L <= 16 and places >= 4 * (L + 1) ** 3:
        cells = R // 2 * (L + 1) ** 3 + R % 2 * (L + 1) ** 2
        return {"triples": places * (R // 2), "pairs": places * (R % 2), "table cells": cells}
    return {"pairs": places * R, "pairs > 64": places * R * (L > 64), "table cells": R * (L + 1) ** 2}


def terms_extremes(point: Point) -> Terms:
    """Ranges of columns, the sites of a map, which become one at the end."""
    sites = point["side"] ** 2
    return {**_maps_read(point), "windows": point["C"] * (sites if sites < 512 else 128)}


def terms_pairs(point: Point) -> Terms:
    """Blocks of 2 x 2 pairs of channels, those with a <= b, each pair with its table and its entropy."""
    C, L, sites = point["C"], point["L"], point["N"] * point["side"] ** 2
    pairs = 4 * (-(-C // 2) * (-(-C // 2) + 1) // 2)
    counted = _pairs_counted(L, 1, sites, point["isa"] == "amx") | {"cells": L**2, "filled": min(L**2, sites)}
    return {**_levels_read(point), **{name: pairs * amount for name, amount in counted.items()}}


def terms_levels(point: Point) -> Terms:
    """A channel's sample is sorted, and a few of its values become edges."""
    C, S, L = point["C"], point["S"], point["L"]
    return {"moved": 8 * C * S, "comparisons": C * S * (S - 1).bit_length(), "rows": C, "cells": C * L}


def terms_information(point: Point) -> Terms:
    """The tables of the classes, and their sum."""
    tables, K, cells = point["tables"], point["K"], point["cells"]
    return {"moved": 8 * tables * K * cells, "tables": tables * (K + 1), "cells": tables * (K + 1) * cells}


def terms_norms(point: Point) -> Terms:
    """Every value is read once; of each 64 rows the sums of positions are kept, and added up in the end."""
    rows, entries = point["rows"], point["columns"] * point["taps"]
    narrow = dtype_of(point).itemsize < 4
    return {
        "moved": rows * entries * dtype_of(point).itemsize, "values": rows * entries, "widened": rows * entries * narrow,
        "rows": rows, "columns": -(-rows // 64) * entries,
    }  # fmt: skip


def terms_take(point: Point) -> Terms:
    """Kept rows are read whole: of columns in random places every cache line of a row is touched."""
    kept = point["kept"]
    rows, columns = (round(kept * point[name]) for name in ("rows", "columns"))
    item = point["taps"] * dtype_of(point).itemsize
    read, written = rows * point["columns"] * item, rows * columns * item
    copies = {"runs": rows * columns * (1 - kept)}
    if item in (1, 2, 4, 8, 16):
        vectors = {"avx512": (4,), "vbmi": (2, 4), "amx": (2, 4)}.get(point["isa"], ())
        copies = {"compressed": read} if item in vectors and 4 * columns >= point["columns"] else {"words": rows * columns}
    return {"read": read, "written": written, "moved": read + written, "rows": rows, **copies}


SMALLEST: Point = {"N": 1, "C": 4, "side": 4}  # mostly the call
MAPS: Point = {"N": 32, "C": 64, "side": 28, "dtype": "float32"}
WEIGHT: Point = {"rows": 512, "columns": 512, "taps": 9, "dtype": "float32"}
NS, CS, SIDES, LS, KS = (1, 4, 16, 128, 512), (4, 16, 256, 1024), (4, 7, 14, 56, 112), (2, 4, 8, 32, 64, 128, 256), (2, 10, 32)
KERNELS = {
    "joint": Kernel(
        MAPS | {"L": 16, "K": 1},
        {"N": NS, "C": CS, "side": SIDES, "L": LS, "K": KS, "dtype": ("bfloat16", "float16")},
        [{"side": 56, "L": 64}, {"side": 7, "K": 10}, {"N": 1, "C": 1024}, SMALLEST],
        call_joint, terms_joint,
    ),
    "aura": Kernel(
        MAPS | {"L": 16, "near": "axial", "K": 1},
        {"N": NS, "C": CS, "side": SIDES, "L": LS, "near": ("moore", 2, 3), "K": KS, "dtype": ("bfloat16", "float16")},
        [{"side": 7, "L": 64}, {"side": 7, "K": 10}, {"N": 1, "C": 1024}, SMALLEST],
        call_aura, terms_aura,
    ),
    "pairs": Kernel(
        MAPS | {"N": 16, "side": 14, "L": 16},
        {"N": (1, 4, 64, 256), "C": (4, 16, 128, 256), "side": (7, 28, 56), "L": LS, "dtype": ("bfloat16",)},
        [{"N": 256, "C": 16, "L": 64}, {"C": 8, "L": 128}, {"N": 1, "C": 256}, SMALLEST],
        call_pairs, terms_pairs,
    ),
    "extremes": Kernel(
        MAPS,
        {"N": NS, "C": CS, "side": SIDES, "dtype": ("bfloat16", "float16")},
        [{"side": 14, "dtype": "bfloat16"}, SMALLEST],
        call_extremes, terms_extremes,
    ),
    "levels": Kernel(
        {"C": 64, "S": 16384, "L": 16}, {"C": (4, 16, 256), "S": (1024, 4096, 65536), "L": (4, 64, 256)}, [{"C": 4, "S": 1024}],
        call_levels, terms_levels,
    ),
    "information": Kernel(
        {"tables": 256, "K": 10, "cells": 256, "filled": 0.3},
        {"tables": (16, 64, 1024), "K": (1, 2, 100), "cells": (16, 64, 1024, 4096), "filled": (0.05, 0.1, 1.0)},
        [{"K": 1, "cells": 4096}, {"tables": 16, "K": 1, "cells": 16}],
        call_information, terms_information,
    ),
    "norms": Kernel(
        WEIGHT, {"rows": (64, 128, 2048), "columns": (64, 128, 2048), "taps": (1, 49), "dtype": ("bfloat16",)},
        [{"rows": 64, "columns": 64}],
        call_norms, terms_norms,
    ),
    "take": Kernel(
        WEIGHT | {"kept": 0.5},
        {
            "rows": (64, 128, 2048), "columns": (64, 128, 2048), "taps": (1, 4, 49), "kept": (0.3, 0.8, 0.95),
            "dtype": ("bfloat16",),
        },
        [{"taps": 49, "dtype": "bfloat16"}, {"taps": 49, "kept": 0.8}, {"taps": 1, "dtype": "bfloat16"},
         {"rows": 64, "columns": 64}],
        call_take, terms_take,
    ),
}  # fmt: skip


def here() -> Point:
    """What terms depend on besides a point's variables: the SIMD level, and the bytes of the last cache."""
    sizes = [
        int(path.read_text().rstrip("K\n")) << 10 for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return {"isa": cpu.isa(), "cache": max(sizes, default=32 << 20)}


def amounts(kernel: str, point: Point) -> Terms:
    """The terms of a point (its variables and `here`) that are not zero: what a cost model weighs."""
    terms = Counter({"call": 1.0, **KERNELS[kernel].terms(point)})
    terms.pop("held", None)
    over = max(0.0, terms.pop("moved") - point["cache"] / 2)  # others use the cache as well
    terms["memory"] = over
    terms["lines"] *= over > 0
    return {name: terms[name] for name in MEANING if terms[name]}
