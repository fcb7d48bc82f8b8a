"""The compiled module by itself: what it sees of tensors of all kinds, what it refuses, the GIL, fork and threads."""

from __future__ import annotations

import array
import ctypes
import multiprocessing
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from strategies import threads
from torch import nn
from torch._subclasses import FakeTensorMode

from pyprune_fast import Levels, _cpu, ops

describe = _cpu.describe
NAMED = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int64: "int64",
}
OTHER = (torch.bool, torch.uint8, torch.int32, torch.complex64, torch.float8_e4m3fn)


class Old:
    """An exporter from before DLPack 1.0: it knows no max_version."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self) -> Any:
        return self.x.__dlpack__()


class Subclass(torch.Tensor):
    """A tensor of somebody else's."""


def assert_seen(x: Any, tensor: torch.Tensor, **more: Any) -> None:
    """The binding sees in x the memory of this tensor."""
    seen = describe(x)
    wanted = {
        "dtype": NAMED.get(tensor.dtype, "opaque"),
        "item_bytes": tensor.element_size(),
        "shape": tuple(tensor.shape),
        "address": tensor.data_ptr(),
        "read_only": False,
        "on_cuda": False,
        "device": 0,
        **more,
    }
    steps = {d: n for d, n in enumerate(tensor.stride()) if tensor.shape[d] != 1}  # the stride of one element means nothing
    assert {key: seen[key] for key in wanted} == wanted
    assert {d: seen["strides"][d] for d in steps} == steps


# --- what it sees --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*NAMED, *OTHER])
@pytest.mark.parametrize("export", [lambda x: x, Old])
def test_torch_dtypes(dtype: torch.dtype, export: Any) -> None:
    x = torch.zeros(4, 3, 2, dtype=dtype)[1:, ::2]
    assert_seen(export(x), x)


@pytest.mark.parametrize("export", [lambda x: x, Old, lambda x: x.numpy(), lambda x: memoryview(x.numpy())])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.mT,
        lambda x: x[1:, 1::2, 1],
        lambda x: x[:1].expand(7, 3, 4),
        lambda x: x[0, 0, 0],
        lambda x: x[..., None, None, None, None, None],
    ],
    ids=["whole", "transposed", "sliced", "expanded", "0-d", "8-d"],
)
def test_layouts(view: Any, export: Any) -> None:
    x = view(torch.arange(24.0).reshape(2, 3, 4))
    exported = export(x)
    # NumPy marks what torch expanded as it marks everything: by the flag, which memoryview passes on.
    flags = getattr(exported, "flags", None)
    assert_seen(exported, x, read_only=flags is not None and not flags.writeable)


@pytest.mark.parametrize(
    "make",
    [nn.Parameter, lambda x: x.requires_grad_(), lambda x: x.as_subclass(Subclass)],
    ids=["parameter", "grad", "subclass"],
)
def test_kinds_of_tensors(make: Any) -> None:
    x = make(torch.zeros(3, 2))
    assert_seen(x, x.detach())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0, 2)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert describe(torch.zeros(shape))["shape"] == describe(np.zeros(shape))["shape"] == shape


def test_numpy_read_only_and_negative_strides() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    backwards = x[::-1, ::2]
    seen = describe(backwards)
    assert (seen["shape"], seen["strides"], seen["read_only"]) == ((3, 2), (-4, 2), False)
    assert seen["address"] == backwards.__array_interface__["data"][0] == x.ctypes.data + 32
    x.flags.writeable = False
    assert describe(x)["read_only"]
    out = torch.zeros(2, 2)
    _cpu.take(backwards, torch.tensor([0, 2]), None, out, 1)
    assert out.tolist() == [[8, 10], [0, 2]]


def test_numpy_negative_strides() -> None:
    """In a process of its own, since torch.from_dlpack aborts on them."""
    program = """
        import numpy as np, torch
        from pyprune_fast import Levels, ops
        x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
        levels = Levels(torch.arange(11.0)[None])
        assert torch.equal(ops.aura_counts(x[:, :, ::-1], levels), ops.aura_counts(x[:, :, ::-1].copy(), levels))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[:500]


@pytest.mark.parametrize(
    ("letter", "dtype", "item_bytes"),
    [("f", "float32", 4), ("d", "float64", 8), ("q", "int64", 8), ("l", "int64", 8), ("Q", "opaque", 8), ("h", "opaque", 2)],
)
def test_buffers(letter: str, dtype: str, item_bytes: int) -> None:
    buffer = array.array(letter, [1, 2, 3, 4])
    seen = describe(buffer)
    assert (seen["dtype"], seen["item_bytes"], seen["shape"], seen["strides"]) == (dtype, item_bytes, (4,), (1,))
    assert seen["address"] == buffer.buffer_info()[0]
    seen = describe(memoryview(buffer)[::-2])
    assert (seen["shape"], seen["strides"]) == ((2,), (-2,))
    assert seen["address"] == buffer.buffer_info()[0] + 3 * item_bytes
    assert describe(memoryview(buffer).toreadonly())["read_only"]


def test_bfloat16_of_numpy() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    x = np.array([[1.5], [-2.0], [0.5]], ml_dtypes.bfloat16)
    assert ops.joint_counts(x, Levels(torch.tensor([[0.0]]))).tolist() == [[[1, 2]]]


class Handmade(ctypes.Structure):
    """An exporter of what neither torch nor NumPy export: DLPack's C struct, filled in by hand over 8 float32 numbers."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip

    def __init__(self, **changed: Any) -> None:
        self.memory, self.extents = torch.arange(8.0), (ctypes.c_int64 * 2)(2, 3)
        filled = {"data": self.memory.data_ptr(), "device": (1, 0), "ndim": 2, "code": 2, "bits": 32, "lanes": 1}
        super().__init__(shape=self.extents, **{**filled, **changed})

    def __dlpack__(self, max_version: object = None) -> Any:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self), b"dltensor", None)


def test_strides_left_out_and_byte_offset() -> None:
    x, out = Handmade(byte_offset=8), torch.zeros(2, 3)
    seen = describe(x)
    assert (seen["shape"], seen["strides"], seen["address"]) == ((2, 3), (3, 1), x.memory.data_ptr() + 8)
    _cpu.take(x, None, None, out, 1)
    assert out.tolist() == [[2, 3, 4], [5, 6, 7]]


# --- what it refuses -----------------------------------------------------------------------------------------------------


class Liar:
    """Its __dlpack__ gives no capsule."""

    def __dlpack__(self, max_version: object = None) -> int:
        return 3


class Failing:
    """Its __dlpack__ has an error of its own, which must be seen."""

    def __dlpack__(self, max_version: object = None) -> Any:
        raise KeyError("mine")


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        ([1.0], TypeError, "incompatible function arguments"),
        (None, TypeError, "incompatible function arguments"),
        (3, TypeError, "incompatible function arguments"),
        (torch.eye(3).to_sparse(), RuntimeError, "doesn't have storage"),
        (torch.zeros(3, device="meta"), RuntimeError, "meta"),
        (np.zeros(3, ">f4"), BufferError, "native byte order"),
        (memoryview(np.zeros(3, ">f4")), TypeError, "tensor: wanted a buffer of one native number type"),
        (memoryview(np.zeros(3, "f4,i4")), TypeError, "tensor: wanted a buffer of one native number type"),
        (np.array(["text"]), BufferError, "DLPack only supports"),
        (torch.zeros([1] * 9), ValueError, "tensor: wanted at most 8 axes"),
        (np.zeros([1] * 9), ValueError, "tensor: wanted at most 8 axes"),
        (memoryview(np.zeros([1] * 9)), ValueError, "tensor: wanted at most 8 axes"),
        (Handmade(lanes=4), TypeError, "tensor: wanted elements of whole bytes"),
        (Handmade(bits=4), TypeError, "tensor: wanted elements of whole bytes"),
        (Handmade(device=(7, 0)), ValueError, "tensor: wanted one on the CPU or on a CUDA device"),
        (Handmade(data=None), ValueError, "tensor: it has elements but no memory"),
        (Liar(), TypeError, "tensor: __dlpack__ gave no DLPack capsule"),
        (Failing(), KeyError, "mine"),
    ],
)
def test_refuses(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        describe(x)


def test_strides_of_parts_of_elements() -> None:
    """A field of a record: its steps are no multiple of its size."""
    x = np.zeros(4, np.dtype([("a", "i1"), ("b", "<f4")]))["b"]
    with pytest.raises(ValueError, match="tensor: wanted strides of whole elements"):
        describe(memoryview(x))


def test_fake_tensor_has_no_memory() -> None:
    with FakeTensorMode():
        fake = torch.zeros(3)
    for call in (lambda: describe(fake), lambda: _cpu.take(torch.zeros(3), None, None, fake, 1)):
        with pytest.raises(ValueError, match=r"^tensor: it has elements but no memory \(a fake or meta tensor\?\)$"):
            call()


def read_only(*shape: int) -> np.ndarray[Any, Any]:
    x = np.zeros(shape, np.int64)
    x.flags.writeable = False
    return x


X, EDGES, ROWS = torch.zeros(2, 3, 4), torch.zeros(3, 1), torch.tensor([0, 1])
COUNTS, NANS = torch.zeros(3, 1, 1, 2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
AURA = {"x": X, "edges": EDGES, "offsets": [(0, 0, 1)], "periodic": False, "labels": None, "counts": COUNTS, "nans": NANS}
JOINT = {"x": X, "edges": EDGES, "labels": None, "counts": COUNTS[:, :, 0, 0].contiguous(), "nans": NANS}
TAKE = {"x": X, "rows": ROWS, "columns": None, "out": torch.zeros(2, 3, 4)}


@pytest.mark.parametrize(
    ("kernel", "arguments", "changed", "text"),
    [
        # Everything that would corrupt memory, whatever Python let through.
        ("aura_counts", AURA, {"counts": read_only(3, 1, 1, 2, 2)}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS.int()}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS[:2]}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS[0]}, "counts: wanted"),
        ("aura_counts", AURA, {"counts": COUNTS.expand(3, 2, 1, 2, 2)}, "counts: wanted"),
        ("aura_counts", AURA, {"nans": read_only(3)}, "nans: wanted"),
        ("aura_counts", AURA, {"nans": NANS[:2]}, "nans: wanted"),
        ("aura_counts", AURA, {"edges": EDGES[:2]}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": EDGES.double()}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": torch.zeros(3, 256)}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": torch.zeros(3, 0)}, "edges: wanted"),
        ("aura_counts", AURA, {"edges": EDGES.expand(3, 2)}, "edges: wanted"),
        ("aura_counts", AURA, {"labels": torch.tensor([0, 1])}, "labels: wanted values in 0..K-1"),
        ("aura_counts", AURA, {"labels": torch.tensor([-1, 0])}, "labels: wanted values in 0..K-1"),
        ("aura_counts", AURA, {"labels": torch.tensor([0])}, "labels: wanted"),
        ("aura_counts", AURA, {"labels": torch.tensor([0, 0]).int()}, "labels: wanted"),
        ("aura_counts", AURA, {"x": X.long()}, "x: wanted float16, bfloat16, float32 or float64"),
        ("aura_counts", AURA, {"x": X[0, 0]}, "x: wanted"),
        ("aura_counts", AURA, {"x": X[..., None, None, None]}, "x: wanted"),
        ("joint_counts", JOINT, {"counts": read_only(3, 1, 2)}, "counts: wanted"),
        ("joint_counts", JOINT, {"counts": COUNTS}, "counts: wanted"),
        ("joint_counts", JOINT, {"nans": read_only(3)}, "nans: wanted"),
        ("joint_counts", JOINT, {"edges": EDGES[:2]}, "edges: wanted"),
        ("joint_counts", JOINT, {"labels": torch.tensor([0, 1])}, "labels: wanted values in 0..K-1"),
        ("take", TAKE, {"out": np.broadcast_to(np.float32(0), (2, 3, 4))}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 3, 3)}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 3, 4).double()}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 3, 4).int()}, "out: wanted"),
        ("take", TAKE, {"out": torch.zeros(2, 4, 3).mT}, "out: wanted"),
        ("take", TAKE, {"rows": torch.tensor([0, 2])}, "rows: wanted"),
        ("take", TAKE, {"rows": torch.tensor([0, -1])}, "rows: wanted"),
        ("take", TAKE, {"rows": ROWS.int()}, "rows: wanted"),
        ("take", TAKE, {"rows": None, "columns": torch.tensor([0, 1, 3])}, "columns: wanted"),
        ("take", TAKE, {"x": torch.zeros(2), "columns": ROWS, "rows": None}, "x: wanted"),
    ],
)
def test_kernels_refuse(kernel: str, arguments: dict[str, Any], changed: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(_cpu, kernel)(**{**arguments, **changed, "threads": 1})


# --- lifetimes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda x: x, Old])
@pytest.mark.parametrize("x", [torch.zeros(4, 2), np.zeros((4, 2), np.float32), array.array("f", [1, 2])], ids=type)
def test_no_reference_is_kept(x: Any, wrap: Any) -> None:
    """Old(array.array) is refused, and keeps nothing either."""
    exporter, out = wrap(x), torch.zeros(x.shape if hasattr(x, "shape") else 2)
    before = sys.getrefcount(x), sys.getrefcount(exporter)
    for rows in (None, [1]) * 10:  # [1] is refused after x was accepted
        with suppress(TypeError, AttributeError):
            describe(exporter)
            _cpu.take(exporter, rows, None, out, 1)
    assert (sys.getrefcount(x), sys.getrefcount(exporter)) == before


def test_a_buffer_is_released() -> None:
    buffer = bytearray(8)
    describe(buffer)
    buffer.append(1)  # BufferError while somebody holds it


# --- threads and processes -----------------------------------------------------------------------------------------------


def long_job(images: int = 400) -> dict[str, Any]:
    """A second or so of counting: one image again and again, and a search among 255 edges."""
    x = torch.linspace(0, 1, 1 << 16).reshape(1, 1, 256, 256).expand(images, 1, 256, 256)
    counts = torch.zeros(1, 1, 256, dtype=torch.int64)
    edges = torch.linspace(0, 1, 257)[None, 1:-1].contiguous()
    return {"x": x, "edges": edges, "labels": None, "counts": counts, "nans": torch.zeros(1, dtype=torch.int64), "threads": 1}


def test_gil_is_released() -> None:
    """This thread ticks in the middle of the time that the kernel takes in another."""
    job, span = long_job(), []

    def work() -> None:
        span.append(time.perf_counter())
        _cpu.joint_counts(**job)
        span.append(time.perf_counter())

    worker, ticks = threading.Thread(target=work), []
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        ticks.append(time.perf_counter())
    quarter = (span[1] - span[0]) / 4
    assert any(span[0] + quarter < tick < span[1] - quarter for tick in ticks)


def small_job() -> tuple[torch.Tensor, Levels, torch.Tensor]:
    x = torch.randn(6, 40, 9, 7, generator=torch.Generator().manual_seed(1))
    levels = Levels.uniform(-2, 2, 16, channels=40)
    with threads(1):
        return x, levels, ops.aura_counts(x, levels)


def test_several_python_threads_at_once() -> None:
    x, levels, wanted = small_job()
    rows = torch.arange(5, -1, -1)
    with threads(2), ThreadPoolExecutor(6) as callers:
        counts = [callers.submit(ops.aura_counts, x, levels) for _ in range(60)]
        taken = [callers.submit(ops.take, x, rows) for _ in range(60)]
    assert all(torch.equal(future.result(), wanted) for future in counts)
    assert all(torch.equal(future.result(), x[rows]) for future in taken)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_counts() -> None:
    """As in a DataLoader's worker: the parent has used the pool before; the child must neither hang nor miscount."""
    x, levels, wanted = small_job()
    with threads(3):
        assert torch.equal(ops.aura_counts(x, levels), wanted)

    def child() -> None:
        counts, nans = torch.zeros_like(wanted), torch.zeros(40, dtype=torch.int64)
        for _ in range(2):
            _cpu.aura_counts(x, levels.edges, [(0, 0, 1), (0, 1, 0)], False, None, counts, nans, 3)
        sys.exit(0 if counts.tolist() == (2 * expected).tolist() else 1)

    expected = wanted.clone()
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    if hung := process.is_alive():
        process.kill()
        process.join()
    assert not hung
    assert process.exitcode == 0
    with threads(3):
        assert torch.equal(ops.aura_counts(x, levels), wanted)  # the parent's pool still works
