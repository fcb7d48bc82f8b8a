"""Every op takes other libraries' arrays where it takes tensors, reads them in place, and gives the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pyprune_fast import ChannelInformation, LevelCalibration, Levels, ops

LEVELS = Levels.uniform(-1, 1, 4, channels=3)
TABLES = torch.arange(24).reshape(2, 3, 4)


def read_only(x: Tensor) -> Any:
    array = x.numpy().copy()
    array.flags.writeable = False
    return array


def backwards(x: Tensor) -> Any:
    """The same numbers, lying in memory in the opposite order."""
    return np.ascontiguousarray(x.numpy()[..., ::-1])[..., ::-1]


def sliced(x: Tensor) -> Any:
    """Every second element of a wider array."""
    array = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.numpy().dtype)
    array[..., ::2] = x.numpy()
    return array[..., ::2]


def jax(x: Tensor) -> Any:
    numpy = pytest.importorskip("jax.numpy", reason="jax is not installed")
    import jax

    jax.config.update("jax_enable_x64", True)  # int64 and float64 exist there only then
    return numpy.asarray(x.numpy())


MAKERS = [lambda x: x.numpy(), read_only, backwards, sliced, lambda x: memoryview(x.numpy()), jax]
NAMES = ["numpy", "read-only", "backwards", "sliced", "buffer", "jax"]
Maker = Callable[[Tensor], Any]
OPS: dict[str, Callable[[Maker, Tensor, Tensor], Any]] = {
    "aura_counts": lambda of, x, labels: ops.aura_counts(of(x), LEVELS, labels=of(labels), num_classes=2),
    "joint_counts": lambda of, x, labels: ops.joint_counts(of(x), LEVELS, of(labels), 2),
    "pair_counts": lambda of, x, labels: ops.pair_counts(of(x), LEVELS),
    "pair_information": lambda of, x, labels: ops.pair_information(of(x), LEVELS),
    "extremes": lambda of, x, labels: tuple(ops.extremes(of(x))),
    "norms": lambda of, x, labels: ops.norms(of(x), 2, of(x.flip(0))),
    "take": lambda of, x, labels: ops.take(of(x), of(torch.tensor([3, 0])), of(torch.tensor([2, 1]))),
    "take_all": lambda of, x, labels: ops.take_all([(of(x), of(torch.tensor([3])), None), (of(labels), None, None)]),
    "entropy": lambda of, x, labels: ops.entropy(of(TABLES)),
    "information": lambda of, x, labels: ops.information(of(TABLES)),
    "Estimator": lambda of, x, labels: ChannelInformation(LEVELS, num_classes=2).update(of(x), of(labels)).counts,
    "LevelCalibration": lambda of, x, labels: LevelCalibration(4).update(of(x)).compute().edges,
}


def test_every_op_is_here() -> None:
    tensors_only = {"masked_norm"}  # gradients pass through it
    assert set(ops.__all__) - {"Extremes"} - tensors_only <= OPS.keys()


def numbers(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    return x, torch.tensor([0, 1, 1, 0])


def assert_alike(got: Any, wanted: Any) -> None:
    pairs = list(zip(pytree.tree_leaves(got), pytree.tree_leaves(wanted), strict=True))
    assert pairs
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("of", MAKERS, ids=NAMES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_other_arrays_give_the_same(op: str, of: Maker, dtype: torch.dtype) -> None:
    x, labels = numbers(dtype)
    assert_alike(OPS[op](of, x, labels), OPS[op](lambda x: x, x, labels))


@pytest.mark.parametrize("library", ["ml_dtypes", "ml_dtypes, read-only", "jax"])
@pytest.mark.parametrize("op", [op for op in OPS if op not in ("entropy", "information")])
def test_bfloat16(op: str, library: str) -> None:
    x, labels = numbers(torch.bfloat16)

    def of(x: Tensor) -> Any:
        if x.dtype != torch.bfloat16:
            return x
        array = x.float().numpy().astype(ml_dtypes.bfloat16)
        array.flags.writeable = "read-only" not in library
        return pytest.importorskip("jax.numpy", reason="jax is not installed").asarray(array) if library == "jax" else array

    assert_alike(OPS[op](of, x, labels), OPS[op](lambda x: x, x, labels))


@pytest.mark.parametrize("of", MAKERS[:4], ids=NAMES[:4])
def test_arrays_are_left_alone(of: Maker) -> None:
    x, labels = numbers()
    array = of(x)
    before = array.copy()
    for op in OPS.values():
        op(lambda y: array if y is x else y, x, labels)
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (np.zeros((2, 3), ">f4"), "ndarray"),
        (np.zeros((2, 3), object), "ndarray"),
        (np.zeros((2, 3), ml_dtypes.float8_e4m3fn), "ndarray"),
        ([[0.0] * 3] * 2, "list"),
        (None, "NoneType None"),
    ],
    ids=["byte order", "objects", "float8", "list", "None"],
)
def test_what_is_no_array_of_numbers_is_named(x: Any, got: str) -> None:
    for call in (ops.extremes, ops.norms, ops.take, lambda x: ops.joint_counts(x, LEVELS)):
        with pytest.raises(TypeError, match=rf"^\w+: x: wanted a tensor or a DLPack array, got {got}"):
            call(x)


def test_dtypes_without_a_kernel_are_named() -> None:
    with pytest.raises(TypeError, match="joint_counts: x: wanted float16, bfloat16, float32, float64, got .* int32 on cpu"):
        ops.joint_counts(np.zeros((2, 3), np.int32), LEVELS)
    with pytest.raises(TypeError, match="take: rows: wanted int64, got .* int32 on cpu"):
        ops.take(np.zeros((2, 3)), np.zeros(1, np.int32))
    with pytest.raises(TypeError, match="entropy: counts: wanted int64, got .* float64 on cpu"):
        ops.entropy(np.zeros(3))


def test_tracers_of_jax_are_no_arrays() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    with pytest.raises(TypeError, match="joint_counts: x: wanted a tensor or a DLPack array"):
        jax.jit(lambda x: ops.joint_counts(x, LEVELS))(np.zeros((2, 3), np.float32))
