"""masked_norm against formulas in float64 under autograd, the reference, and the norms of cut tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from simd import OFFERED
from strategies import FLOATS, threads
from torch import Tensor
from torch.nn import functional

from pyprune_fast import _cpu, ops, reference
from pyprune_fast.jit import torch_cpu

KINDS = ("layer", "rms")
SHAPES = [(1, 1), (1, 7), (5, 16), (3, 33), (64, 48), (65, 129), (200, 768), (4500, 5)]
# A sum over C channels in 16 lanes, then what is added to it; sums over rows have at most 64 terms.
EPS = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def formula(x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, kind: str) -> Tensor:
    """The definition, for autograd."""
    total = mask.sum()
    mean = (x * mask).sum(-1, keepdim=True) / total if kind == "layer" else 0.0
    variance = ((x - mean).square() * mask).sum(-1, keepdim=True) / total
    y = (x - mean) / (variance + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def operands(shape: tuple[int, int], dtype: torch.dtype, affine: bool = True) -> list[Tensor | None]:
    """x, mask, weight, bias, and a gradient of y."""
    torch.manual_seed(0)
    x, mask, grad = torch.randn(shape), torch.rand(shape[1]) + 0.01, torch.randn(shape)
    rows = [torch.randn(shape[1]).to(dtype) if affine else None for _ in range(2)]
    return [x.add(0.5).to(dtype), mask.to(dtype), *rows, grad.to(dtype)]


def gradients(function: Any, given: list[Tensor | None]) -> list[Tensor]:
    leaves = [x if x is None else x.detach().clone().requires_grad_() for x in given[:4]]
    y = function(*leaves)
    y.backward(given[4])
    return [y.detach(), *(x.grad for x in leaves if x is not None)]


def near(got: Tensor, wanted: Tensor, terms: int) -> bool:
    """Within so many roundings of the largest entries: sums cancel."""
    return torch.allclose(got.double(), wanted, rtol=0, atol=terms * EPS[got.dtype] * max(1.0, float(wanted.abs().max())))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula_and_its_gradients(shape: tuple[int, int], dtype: torch.dtype, kind: Any, affine: bool) -> None:
    given = operands(shape, dtype, affine)
    wide = [x if x is None else x.double() for x in given]
    got = gradients(lambda *a: ops.masked_norm(*a, kind=kind, eps=0.01), given)
    wanted = gradients(lambda *a: formula(*a, 0.01, kind), wide)
    terms = 64 + 8 * shape[1] // 16
    assert all(near(a, b, terms) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", [reference, torch_cpu])
def test_the_twins_agree(module: Any, kind: str) -> None:
    x, mask, weight, bias, grad = operands((37, 50), torch.float64)
    centred = kind == "layer"
    out = torch.ops.pyprune_fast.masked_norm(x, mask, weight, bias, 0.01, centred)
    back = torch.ops.pyprune_fast.masked_norm_backward(grad, x, mask, weight, *out[1:], 0.01, centred, True)
    if module is reference:
        other = module.masked_norm(x, mask, weight, bias, 0.01, centred)
        other_back = module.masked_norm_backward(grad, x, mask, weight, *out[1:], 0.01, centred, True)
    else:
        other, other_back = ([torch.full_like(t, torch.nan) for t in found] for found in (out, back))
        module.masked_norm(x, mask, weight, bias, 0.01, centred, *other, 1)
        module.masked_norm_backward(grad, x, mask, weight, *out[1:], 0.01, centred, *other_back, 1)
        none = [torch.empty_like(x), torch.empty_like(mask), None, None]
        module.masked_norm_backward(grad, x, mask, weight, *out[1:], 0.01, centred, *none, 1)
        assert torch.equal(none[1], other_back[1])
    assert all(near(a, b, 200) for a, b in zip((*other, *other_back), (*out, *back), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_0_and_1_are_a_cut(kind: Any) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(6, 5, 24), (torch.rand(24) < 0.5).float()
    weight, bias, kept = torch.randn(24), torch.randn(24), mask.bool()
    if kind == "layer":
        cut = functional.layer_norm(x[..., kept], (int(mask.sum()),), weight[kept], bias[kept])
    else:
        cut = functional.rms_norm(x[..., kept], (int(mask.sum()),), weight[kept])
    whole = ops.masked_norm(x, mask, weight, bias if kind == "layer" else None, kind=kind)
    assert torch.allclose(whole[..., kept], cut, rtol=0, atol=2e-6)
    scaled = ops.masked_norm(x, mask * 7, weight, bias if kind == "layer" else None, kind=kind)
    assert torch.allclose(scaled, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_levels_change_no_bit(kind: Any, dtype: torch.dtype) -> None:
    given, found = operands((4500, 37), dtype), []
    for isa in OFFERED:
        for number in (1, 2, 5):
            _cpu.set_isa(isa)
            with threads(number):
                found.append(gradients(lambda *a: ops.masked_norm(*a, kind=kind), given))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: Any) -> None:
    x, mask, weight, bias, _ = operands((5, 19), torch.float64)
    leaves = [t.requires_grad_() for t in (x, mask, weight, bias)]
    assert torch.autograd.gradcheck(lambda *a: ops.masked_norm(*a, kind=kind), leaves)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, mask, weight, bias, _ = operands((5, 19), torch.float32)
    ops.masked_norm(x, mask.requires_grad_(), weight, bias).square().sum().backward()
    assert mask.grad is not None
    assert x.grad is None
    mask.grad = None
    ops.masked_norm(x.requires_grad_(), mask.detach(), weight, bias.requires_grad_()).square().sum().backward()
    assert x.grad is not None
    assert bias.grad is not None
    assert mask.grad is None
    assert weight.grad is None


def test_strides_and_several_axes() -> None:
    torch.manual_seed(0)
    big, mask, weight = torch.randn(8, 6, 10), torch.rand(6, 10) + 0.1, torch.randn(6, 10)
    wanted = ops.masked_norm(big.reshape(8, 60), mask.reshape(60), weight.reshape(60)).reshape(8, 6, 10)
    assert torch.equal(ops.masked_norm(big, mask, weight), wanted)
    strided = big.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(ops.masked_norm(strided, mask.T.contiguous().T, weight), wanted)
    assert torch.equal(ops.masked_norm(big[::2], mask, weight), wanted[::2])
    spread = mask[:, :1].expand(6, 10).detach().requires_grad_()
    ops.masked_norm(big.transpose(0, 1).transpose(0, 1), spread).sum().backward()
    assert spread.grad.shape == (6, 10)


@pytest.mark.parametrize("dtype", FLOATS)
def test_half_types_are_done_in_float32(dtype: torch.dtype) -> None:
    x, mask, weight, bias, grad = operands((9, 40), torch.float32)
    low = [t.to(dtype) for t in (x, mask, weight, bias, grad)]
    got = gradients(ops.masked_norm, low)
    assert all(t.dtype == dtype for t in got)
    wanted = gradients(ops.masked_norm, [t.float() for t in low]) if dtype != torch.float64 else got
    assert all(torch.equal(a, b.to(dtype)) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_normalise(kind: Any) -> None:
    for shape in ((0, 4), (2, 0, 4)):
        x, mask = torch.zeros(shape, requires_grad=True), torch.ones(4, requires_grad=True)
        y = ops.masked_norm(x, mask, kind=kind)
        y.sum().backward()
        assert (y.shape, x.grad.shape, mask.grad.tolist()) == (shape, shape, [0.0] * 4)
    assert ops.masked_norm(torch.zeros(3, 0), torch.zeros(0), kind=kind).shape == (3, 0)
    assert ops.masked_norm(torch.ones(2, 3), torch.zeros(3), kind=kind).isnan().all()
    assert not ops.masked_norm(torch.ones(2, 3), torch.ones(3)).any()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((torch.zeros(2, 3).long(), torch.ones(3)), {}, TypeError, "x: wanted float16"),
        ((torch.zeros(2, 3), torch.ones(3).double()), {}, TypeError, "mask: wanted float32, got"),
        ((torch.zeros(2, 3), None), {}, TypeError, "mask: wanted float32, got NoneType"),
        ((torch.zeros(2, 3), torch.ones(2)), {}, ValueError, r"mask: wanted the shape of x's last axes"),
        ((torch.zeros(2, 3), torch.tensor(1.0)), {}, ValueError, r"mask: wanted the shape of x's last axes"),
        ((torch.zeros(2, 3), torch.ones(3), torch.ones(2)), {}, ValueError, r"weight: wanted the mask's shape = \(3,\)"),
        ((torch.zeros(2, 3), torch.ones(3), None, torch.ones(1, 3)), {}, ValueError, "bias: wanted the mask's shape"),
        ((torch.zeros(2, 3), torch.ones(3)), {"kind": "batch"}, ValueError, "kind: wanted 'layer' or 'rms', got 'batch'"),
        ((torch.zeros(2, 3), torch.ones(3, device="meta")), {}, ValueError, "wanted all tensors on one device"),
    ],
)
def test_refuses(arguments: Any, options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^masked_norm: {text}"):
        ops.masked_norm(*arguments, **options)


def test_the_module_refuses_what_would_corrupt_memory() -> None:
    x, row, rows = torch.zeros(4, 3), torch.ones(3), torch.zeros(4)
    forward = [x, row, None, None, 0.1, True, torch.zeros(4, 3), rows, rows]
    backward = [x, x, row, None, rows, rows, 0.1, True, torch.zeros(4, 3), torch.zeros(3), torch.zeros(3), torch.zeros(3)]
    wrong = [
        (_cpu.masked_norm, forward, 0, torch.zeros(3, 4).T, "x: wanted"),
        (_cpu.masked_norm, forward, 0, torch.zeros(4, 3).half(), "x: wanted float32 or float64|mask"),
        (_cpu.masked_norm, forward, 1, torch.ones(4), "mask: wanted"),
        (_cpu.masked_norm, forward, 2, torch.ones(4), "weight: wanted"),
        (_cpu.masked_norm, forward, 3, row.double(), "bias: wanted"),
        (_cpu.masked_norm, forward, 6, torch.zeros(4, 2), "y: wanted"),
        (_cpu.masked_norm, forward, 7, torch.zeros(3), "mean: wanted"),
        (_cpu.masked_norm, forward, 8, torch.zeros(3), "variance: wanted"),
        (_cpu.masked_norm_backward, backward, 0, torch.zeros(3, 4).T, "grad: wanted"),
        (_cpu.masked_norm_backward, backward, 4, torch.zeros(3), "mean, variance: wanted"),
        (_cpu.masked_norm_backward, backward, 8, torch.zeros(4, 2), "dx: wanted"),
        (_cpu.masked_norm_backward, backward, 9, torch.zeros(2), "dmask, dweight, dbias: wanted"),
        (_cpu.masked_norm_backward, backward, 10, None, "dweight, dbias: wanted both or neither"),
        (_cpu.masked_norm_backward, backward, 11, torch.zeros(2), "dmask, dweight, dbias: wanted"),
    ]
    for function, arguments, place, value, text in wrong:
        function(*arguments, 1)
        with pytest.raises(ValueError, match=f"^({text})"):
            function(*arguments[:place], value, *arguments[place + 1 :], 1)


def test_opcheck() -> None:
    x, mask, weight, bias, grad = operands((5, 19), torch.float32)
    torch.library.opcheck(
        torch.ops.pyprune_fast.masked_norm, (x.requires_grad_(), mask.requires_grad_(), weight, bias, 0.1, True)
    )
    torch.library.opcheck(torch.ops.pyprune_fast.masked_norm, (x, mask, None, None, 0.1, False))
    x, mask = x.detach(), mask.detach()
    _, mean, variance = torch.ops.pyprune_fast.masked_norm(x, mask, weight, bias, 0.1, True)
    for affine in (False, True):
        given = (grad, x, mask, weight, mean, variance, 0.1, True, affine)
        torch.library.opcheck(torch.ops.pyprune_fast.masked_norm_backward, given)
