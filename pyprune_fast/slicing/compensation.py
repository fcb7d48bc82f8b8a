"""Compensation of the layers that read removed channels: what those gave on average, or as far as the kept ones tell it.

Letters: W weights, b bias of a consumer; u its inputs at one output site, m their means; k kept and r removed inputs.

    mean             b' = b + W_r m_r
    least squares    W' = W_k + W_r P,   b' = b + W_r (m_r - P m_k),   P = S_rk (S_kk + ridge * d * I)^-1

P is the ridge regression of the removed inputs on the kept ones, S their covariances and d the mean of the diagonal of S_kk.
With ridge -> 0, W' and b' reproduce the consumer's output before its activation best in the sense of least squares; with
ridge -> infinity they become those of "mean".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pyprune_fast._checks import check_choice, check_count, describe
from pyprune_fast.observe import eval_mode, find_norms

from .moments import InputMoments
from .places import Place, check_extents, held_tensors
from .plan import Plan

Method = Literal["mean", "least_squares"]
METHODS = ("mean", "least_squares")

_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_FORWARDS = [kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)]


@dataclass(frozen=True)
class Compensation:
    """New values for the layers that read removed channels, for `apply`.

    Attributes:
        plan: The plan that they belong to.
        method: "mean" or "least_squares".
        tensors: New values by the tensor's name, in the shape, dtype and memory format of the uncut model.
        skipped: Consumers that are cut as they are, and why.
        images: Number of images that were looked at.
    """

    plan: Plan
    method: str
    tensors: Mapping[str, Tensor]
    skipped: Mapping[str, str]
    images: int


class _Shift(NamedTuple):
    """The tensor that takes a change of a consumer's constant: its bias, or a BatchNorm's mean with the sign turned."""

    name: str
    sign: int


def compensate(
    model: nn.Module,
    plan: Plan,
    loader: Iterable[Any],
    method: Method = "least_squares",
    *,
    images: int = 2000,
    ridge: float = 1e-3,
    sites: int = 32,
    max_inputs: int = 8192,
) -> Compensation:
    """Finds new weights and biases for the layers that read the channels which a plan removes.

    The consumers' inputs are seen on the uncut model, whatever lies before them (activation, BatchNorm, pooling, flatten,
    concat). Several groups cut at once are compensated as if each consumer still had the uncut model's inputs: what
    an earlier compensation misses is not made up for by a later one. Means are exact over all output sites, those that read
    zero padding included: at a padded border the constant is right on average, not at each site.

    "mean" brings the consumer's output nearer to what it was before its activation, not always after it: the output keeps its
    mean and loses variance, so the mean of its ReLU falls. On nets whose layers end in a ReLU it can cost more accuracy than
    it saves, and should be compared with no compensation; "least_squares" keeps most of the variance too.

    Consumers are linear layers and convolutions with one group. A constant goes to the layer's bias; where it has none, to the
    running mean of a BatchNorm module right after it (the same in eval mode; in train mode the batch's mean takes its place).
    Without either, "mean" can do nothing and "least_squares" fits W' without a constant, to plain second moments. Left as they
    are, and named in ``skipped``: transposed and grouped convolutions, layers with tied tensors, layers that the pass did not
    call or whose class has a forward of its own, and, for least squares, those with more than ``max_inputs`` inputs times taps.

    Args:
        model: The uncut model; left as it is, whatever happens. It runs in eval mode, without gradients.
        plan: What will be removed.
        loader: Batches of inputs, or of (inputs, labels); read once, moved to the model's device.
        method: "mean" or "least_squares".
        images: How many images to use at most.
        ridge: Of least squares, in units of the mean variance of the kept inputs; at least 0.
        sites: Output sites drawn for each image, for second moments.
        max_inputs: Bounds the memory of least squares: up to 8 * max_inputs^2 bytes for each consumer.

    Returns:
        The compensation, to be handed to `apply`. Deterministic; sums and solutions in float64, rounded once to the
        tensors' dtypes.

    Raises:
        TypeError: An argument or a batch of the wrong type.
        ValueError: An argument out of range, a plan for another model, no image, inputs of a consumer that are not finite,
            or a ridge that is too small for the consumer's linearly dependent inputs.

    Source:
        Mean: the bias compensation of channel pruning, e.g. An et al., FLAP, AAAI 2024 (arXiv 2312.11983). Least squares: He
        et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017 (arXiv 1707.06168), here with a ridge.

    Example:
        >>> from pyprune_fast.slicing import Group, Member, apply
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model[0].weight.data[1] = 2 * model[0].weight.data[0]
        >>> model[0].bias.data[1] = 2 * model[0].bias.data[0]  # channel 1 tells what channel 0 tells
        >>> group = Group("0", 4, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1),
        ...                                Member("2.weight", 1, 0, 1, 1)))
        >>> plan, x = Plan.of(model, [group], {"0": [1]}), torch.randn(100, 3)
        >>> dense = model(x)
        >>> cut = apply(model, plan, compensate(model, plan, [x], ridge=1e-9))
        >>> torch.allclose(model(x), dense, atol=1e-5)
        True
        >>> cut.undo()
    """
    check_choice("compensate", "method", method, METHODS)
    for name, value in (("images", images), ("sites", sites), ("max_inputs", max_inputs)):
        check_count("compensate", name, value, 1)
    if isinstance(ridge, bool) or not isinstance(ridge, int | float):
        raise TypeError(f"compensate: ridge: wanted a number, got {describe(ridge)}")
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"compensate: ridge: wanted a finite number of at least 0, got {ridge}")
    tensors, places = held_tensors(model)
    check_extents("compensate", model, tensors, plan)
    batches = _inputs(model, loader, images)
    first = next(batches)

    removed, skipped = _consumers(model, plan)
    removed, tied = _without_tied(removed, tensors, places)
    skipped |= tied
    shifts = _shifts(model, removed, tensors, places, first[:1])
    moments: dict[str, InputMoments] = {}
    for name, channels in removed.items():
        layer = model.get_submodule(name)
        stays = torch.ones(tensors[f"{name}.weight"].shape[1], dtype=torch.bool)
        stays[channels] = False
        inputs = tensors[f"{name}.weight"][0].numel()
        if method == "mean" and name not in shifts:
            skipped[name] = "it has no bias, and no BatchNorm with running statistics right after it"
        elif method == "least_squares" and inputs > max_inputs:
            skipped[name] = f"{inputs} inputs are more than max_inputs = {max_inputs}"
        else:
            part = 0 if method == "mean" else sites
            moments[name] = InputMoments(layer, stays.nonzero().flatten(), (~stays).nonzero().flatten(), part)
    seen = _gather(model, first, batches, moments)
    values: dict[str, Tensor] = {}
    for name, found in moments.items():
        if not found.count:
            skipped[name] = "the pass did not call it"
        else:
            values |= _solve(name, found, tensors, shifts.get(name), ridge)
    return Compensation(plan, method, values, skipped, seen)


def _inputs(model: nn.Module, loader: Iterable[Any], images: int) -> Iterator[Tensor]:
    """The loader's inputs on the model's device, empty batches left out, up to so many images."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    left = images
    for batch in loader:
        inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(inputs, Tensor):
            raise TypeError(f"compensate: loader: wanted batches of inputs or (inputs, labels), got {describe(batch)}")
        if len(inputs):
            inputs = inputs[:left].to(device)
            left -= len(inputs)
            yield inputs
        if not left:
            return
    if left == images:
        raise ValueError("compensate: loader: wanted at least one image, got none")


def _consumers(model: nn.Module, plan: Plan) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The layers that read removed channels: int64 input positions that go, by name; and those of an unknown kind."""
    positions: dict[str, list[Tensor]] = {}
    skipped: dict[str, str] = {}
    for group in plan.groups:
        for member in group.members:
            name, _, tensor = member.tensor.rpartition(".")
            layer: Any = model.get_submodule(name)
            convolution = isinstance(layer, nn.modules.conv._ConvNd)
            if tensor != "weight" or not (convolution or isinstance(layer, nn.Linear)):
                continue
            if isinstance(layer, _TRANSPOSED):
                if member.dim == 0 and layer.groups == 1:
                    skipped[name] = "a transposed convolution: what a channel adds on average differs from site to site"
            elif member.dim == 1 and convolution and layer.groups > 1:
                skipped[name] = f"a grouped convolution ({layer.groups} groups)"
            elif member.dim == 1 and type(layer).forward not in _FORWARDS:
                skipped[name] = f"{type(layer).__name__} computes its output in a way of its own"
            elif member.dim == 1:
                positions.setdefault(name, []).append(member.positions(plan.remove[group.name]))
    return {name: torch.cat(parts) for name, parts in positions.items()}, skipped


def _without_tied(
    removed: Mapping[str, Tensor], tensors: Mapping[str, Tensor], places: Mapping[int, list[Place]]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Takes out the consumers whose weight or bias another layer holds too: a change would reach that layer."""
    own, tied = {}, {}
    for name, channels in removed.items():
        names = [full for full in (f"{name}.weight", f"{name}.bias") if full in tensors]
        if shared := [full for full in names if len(places[id(tensors[full])]) > 1]:
            tied[name] = f"{shared[0]} is tied to another layer's"
        else:
            own[name] = channels
    return own, tied


def _shifts(
    model: nn.Module,
    removed: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    places: Mapping[int, list[Place]],
    example: Tensor,
) -> dict[str, _Shift]:
    """Where each consumer's constant goes; those without such a tensor are left out."""
    norms = find_norms(model, list(removed), example, after_activation=False)
    shifts = {}
    for name in removed:
        mean = f"{norms[name]}.running_mean" if name in norms else ""
        if f"{name}.bias" in tensors:
            shifts[name] = _Shift(f"{name}.bias", 1)
        elif mean in tensors and len(places[id(tensors[mean])]) == 1:
            shifts[name] = _Shift(mean, -1)
    return shifts


def _gather(model: nn.Module, first: Tensor, batches: Iterator[Tensor], moments: Mapping[str, InputMoments]) -> int:
    """Feeds the consumers' inputs to their moments; returns the number of images."""

    def watch(found: InputMoments) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.update(args[0] if args else kwargs["input"])

        return hook

    seen = 0
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        for name, found in moments.items():
            handle = model.get_submodule(name).register_forward_pre_hook(watch(found), with_kwargs=True)
            stack.callback(handle.remove)
        for inputs in itertools.chain([first], batches):
            model(inputs)
            seen += len(inputs)
    for name, found in moments.items():
        if found.count and not found.finite():
            raise ValueError(f"compensate: layer {name}: wanted inputs that are finite numbers, got NaN or infinity")
    return seen


def _solve(
    name: str, found: InputMoments, tensors: Mapping[str, Tensor], shift: _Shift | None, ridge: float
) -> dict[str, Tensor]:
    """A consumer's new tensors; in its weight the removed inputs stay as they are, since the cut takes them out."""
    weight = tensors[f"{name}.weight"].detach()
    kept, removed = (part.to(weight.device) for part in (found.kept, found.removed))
    gone = weight.double().index_select(1, removed).flatten(1)
    mean_kept, mean_removed = found.means()
    values = {}
    if found.sites:
        try:
            prediction = found.prediction(ridge, centred=shift is not None)
        except ValueError as error:
            raise ValueError(f"compensate: layer {name}: {error}") from error
        mean_removed = mean_removed - prediction @ mean_kept
        new, stays = weight.clone(), weight.index_select(1, kept)
        new[:, kept] = (stays.double() + (gone @ prediction).reshape(stays.shape)).to(weight.dtype)
        values[f"{name}.weight"] = new
    if shift is not None:
        old = tensors[shift.name].detach()
        values[shift.name] = (old.double() + shift.sign * (gone @ mean_removed)).to(old.dtype)
    return values
