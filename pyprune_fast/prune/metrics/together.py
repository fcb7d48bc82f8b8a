"""What models that are measured one after the other compute alike is computed once.

Candidates of a search differ in some groups: the layers before the first of these see what they saw, with the weights that they
had. While metrics are measured in a `sharing` block, the calls of each forward pass are remembered in their order, and a call
that finds in its place of the pass before the same function with the same arguments is answered with the same tensor.

    products and lookups   the same arguments: the same tensors, or others with the same bits
    cheap functions        the same arguments: the very same tensors, which the pass before made or the model holds

So answers are those of the plain pass bit for bit, whatever the order of candidates, and nothing has to be traced. Only known
functions without chance and side effects are remembered, and only without gradients and autocast; all others run. Tensors that
are written to after they were remembered (`relu_`, `+=`) are not answered with: torch counts such writes. It does not count
those by way of `.data` or a NumPy view, so a metric must not write to the model's parameters in these ways. Arguments that no
remembered call made, such as the batch, are remembered as copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pyprune_fast._checks import check_count

LIMIT = 1 << 28

Name = tuple[str, int]  # of a metric, with the number of its repeat

_PLACES = (functional, torch, Tensor)
_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def _functions(names: str) -> set[Any]:
    return {getattr(place, name) for place in _PLACES for name in names.split() if hasattr(place, name)}


_BY_CONTENT = _functions("""
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ mm bmm addmm baddbmm einsum
    scaled_dot_product_attention embedding
""")
_BY_IDENTITY = _functions("""
    relu relu6 gelu silu elu selu leaky_relu prelu hardtanh hardswish hardsigmoid mish softplus softmax log_softmax sigmoid tanh
    exp add mul sub div neg pow rsqrt mean batch_norm layer_norm group_norm rms_norm max_pool1d max_pool2d max_pool3d avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate pad cat stack
    flatten unflatten reshape view transpose permute movedim squeeze unsqueeze expand contiguous chunk split unbind
""")


@dataclass(eq=False)
class _Argument:
    """A tensor that a call took or made, as it was then.

    Attributes:
        numbers: the tensor itself where a remembered call made it, which then tells by its version whether it was written to;
            else a copy.
        source: the tensor of which it is known by its version that it holds these numbers: itself, or one of the model's, which
            a cut and its undoing put back in place. None for others: who made them may change them in other ways.
        version: of the source.
    """

    numbers: Tensor
    source: Tensor | None
    version: int

    @property
    def intact(self) -> bool:
        """Whether the numbers are still those."""
        return self.numbers is not self.source or self.numbers._version == self.version

    def same(self, x: Tensor, by_content: bool) -> bool:
        """Whether a tensor holds the same numbers; of what calls made, others are looked into only `by_content`."""
        if x is self.source and x._version == self.version:
            return True
        made = self.numbers is self.source
        if (made and not (by_content and self.intact)) or not _same_bits(self.numbers, x):
            return False
        if not made and self.source is not None:
            self.source, self.version = x, x._version
        return True


@dataclass(eq=False)
class _Call:
    """A call that was made."""

    func: Any
    arguments: list[Any]  # leaves, tensors as _Argument
    result: Any
    made: list[_Argument]  # the result's tensors
    bytes: int
    uses: int = 0  # places of passes that it stands in

    def answers(self, func: Any, leaves: list[Any], by_content: bool) -> bool:
        """Whether it was made alike, and its result still is what it was."""
        if func is not self.func or len(leaves) != len(self.arguments) or not all(x.intact for x in self.made):
            return False
        return all(
            isinstance(x, Tensor) and kept.same(x, by_content)
            if isinstance(kept, _Argument)
            else type(x) is type(kept) and x == kept
            for x, kept in zip(leaves, self.arguments, strict=True)
        )


class _Shared:
    """The calls of the last pass of each metric, by the metric's name and their number in the pass."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self.metrics: dict[Name, None] = {}
        self._calls: dict[tuple[Name, int], _Call] = {}
        self._known: dict[int, int] = {}  # the tensors that calls made, by identity, with their version then

    def look(self, metric: Name, number: int, func: Any, leaves: list[Any], by_content: bool) -> _Call | None:
        """The call that was made alike in this place, of this metric's last pass or of another's."""
        for name in (metric, *(other for other in self.metrics if other != metric)):
            call = self._calls.get((name, number))
            if call is not None and call.answers(func, leaves, by_content):
                return call
        return None

    def keep(self, metric: Name, number: int, call: _Call) -> None:
        """Puts a call in its place, if there is room for it."""
        if self._calls.get((metric, number)) is call:
            return
        self.forget(metric, number)
        if call.uses or self.room(call.bytes):
            self._calls[metric, number] = call
            if not call.uses:
                self.bytes += call.bytes
                self._known |= {id(x.numbers): x.version for x in call.made}
            call.uses += 1

    def forget(self, metric: Name, number: int) -> None:
        """Empties a place."""
        call = self._calls.pop((metric, number), None)
        if call is None:
            return
        call.uses -= 1
        if not call.uses:
            self.bytes -= call.bytes
            for x in call.made:
                self._known.pop(id(x.numbers), None)

    def room(self, size: int) -> bool:
        """Whether so many bytes more stay within the limit."""
        return self.bytes + size <= self.limit

    def made(self, x: Tensor) -> bool:
        """Whether a remembered call made this tensor, and nobody has written to it since."""
        return self._known.get(id(x)) == x._version


class _Pass(TorchFunctionMode):
    """One measurement of one metric: the calls of all its forward passes are numbered through."""

    def __init__(self, shared: _Shared, metric: Name):
        super().__init__()
        self._shared, self._metric, self._number = shared, metric, 0
        self._models: dict[nn.Module, bool] = {}
        self._held: set[int] = set()
        shared.metrics[metric] = None

    def takes(self, model: nn.Module) -> bool:
        """Whether a model's calls may be remembered; makes its buffers known."""
        if model not in self._models:
            self._models[model] = not any(map(_is_fused, model.modules()))
            self._held |= {id(x) for x in model.buffers()}
        return self._models[model]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        by_content = func in _BY_CONTENT
        if not by_content and func not in _BY_IDENTITY:
            return func(*args, **kwargs)
        number, self._number = self._number, self._number + 1
        leaves = list(_leaves([args, list(kwargs.items())]))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        able = _plain(tensors) and _pure(func, args, kwargs)
        if not able or not (by_content or all(self._shared.made(x) or self._holds(x) for x in tensors)):
            self._shared.forget(self._metric, number)
            return func(*args, **kwargs)
        call = self._shared.look(self._metric, number, func, leaves, by_content)
        if call is None:
            self._shared.forget(self._metric, number)  # its memory serves the new call
            size = sum(x.nbytes for x in tensors if not self._shared.made(x))
            if not self._shared.room(size):
                return func(*args, **kwargs)
            arguments = [self._argument(x) if isinstance(x, Tensor) else x for x in leaves]
            result = func(*args, **kwargs)
            made = [_Argument(x, x, x._version) for x in _leaves([result]) if isinstance(x, Tensor)]
            call = _Call(func, arguments, result, made, size + _new_bytes(made, tensors))
        self._shared.keep(self._metric, number, call)
        return call.result

    def _holds(self, x: Tensor) -> bool:
        return isinstance(x, nn.Parameter) or id(x) in self._held

    def _argument(self, x: Tensor) -> _Argument:
        numbers = x if self._shared.made(x) else x.clone()
        return _Argument(numbers, x if numbers is x or self._holds(x) else None, x._version)


def _new_bytes(made: list[_Argument], taken: list[Tensor]) -> int:
    """Bytes of the memory that results lie in: none for views of what was taken."""
    storages = {x.numbers.untyped_storage()._cdata: x.numbers.untyped_storage().nbytes() for x in made}
    return sum(size for key, size in storages.items() if key not in {x.untyped_storage()._cdata for x in taken})


def _leaves(values: Any) -> Iterator[Any]:
    """What is in nested lists and tuples, and where they end."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
            yield len(value)
        else:
            yield value


def _pure(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call has neither chance nor side effects, as far as its arguments tell: `inplace`, `training`, `out`."""
    if func is functional.scaled_dot_product_attention:
        return not kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
    if func is functional.embedding:
        return kwargs.get("max_norm", args[3] if len(args) > 3 else None) is None
    flags = [*args, *(value for name, value in kwargs.items() if name != "keepdim")]
    return kwargs.get("out") is None and not any(flag is True for flag in flags)


def _plain(tensors: list[Tensor]) -> bool:
    """Whether tensors are torch's own, and neither gradients nor casts are on the way."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return False
    return all(type(x) in (Tensor, nn.Parameter) and not x.is_inference() for x in tensors)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if (a.shape, a.dtype, a.device, a.stride()) != (b.shape, b.dtype, b.device, b.stride()):
        return False
    if a.is_floating_point():
        bits = _BITS.get(a.dtype)
        return bits is not None and torch.equal(a.view(bits), b.view(bits))
    return not a.is_complex() and torch.equal(a, b)


_SHARED: ContextVar[_Shared | None] = ContextVar("shared", default=None)
_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


@contextmanager
def sharing(limit: int = LIMIT) -> Iterator[None]:
    """Lets the measurements of this block compute once what their models compute alike.

    `simulate` and every search are such blocks, as is an outer one for them. Values are the same with it, bit for bit. It
    concerns the built-in metrics of outputs, and what other metrics compute under `shared`. Models with nn.MultiheadAttention,
    whose fused path would be left, or with compiled modules are run as always.

    Args:
        limit: most bytes to remember: the activations of one pass of each metric over its data, those that metrics share once.
            First come, first kept: calls for which there is no room run every time. Weights of a cut model come on top.

    Raises:
        TypeError, ValueError: a limit that is no count.

    Example:
        >>> from pyprune_fast.prune import metrics
        >>> data = [(torch.eye(3), torch.tensor([0, 1, 0]))]
        >>> with sharing():  # the second metric needs no pass of its own
        ...     table = metrics.evaluate(nn.Linear(3, 3), [metrics.accuracy(data), metrics.recall(data)])
    """
    check_count("sharing", "limit", limit, 0)
    token = _SHARED.set(_SHARED.get() or _Shared(limit))
    try:
        yield
    finally:
        _SHARED.reset(token)


@contextmanager
def measuring(metric: str, repeat: int) -> Iterator[None]:
    """One measurement of one metric."""
    found = _SHARED.get()
    token = _PASS.set(None if found is None else _Pass(found, (metric, repeat)))
    try:
        yield
    finally:
        _PASS.reset(token)


@contextmanager
def shared(model: nn.Module) -> Iterator[None]:
    """Within a metric's function: forward passes of a model of which only the outputs count, not their time or operations.

    The metric then takes part in `sharing`. Outputs and parameters are written to by torch's own functions alone, if at all:
    not by way of `.data` or a NumPy view, of which torch does not tell.

    Args:
        model: that runs in the block, in eval mode and without gradients, in whatever way.

    Example:
        >>> from pyprune_fast.prune import Metric
        >>> def energy(model):
        ...     with torch.no_grad(), shared(model):
        ...         latents = model[0](torch.ones(4, 3))
        ...     return float(latents.square().mean())
        >>> Metric("energy", energy).measured(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2))).value > 0
        True
    """
    now = _PASS.get()
    with now if now is not None and now.takes(model) else nullcontext():
        yield


def _is_fused(module: nn.Module) -> bool:
    fused = isinstance(module, nn.MultiheadAttention) and torch.backends.mha.get_fastpath_enabled()
    return fused or module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
