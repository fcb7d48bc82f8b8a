"""Watching a model's layers: forward hooks feed estimators, and only those hooks are removed, always.

A layer is scored where its channels are seen best: after its activation in plain nets, after its BatchNorm before the add in
residual blocks. `find_taps` finds that module by following the layer's output through one forward pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ._checks import check_choice, describe
from .parallel import whole_output

Tap = Literal["activation", "layer"]
Result = TypeVar("Result")

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
    nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
)  # fmt: skip


class Observer(Protocol):
    """Anything that takes batches of activations: an Estimator, a LevelCalibration."""

    def update(self, x: Any, labels: Any = None) -> Any:
        """Take one batch."""


@dataclass
class Observation:
    """What `observe` yields. Set `labels` before each forward pass; `seconds` is the time in the observers, unless compiled."""

    labels: Tensor | None = None
    seconds: float = 0.0


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode and without gradients; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def named(layer: str, call: Callable[..., Result], *arguments: Any) -> Result:
    """The call's result, or its error with the layer's name in front."""
    try:
        return call(*arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        raise type(error)(f"layer {layer}: {error}") from error


def channels_second(layer: nn.Module, x: Tensor) -> Tensor:
    """A view (N, C, spatial...) of a layer's map. Linear layers keep channels last: (N, T, C) tokens become (N, C, T)."""
    return x.movedim(-1, 1) if isinstance(layer, nn.Linear) and x.ndim >= 3 else x


def _now() -> float:
    """The clock; it stands still while a graph is compiled, which cannot hold it."""
    return 0.0 if torch.compiler.is_compiling() else time.perf_counter()


@contextmanager
def observe(
    model: nn.Module,
    observers: Mapping[str, Observer],
    *,
    labels: Tensor | None = None,
    taps: Mapping[str, str] | None = None,
) -> Iterator[Observation]:
    """Feed the outputs of layers to observers while the block runs.

    Args:
        model: any module; its mode, parameters and other hooks are left alone. torch.compile traces the hooks along, without a
            graph break, where its first call is inside the block; one that was compiled before does not see them.
        observers: layer name -> Estimator (or anything with update(x, labels)). Channels that a tensor-parallel layer divides
            among ranks are brought together first, a collective: all its ranks observe it, in the same order.
        labels: (N,) labels of the batch that will be run; or set `.labels` on the yielded object before each batch.
        taps: layer name -> name of the module whose output is taken instead of the layer's own; see find_taps.

    Yields:
        Observation.

    Raises:
        ValueError: a name that the model does not have, an output that is no tensor; and whatever an observer raises, with
            the layer's name in front. All hooks are removed in every case.

    Example:
        >>> import torch
        >>> from pyprune_fast import AuraEntropy, Levels, observe
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
        >>> entropy = AuraEntropy(Levels.uniform(0, 1, channels=2))
        >>> with torch.no_grad(), observe(model, {"1": entropy}):
        ...     _ = model(torch.rand(4, 1, 8, 8))
        >>> entropy.compute().shape
        torch.Size([2])
    """
    modules = dict(model.named_modules())
    observation = Observation(labels)

    def watch(layer: str, observer: Observer) -> Any:
        def take(scored: nn.Module, output: Tensor) -> None:
            observer.update(channels_second(scored, whole_output(scored, output)), observation.labels)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            start = _now()
            if not isinstance(output, Tensor):
                raise ValueError(f"observe: layer {layer}: wanted an output tensor, got {describe(output)}")
            named(layer, take, modules.get(layer, module), output)
            observation.seconds += _now() - start

        return hook

    with ExitStack() as stack:
        for layer, observer in observers.items():
            name = (taps or {}).get(layer, layer)
            if name not in modules:
                raise ValueError(f"observe: observers: wanted names of modules, got {name!r}")
            handle = modules[name].register_forward_hook(watch(layer, observer))
            stack.callback(handle.remove)
        yield observation


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    input: object
    output: object


class _Calls:
    """The calls of the layers and of all modules without children in one forward pass in eval mode, in their order."""

    def __init__(self, model: nn.Module, layers: Sequence[str], inputs: Any) -> None:
        self._calls: list[_Call] = []

        def record(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                self._calls.append(_Call(name, module, inputs[0] if inputs else None, output))

            return hook

        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name in layers or not any(module.children()):
                    stack.callback(module.register_forward_hook(record(name)).remove)
            with eval_mode(model):
                model(inputs)
        self._times = Counter(call.name for call in self._calls)
        self.of_layers = [index for index, call in enumerate(self._calls) if call.name in layers]

    def __getitem__(self, index: int) -> _Call:
        return self._calls[index]

    def followed(self, index: int, kinds: tuple[type[nn.Module], ...]) -> int | None:
        """The first later call of a module of these kinds, called once, that takes this call's output as it is."""
        output = self._calls[index].output
        for later in range(index + 1, len(self._calls)):
            call = self._calls[later]
            if call.input is not output:
                continue
            if isinstance(call.module, kinds) and self._times[call.name] == 1:
                return later
            if call.output is output:  # changed in place: what comes later sees another map
                return None
        return None


def find_taps(model: nn.Module, layers: Sequence[str], inputs: Any, tap: Tap = "activation") -> dict[str, str]:
    """Where to look at each layer's channels.

    From the layer, its output is followed through the modules that take it: through a BatchNorm to the activation after it.
    Without an activation module (F.relu, or an add next), the last module reached is the tap; levels with an edge at 0 do
    not tell a map from its ReLU. A module that is called more than once in a pass is no tap.

    Args:
        model: runs once on `inputs`, in eval mode.
        layers: names of the layers.
        inputs: what the model takes; a batch of one will do.
        tap: "activation", or "layer" for the layers themselves.

    Returns:
        layer name -> module name. Layers that the pass did not run are left out.

    Raises:
        ValueError: unknown tap.
    """
    check_choice("find_taps", "tap", tap, ("activation", "layer"))
    calls = _Calls(model, layers, inputs)
    taps = {}
    for index in calls.of_layers:
        reached = index
        if tap == "activation":
            norm = calls.followed(index, _NORMS)
            reached = index if norm is None else norm
            activation = calls.followed(reached, _ACTIVATIONS)
            reached = reached if activation is None else activation
        taps[calls[index].name] = calls[reached].name
    return taps


def find_norms(model: nn.Module, layers: Sequence[str], inputs: Any, *, after_activation: bool = True) -> dict[str, str]:
    """The BatchNorm that normalises each layer's channels: right after the layer, or after its activation module.

    Found by following the layer's output through one forward pass, as in find_taps; what passes through a function (F.relu,
    an add) before its BatchNorm is not followed.

    Args:
        model: runs once on `inputs`, in eval mode.
        layers: names of the layers.
        inputs: what the model takes; a batch of one will do.
        after_activation: whether one after an activation module counts, too.

    Returns:
        layer name -> name of the BatchNorm; layers without one, or that the pass did not run, are left out.
    """
    calls = _Calls(model, layers, inputs)
    norms = {}
    for index in calls.of_layers:
        norm = calls.followed(index, _NORMS)
        if norm is None and after_activation and (activation := calls.followed(index, _ACTIVATIONS)) is not None:
            norm = calls.followed(activation, _NORMS)
        if norm is not None:
            norms[calls[index].name] = calls[norm].name
    return norms
