"""The masked model: what a cut model computes, at the dense model's size, with a weight for every channel.

Letters: m the masks of one group, 1 keeps a channel and 0 takes it away; x an activation, W a weight that reads it.

    consumers      W_oc m_c in place of W_oc
    LayerNorm      mu = sum_c m_c x_c / sum_c m_c,   var = sum_c m_c (x_c - mu)^2 / sum_c m_c
    RMSNorm, mean  sum_c m_c x_c / sum_c m_c  (of x^2 in RMSNorm)
    sums, lengths  over m_c x_c

With masks of 0 and 1 this equals the cut model up to rounding; in between it is differentiable in the masks. Grouped
norms and grouped convolutions lose whole groups and need nothing of their own (a GroupNorm of one group is a LayerNorm);
a BatchNorm keeps to its channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyprune_fast import ops
from pyprune_fast.slicing import Group, Member
from pyprune_fast.slicing.places import held_tensors

from .axes import Axis, Run, layout, split
from .entries import EntryPoint, Tie, Trace, read_entries, run_entries
from .tracer import REDUCING, Site

Masks = Mapping[str, Tensor]


class MaskedModel:
    """A model whose groups' channels can be weighted.

    Args:
        model: The model; its weights are read at every run, and it is left as it is. Gradients reach the masks, and the
            weights too.
        groups: Groups of that model, as `find_groups` lists them for these inputs.
        inputs: As for `find_groups`.
        ties: As for `find_groups`.

    Raises:
        ValueError: A group that is not one of this model's.

    Example:
        >>> from pyprune_fast.graph import find_groups
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
        >>> masked = MaskedModel(model, find_groups(model, x), x)
        >>> masks = torch.tensor([1.0, 0.0, 0.5, 1.0], requires_grad=True)
        >>> masked.run({"0": masks}).sum().backward()
        >>> masks.grad.shape
        torch.Size([4])
    """

    def __init__(self, model: nn.Module, groups: Iterable[Group], inputs: Any, *, ties: Iterable[Tie] = ()):
        entries = read_entries(model, inputs)
        self._prepare(model, groups, entries, run_entries(model, entries, ties))

    @classmethod
    def of(cls, model: nn.Module, groups: Iterable[Group], entries: Mapping[str, EntryPoint], trace: Trace) -> MaskedModel:
        """Makes one from a trace that is there already."""
        made = cls.__new__(cls)
        made._prepare(model, groups, entries, trace)
        return made

    def _prepare(self, model: nn.Module, groups: Iterable[Group], entries: Mapping[str, EntryPoint], trace: Trace) -> None:
        self.model = model
        self.entries = entries
        self._groups = {group.name: group for group in groups}
        tracer = trace.tracer
        names = {id(variable(trace, group)): group.name for group in self._groups.values()}
        self._sites = {
            name: [_weighted(site, names) for site in sites] for name, sites in zip(entries, tracer.sites, strict=True)
        }
        self._reads = {
            group.name: [member for member in group.members if (member.tensor, member.dim) in tracer.reads]
            for group in self._groups.values()
        }

    def run(self, masks: Masks, entry: str = "forward", inputs: Any = None) -> Any:
        """Calls an entry point with weighted channels.

        Args:
            masks: Weights by group name, float of shape (channels,), on the model's device; other groups keep all.
            entry: Name of the entry point.
            inputs: Its inputs, (positional, keyword); default: the example inputs. The call must go through the same
                operations as with the example inputs.

        Returns:
            What the entry point returns.

        Raises:
            ValueError: Masks of an unknown group or of another shape.
        """
        self._check("run", masks)
        with self._silenced(masks), _Weighing(self._sites[entry], masks):
            return self.entries[entry].run(self.model, inputs)

    @contextmanager
    def holding(self, masks: Masks) -> Iterator[None]:
        """In the block, calls of the model itself are those of the masked model: masks are kept while it is fine-tuned.

        No gradient reaches what a mask of 0 takes away, whatever an optimizer does to those weights changes no output, and
        norms have the cut model's statistics. So the cut can follow the training, without another loss.

        Args:
            masks: As for `run`, such as ``plan.masks()``.

        Raises:
            ValueError: Masks of an unknown group or of another shape, or no entry point that calls the model itself.

        Example:
            >>> from pyprune_fast.graph import find_groups
            >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 3)
            >>> with MaskedModel(model, find_groups(model, x), x).holding({"0": torch.tensor([1.0, 0.0, 1.0, 1.0])}):
            ...     model(x).sum().backward()
            >>> model[2].weight.grad[:, 1]
            tensor([0., 0.])
        """
        self._check("holding", masks)
        entry = next((name for name, point in self.entries.items() if point.call == "forward"), None)
        if entry is None:
            raise ValueError(f"MaskedModel.holding: wanted an entry point 'forward', got {', '.join(self.entries)}")
        running = ExitStack()

        def begin(*_: object) -> None:
            running.enter_context(self._silenced(masks))
            running.enter_context(_Weighing(self._sites[entry], masks))

        handles = [
            self.model.register_forward_pre_hook(begin, prepend=True),
            self.model.register_forward_hook(lambda *_: running.close(), always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check(self, op: str, masks: Masks) -> None:
        for name, mask in masks.items():
            if name not in self._groups:
                raise ValueError(f"MaskedModel.{op}: masks: wanted names of its groups, got {name!r}")
            if mask.shape != (self._groups[name].channels,):
                wanted = (self._groups[name].channels,)
                raise ValueError(f"MaskedModel.{op}: masks: group {name!r}: wanted shape {wanted}, got {tuple(mask.shape)}")

    @contextmanager
    def _silenced(self, masks: Masks) -> Iterator[None]:
        """Puts weighted copies in the places of the tensors that read the channels, for as long as it lasts."""
        tensors, places = held_tensors(self.model)
        weighted: dict[str, Tensor] = {}
        for name, mask in masks.items():
            for member in self._reads[name]:
                weight = weighted.get(member.tensor, tensors[member.tensor])
                weighted[member.tensor] = weight * _along(
                    weight, member.dim, _spread([(member, mask)], weight.shape[member.dim])
                )
        recurrent = [module for module in self.model.modules() if isinstance(module, nn.RNNBase)]
        try:
            for name, weight in weighted.items():
                for place in places[id(tensors[name])]:
                    place.put(weight)
            _refresh(recurrent)
            yield
        finally:
            for name in weighted:
                for place in places[id(tensors[name])]:
                    place.put(tensors[name])
            _refresh(recurrent)


def _refresh(modules: Sequence[nn.RNNBase]) -> None:
    """Recurrent modules keep a list of their weights besides."""
    for module in modules:
        module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]


def variable(trace: Trace, group: Group) -> Axis:
    """The variable of a trace that is this group."""
    for member in group.members[:1]:
        axes = trace.tracer.parameters.get(member.tensor, [])
        for leaf, run in layout(axes[member.dim]) if member.dim < len(axes) else ():
            if run == (member.offset, member.step, member.block) and leaf.size == group.channels:
                return leaf
            # A group of blocks: the variable of a new trace has not been split yet.
            size, left = divmod(leaf.size, group.channels)
            if size > 1 and not left and run[0] == member.offset and run[1] * size == member.step:
                return split(leaf, size)[0]
    raise ValueError(f"MaskedModel: groups: wanted groups of this model with these inputs, got {group.name!r}")


Pieces = list[tuple[str, Run]]


def _weighted(site: Site, names: Mapping[int, str]) -> tuple[str, dict[int, Pieces]]:
    """Which groups' channels a reducing call sums over, by dimension of its argument."""
    found = {
        dim: [(names[id(leaf)], run) for leaf, run in layout(axis) if id(leaf) in names] for dim, axis in site.axes.items()
    }
    return site.kind, {dim: pieces for dim, pieces in found.items() if pieces}


def _spread(pieces: Iterable[tuple[Member, Tensor]], size: int) -> Tensor:
    """Lays channels' masks out over the positions of an axis; all others are 1."""
    pieces = list(pieces)
    out = torch.ones(size, dtype=pieces[0][1].dtype, device=pieces[0][1].device)
    for member, mask in pieces:
        positions = member.positions(range(len(mask))).to(mask.device)
        out = out.index_copy(0, positions, mask.repeat_interleave(member.block))
    return out


def _along(x: Tensor, dim: int, values: Tensor) -> Tensor:
    return values.to(x.dtype).reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])


class _Weighing(TorchFunctionMode):
    """Replaces reducing calls, in the order in which the tracer saw them."""

    def __init__(self, sites: Sequence[tuple[str, dict[int, Pieces]]], masks: Masks):
        super().__init__()
        self._sites = iter(sites)
        self._masks = masks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in REDUCING:
            return func(*args, **kwargs)
        kind, dims = next(self._sites, ("nothing", {}))
        if kind != REDUCING[func]:
            raise RuntimeError(f"MaskedModel.run: wanted the operations of the example inputs, got {REDUCING[func]} for {kind}")
        x = args[0] if args else kwargs.pop("input")
        mask = self._mask(x, dims)
        if mask is None:
            return func(x, *args[1:], **kwargs)
        if kind == "layer_norm":
            return _layer_norm(x, mask, *args[1:], **kwargs)
        if kind == "group_norm":
            return _one_group(x, mask, *args[1:], **kwargs)
        if kind == "rms_norm":
            return _rms_norm(x, mask, *args[1:], **kwargs)
        result = func(x * mask, *args[1:], **kwargs)
        return result * (mask.numel() / mask.sum()) if kind == "mean" else result

    def _mask(self, x: Tensor, dims: Mapping[int, Pieces]) -> Tensor | None:
        mask = None
        for dim, pieces in dims.items():
            size = x.shape[dim]
            known = [(Member("", 0, *run), self._masks[name]) for name, run in pieces if name in self._masks]
            if known:
                own = _along(x, dim, _spread(known, size))
                mask = own if mask is None else mask * own
        return mask


def _layer_norm(
    x: Tensor, mask: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    weight, bias = (None if values is None else values.to(x.dtype) for values in (weight, bias))
    return ops.masked_norm(x, _over(mask, shape), weight, bias, eps=eps)


def _one_group(x: Tensor, mask: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """A GroupNorm of one group: a LayerNorm over channels and sites, with a scale for each channel."""
    out = _layer_norm(x, mask, x.shape[1:], eps=eps)
    out = out if weight is None else out * _along(x, 1, weight)
    return out if bias is None else out + _along(x, 1, bias)


def _rms_norm(x: Tensor, mask: Tensor, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Tensor:
    return ops.masked_norm(x, _over(mask, shape), None if weight is None else weight.to(x.dtype), kind="rms", eps=eps)


def _over(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask over all of the axes that are normalised."""
    return mask.reshape(mask.shape[-len(shape) :]).expand(*shape)
