"""Runs a model without numbers and labels every axis of every tensor that it computes.

A dispatch mode sees each operation as the library's backends would, whatever modules or functions it came from; the rule
of that operation (`rules`) says how the axes of its results follow from those of its arguments. Parameters keep their
axes from call to call: reuse, loops and several entry points need nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .axes import Axis, IrregularError, constant, find, fix, unify

Source = tuple[str, int]  # a parameter's or buffer's name, and which of its axes


class Labels(NamedTuple):
    """A tensor's axes; and for a parameter (transposed, cut, cast) whose axes they are, None for those that are new."""

    axes: list[Axis]
    sources: list[Source | None]


@dataclass
class Product:
    """A matrix product, convolution or attention.

    Attributes:
        macs: Its multiply-accumulates for one example.
        axes: The axes whose sizes they go with.
    """

    macs: float
    axes: tuple[Axis, ...]


# Functions whose sums over channels a masked model can take over the remaining ones; see `masked`.
REDUCING: dict[Callable[..., Any], str] = {
    torch.nn.functional.layer_norm: "layer_norm",
    torch.nn.functional.rms_norm: "rms_norm",
    torch.nn.functional.group_norm: "group_norm",
    torch.mean: "mean",
    Tensor.mean: "mean",
    torch.sum: "sum",
    Tensor.sum: "sum",
    torch.norm: "norm",
    Tensor.norm: "norm",
    torch.linalg.vector_norm: "norm",
    torch.nn.functional.normalize: "norm",
}


@dataclass
class Site:
    """A call of such a function.

    Attributes:
        kind: Its name in `REDUCING`.
        axes: By dimension of its first argument, the axis that it sums over.
    """

    kind: str
    axes: dict[int, Axis]


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels tensors while it is entered.

    Attributes:
        parameters: Axes of the parameters and buffers that were read, by name.
        reads: Those of their axes that an activation's axis was contracted with.
        makes: Those that became an axis of an activation by such a contraction, or by a lookup.
        products: All that costs.
        sites: Calls of reducing functions, in their order; one list for each entry point.
        bare: Norms without tensors, by name, and the axes that they normalise over or channel by channel.
        executed: Names of the modules that were called.
        examples: How many examples the present entry point's inputs hold.
    """

    def __init__(self, model: nn.Module, rule_of: Callable[[Any], Callable[..., None] | None]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._rule_of = rule_of
        self.parameters: dict[str, list[Axis]] = {}
        self.reads: set[Source] = set()
        self.makes: set[Source] = set()
        self.products: list[Product] = []
        self.sites: list[list[Site]] = []
        self.bare: dict[str, Axis] = {}
        self.executed: set[str] = set()
        self.examples = 1
        self._site: Site | None = None
        self._running = [""]
        self._names = {id(t): name for name, t in [*model.named_buffers(), *model.named_parameters()]}
        self._computed = _computed_tensors(model)
        self._held = _plain_tensors(model)
        self._modules = dict(model.named_modules())  # and so the identities above stay valid
        for name, module in model.named_modules():
            module.register_forward_pre_hook(self._enters(name))
            module.register_forward_hook(self._leaves(name), always_call=True)

    def _enters(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.executed.add(name)
            self._running.append(name)

        return hook

    def _leaves(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            self._running.pop()

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation, then its rule."""
        kwargs = kwargs or {}
        # Its rule sees the tensor only afterwards, in its new layout.
        moved = func is torch.ops.aten.as_strided_.default and not args[0].is_contiguous()
        out = func(*args, **kwargs)
        rule = None if moved else self._rule_of(func)
        try:
            if rule is None:
                self.opaque(func, (args, kwargs), out)
            else:
                rule(self, func, out, *args, **kwargs)
        except IrregularError:
            self.opaque(func, (args, kwargs), out)
        return out

    # --- what rules use ---

    def labels(self, x: Tensor) -> Labels:
        """The axes of a tensor; those of an unknown one are constants."""
        found: Labels | None = getattr(x, "_ppf_labels", None)
        if found is not None:
            return found
        name = self._names.get(id(x))
        if name is not None:
            fixed = self._computed.get(name, "")
            axes = [Axis(size, fixed=fixed) for size in x.shape]
            self.parameters[name] = axes
            found = Labels(axes, [(name, dim) for dim in range(x.ndim)])
        else:
            why = self._held.get(id(x), "a constant of the forward method")
            found = Labels([constant(size, why) for size in x.shape], [None] * x.ndim)
        x._ppf_labels = found  # type: ignore[attr-defined]
        return found

    def axes(self, x: Tensor) -> list[Axis]:
        """The axes of a tensor."""
        return self.labels(x).axes

    def label(self, out: Tensor, axes: Sequence[Axis], sources: Sequence[Source | None] | None = None) -> None:
        """Gives a tensor its axes."""
        if [axis.size for axis in axes] != list(out.shape):
            raise IrregularError
        out._ppf_labels = Labels(list(axes), list(sources or [None] * out.ndim))  # type: ignore[attr-defined]

    def unify(self, func: Any, a: Axis, b: Axis) -> Axis:
        """Makes two axes one, and returns the one that tells more; their channels stay if they do not fit."""
        if a.size != b.size:
            raise IrregularError
        try:
            unify(a, b)
        except IrregularError:
            for axis in (a, b):
                self.fix(func, axis, f"an axis of {a.size} is read in two ways that do not fit together")
        return b if find(a).form == "!" else a

    def fix(self, func: Any, axis: Axis, why: str) -> None:
        """Keeps an axis' channels; the reason names the operation and the module."""
        fix(axis, f"{self.place(func)}: {why}")

    def place(self, func: Any) -> str:
        """Names an operation and where it runs."""
        name = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
        return f"{name} in {self._running[-1]}" if self._running[-1] else name

    def running(self) -> nn.Module:
        """The module that is running."""
        module: nn.Module = self._modules[self._running[-1]]
        return module

    def normalise(self, func: Any, axis: Axis) -> Axis:
        """Notes an axis that the running module normalises: if it has no tensors, a cut has to tell it its new width."""
        name, module = self._running[-1], self.running()
        if isinstance(module, NORMS) and not any(True for _ in (*module.parameters(), *module.buffers())):
            axis = self.unify(func, axis, self.bare.setdefault(name, axis))
        return axis

    def contract(self, func: Any, a: tuple[Tensor, int], b: tuple[Tensor, int], last: int = 8) -> None:
        """Sums over an axis of ``a`` and one of ``b``; one of them has to be a parameter's, for channels to go.

        The other axes of a parameter, those from ``last`` on excepted, become the result's.
        """
        ends = [(self.labels(x), dim) for x, dim in (a, b)]
        axis = self.unify(func, *(labels.axes[dim] for labels, dim in ends))
        sources = [source for labels, dim in ends if (source := labels.sources[dim])]
        self.reads.update(sources)
        if not sources:
            self.fix(func, axis, "a sum over products of two activations, as over the width of an attention head")
        for labels, dim in ends:
            self.makes.update(s for d, s in enumerate(labels.sources) if s and d != dim and d < last)

    def reduce(self, func: Any, x: Tensor, dims: Iterable[int], maskable: bool) -> None:
        """Sums over axes of an activation: noted for the masked model if it can follow, and else fixed."""
        labels = self.labels(x)
        for dim in dims:
            axis = labels.axes[dim]
            if maskable and self._site is not None and not labels.sources[dim]:
                self._site.axes[dim] = axis
            else:
                self.fix(func, axis, "its result depends on all of these channels")

    def opaque(self, func: Any, inputs: Any, out: Any) -> None:
        """An operation without a rule: nothing that it touches may go."""
        why = f"{self.place(func)}: an operation that is not known"
        for x in tensors(inputs):
            labels = self.labels(x)
            # A computed weight is named itself, not what computes it.
            why = next((self._computed[s[0]] for s in labels.sources if s and s[0] in self._computed), why)
            for axis in labels.axes:
                fix(axis, why)
        for x in tensors(out):
            self.label(x, [constant(size, why) for size in x.shape])

    def calls(self) -> _Calls:
        """The mode that notes reducing functions, for one entry point."""
        self.sites.append([])
        return _Calls(self)


class _Calls(TorchFunctionMode):
    """Notes calls of `REDUCING` functions."""

    def __init__(self, tracer: Tracer):
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = REDUCING.get(func)
        if kind is None:
            return func(*args, **(kwargs or {}))
        site = Site(kind, {})
        self._tracer.sites[-1].append(site)
        self._tracer._site = site
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._tracer._site = None


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of nested arguments."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _computed_tensors(model: nn.Module) -> Mapping[str, str]:
    """Tensors from which another one is computed, with the reason for leaving them alone, which names that one."""
    reasons = {}
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        targets = {name: name.removesuffix("_orig") for name in module._parameters if name.endswith("_orig")}
        computed = {name: target for name, target in targets.items() if f"{target}_mask" in module._buffers}
        if parametrizations := module._modules.get("parametrizations"):
            names = [name for name, _ in parametrizations.named_parameters()]
            computed |= {f"parametrizations.{name}": name.split(".")[0] for name in names}
        for name, target in computed.items():
            reasons[f"{dot}{name}"] = f"{dot}{target} is computed: parametrised, or under a pruning mask"
    return reasons


def _plain_tensors(model: nn.Module) -> dict[int, str]:
    """Tensors that modules hold as plain attributes, by identity: they are no part of the model's state."""
    found = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                full = f"{prefix}.{name}" if prefix else name
                masked = f"{name}_orig" in module._parameters
                why = "is computed: parametrised, or under a pruning mask" if masked else "is neither a parameter nor a buffer"
                found[id(value)] = f"{full} {why}"
    return found
