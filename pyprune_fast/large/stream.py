"""Running and scoring a model block by block: in memory are the weights of one block, and what lies between two of them.

    embedding -> block 0 -> block 1 -> ... -> block n-1 -> norm, head

All batches go through a block before the next one is read, so each weight is read once a pass. What a block is called with
besides the output of the one before (position embeddings, attention masks) is found by running the model once a batch with
its blocks left out: that they depend on nothing else is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pyprune_fast._checks import describe
from pyprune_fast.estimators import AuraEntropy, Estimator
from pyprune_fast.graph.copies import is_cache, meta_copy, on_meta
from pyprune_fast.inputs import Inputs, call, mask_of, moved
from pyprune_fast.observe import eval_mode, named
from pyprune_fast.scoring import Scores, score_model
from pyprune_fast.slicing.places import Place, held_tensors, shared_names
from pyprune_fast.slicing.surgery import twin

from .files import TensorFiles
from .hidden import Hidden


def weightless(factory: Callable[[], nn.Module]) -> nn.Module:
    """Builds a model whose parameters have no numbers (meta device), but whose buffers do: those that no file holds, too.

    Args:
        factory: builds the model; each of its parameters is thrown away as soon as it is made. Ties are kept.

    Returns:
        The model, in eval mode. In place of the class's own `register_parameter` another stands while the factory runs, for
        all threads.

    Example:
        >>> weightless(lambda: nn.Linear(1000, 1000)).weight.device
        device(type='meta')
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = twin(parameter, parameter.detach().to("meta"))  # type: ignore[assignment]
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        return factory().eval()
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


class Stream:
    """A model in files, run a block at a time.

    Args:
        model: the architecture, its parameters on the meta device; see `weightless`. It is left as it was.
        files: its tensors; see `TensorFiles`.
        blocks: name of the list of its blocks, such as "model.layers", or the blocks' names in the order of their calls. A
            block takes the tensor that the one before gave as its first argument, and gives one tensor, or a tuple of one.
        device: where the blocks run.
        spill: a folder for the tensors between two blocks, one of each batch; default: they stay in memory, (N, T, C) of all
            batches once. A part outside the blocks is in memory from its first call on, as long as batches are in that part.

    Raises:
        TypeError, ValueError: no such blocks; a tensor of the model that neither it nor the files hold, or in another shape.

    Example:
        >>> from safetensors.torch import save_file
        >>> make = lambda: nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 1))
        >>> path, model, x = getfixture("tmp_path") / "model.safetensors", make(), torch.randn(5, 2)
        >>> save_file(model.state_dict(), path)
        >>> stream = Stream(weightless(make), TensorFiles(path), ["1.0", "1.1"])
        >>> torch.equal(next(stream.run([x])), model(x))
        True
    """

    def __init__(
        self,
        model: nn.Module,
        files: TensorFiles,
        blocks: str | Sequence[str],
        *,
        device: torch.device | str = "cpu",
        spill: str | Path | None = None,
    ) -> None:
        if isinstance(blocks, str):
            blocks = [f"{blocks}.{name}" for name, _ in submodule(model, blocks).named_children()]
        if not blocks:
            raise ValueError("Stream: blocks: wanted the names of blocks, got none")
        self.model, self.files, self.device = model, files, torch.device(device)
        self.blocks = list(blocks)
        self._modules = [submodule(model, name) for name in self.blocks]
        self._spill = None if spill is None else Path(spill)
        tensors, _ = held_tensors(model)
        self._names: dict[int, str] = {}
        for key, names in shared_names(tensors).items():
            name = next((name for name in names if name in files), names[0])
            if name in files and files.shapes[name] != (wanted := tuple(tensors[name].shape)):
                raise ValueError(f"Stream: files: tensor {name!r}: wanted shape {wanted}, got {files.shapes[name]}")
            if name not in files and tensors[name].is_meta:
                raise ValueError(f"Stream: files: wanted a tensor {name!r}, got none")
            self._names[key] = name

    def run(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The model's outputs, batch by batch, once all have gone through the blocks.

        Args:
            batches: inputs: tensors, or mappings of keyword arguments (with use_cache=False for models of transformers).

        Yields:
            What the model gives for each, without gradients, in eval mode: bit for bit what it would give as a whole.

        Raises:
            ValueError: as `score`.
        """
        batches = list(batches)
        with eval_mode(self.model), Hidden(self._spill, self.device) as hidden:
            calls = self._start(batches, hidden)
            for block, name, own in zip(self._modules, self.blocks, calls, strict=True):
                with self._loaded(name, block):
                    for number, inputs in enumerate(own):
                        hidden.put(number, only_output(name, call(block, _with_first(inputs, hidden.pop(number)))))
            with self._outside() as stubs:
                for number, inputs in enumerate(batches):
                    stubs.last = hidden.pop(number)
                    yield call(self.model, moved(inputs, self.device))

    def score(self, loader: Iterable[Any], criterion: Estimator | None = None, **options: Any) -> Scores:
        """Scores the channels of the layers inside the blocks, each block by `score_model`.

        In memory at a time: one block's weights, its layers' outputs on one batch, its counts, the calibration batches and,
        without `spill`, the tensors between two blocks.

        Args:
            loader: as for `score_model`; read once.
            criterion: as there, but with num_classes where it needs labels; default AuraEntropy().
            options: as there: layers (by their whole names), tap, lattice, num_levels, calibration_images, zero_bin, max_bytes.

        Returns:
            Scores of all layers by their whole names, without the estimators. Those of the whole model's `score_model`, bit
            for bit.

        Raises:
            TypeError, ValueError: as `score_model`, with the block's name; blocks that are not called one on the output of
                the other, or give or take something else that other blocks gave (a cache of keys and values, too).
        """
        criterion = AuraEntropy() if criterion is None else criterion
        if isinstance(criterion, Estimator) and criterion.needs_labels and criterion.num_classes is None:
            raise ValueError("Stream.score: criterion: wanted its num_classes, got None")
        layers = options.pop("layers", None)
        wanted = None if layers is None else [self._inside(layer) for layer in layers]
        parts = [batch if isinstance(batch, tuple | list) else (batch, None) for batch in loader]
        found = Scores({}, type(criterion).__name__)
        with eval_mode(self.model), Hidden(self._spill, self.device) as hidden:
            calls = self._start([inputs for inputs, *_ in parts], hidden)
            labels = [label for _, label, *_ in parts]
            for number, (block, name) in enumerate(zip(self._modules, self.blocks, strict=True)):
                own = None if wanted is None else [layer for where, layer in wanted if where == name]
                with self._loaded(name, block), _keeping(name, block, hidden):
                    given = _batches(calls[number], labels, hidden)
                    if own == []:
                        for inputs, _ in given:
                            call(block, inputs)
                        continue
                    scores = named(name, partial(score_model, layers=own, **options), block, given, criterion)
                found = replace(
                    found,
                    layers=dict(found.layers) | {f"{name}.{layer}": row for layer, row in scores.layers.items()},
                    images=scores.images,
                    seconds=found.seconds + scores.seconds,
                    forward_seconds=found.forward_seconds + scores.forward_seconds,
                )
        return found

    def _inside(self, layer: str) -> tuple[str, str]:
        """The block that holds a layer, and the layer's name in it."""
        for name in self.blocks:
            if layer.startswith(f"{name}."):
                return name, layer.removeprefix(f"{name}.")
        raise ValueError(f"Stream.score: layers: wanted layers inside the blocks, got {layer!r}")

    def _start(self, batches: Sequence[Any], hidden: Hidden) -> list[list[Inputs]]:
        """Of each block what it is called with on each batch, but its first argument; `hidden` gets that of the first block."""
        calls: list[list[Inputs]] = [[] for _ in self.blocks]
        with self._outside() as stubs:
            for number, inputs in enumerate(batches):
                inputs = moved(inputs, self.device)
                stubs.calls, stubs.last = [], None
                with suppress(_AllBlocksCalled):
                    call(self.model, inputs)
                if (called := [name for name, _ in stubs.calls]) != self.blocks:
                    raise ValueError(f"Stream: blocks: wanted calls of {self.blocks} in this order, got {called}")
                hidden.put(number, first_argument(stubs.calls[0][1]))
                for own, (_, given) in zip(calls, stubs.calls, strict=True):
                    own.append(replace(_with_first(given, None), mask=mask_of(inputs)))
        return calls

    @contextmanager
    def _loaded(self, prefix: str, module: nn.Module) -> Iterator[None]:
        """The module with its numbers."""
        tensors, places = held_tensors(module)
        with ExitStack() as stack:
            for tensor in {id(x): x for x in tensors.values()}.values():
                self._put(self._read(tensor), tensor, places[id(tensor)], stack)
            yield

    def _read(self, tensor: Tensor) -> Tensor:
        name = self._names[id(tensor)]
        return twin(tensor, self.files.read(name, self.device) if name in self.files else tensor.to(self.device))

    @staticmethod
    def _put(new: Tensor, tensor: Tensor, places: Iterable[Place], stack: ExitStack) -> None:
        for place in places:
            place.put(new)
            stack.callback(place.put, tensor)

    @contextmanager
    def _outside(self) -> Iterator[_Stubs]:
        """The model with stubs for its blocks, and each other module with its own numbers from its first call on."""
        inside = {module for block in self._modules for module in block.modules()}
        with ExitStack() as stack:

            def load(module: nn.Module, inputs: Any) -> None:
                if module not in ready:
                    ready.add(module)
                    for places in held_tensors(module, [("", module)])[1].values():
                        tensor = places[0].get()
                        if id(tensor) not in read:  # a tied one may be
                            read[id(tensor)] = self._read(tensor)
                        self._put(read[id(tensor)], tensor, places, stack)

            ready: set[nn.Module] = set()
            read: dict[int, Tensor] = {}
            for module in self.model.modules():
                if module not in inside:
                    stack.callback(module.register_forward_pre_hook(load).remove)
            yield _Stubs(self.blocks, self._modules, stack)


class _AllBlocksCalled(Exception):  # noqa: N818 (ends a pass that is of no more use, and is no error)
    pass


class _Stubs:
    """Stand in for the blocks: each notes what it is called with, and gives NaN that take no memory.

    Attributes:
        calls: block name and arguments, in the order of the calls.
        last: what the last block gives; None ends the pass there.
    """

    def __init__(self, names: Sequence[str], blocks: Sequence[nn.Module], stack: ExitStack) -> None:
        self.calls: list[tuple[str, Inputs]] = []
        self.last: Tensor | None = None
        self._given: object = None
        self._outputs: dict[tuple[str, torch.Size], Any] = {}
        for number, (name, block) in enumerate(zip(names, blocks, strict=True)):
            stub = self._stub(name, block, number == len(names) - 1)
            stack.callback(block.__dict__.pop, "forward", None)
            block.__dict__["forward"] = stub

    def _stub(self, name: str, block: nn.Module, last: bool) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            inputs = Inputs(args, kwargs)
            first = first_argument(inputs)
            if self.calls and self.last is None and first is not self._given:
                raise ValueError(f"Stream: block {name}: wanted the output of {self.calls[-1][0]} as it is, got something else")
            _check_independent(name, inputs)
            if self.last is None:
                self.calls.append((name, inputs))
            key = (name, first.shape)
            if key not in self._outputs:
                del block.__dict__["forward"]
                try:
                    with torch.device("meta"):
                        positional, keywords = on_meta((args, kwargs))
                        self._outputs[key] = meta_copy(block)(*positional, **keywords)
                finally:
                    block.__dict__["forward"] = forward
            shape = only_output(name, self._outputs[key])
            if last and self.last is None:
                raise _AllBlocksCalled
            self._given = (
                self.last if last else torch.full((), torch.nan, dtype=shape.dtype, device=first.device).expand(shape.shape)
            )
            return pytree.tree_map_only(Tensor, lambda x: self._given, self._outputs[key])

        return forward


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module of that name, or ValueError."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"blocks: wanted names of the model's modules, got {name!r}") from None


def _place(inputs: Inputs) -> int | str:
    return 0 if inputs.positional else next(iter(inputs.keywords))


def first_argument(inputs: Inputs) -> Tensor:
    """The first argument, which is what the block before gave."""
    place = _place(inputs)
    value = inputs.positional[0] if place == 0 else inputs.keywords[str(place)]
    if not isinstance(value, Tensor):
        raise ValueError(f"Stream: blocks: wanted blocks whose first argument is a tensor, got {describe(value)}")
    return value


def _with_first(inputs: Inputs, value: Tensor | None) -> Inputs:
    if (place := _place(inputs)) == 0:
        return replace(inputs, positional=(value, *inputs.positional[1:]))
    return replace(inputs, keywords=inputs.keywords | {str(place): value})


def only_output(name: str, output: Any) -> Tensor:
    """The one tensor of a block's output."""
    leaves = [leaf for leaf in pytree.tree_leaves(output) if leaf is not None]
    if len(leaves) != 1 or not isinstance(leaves[0], Tensor):
        raise ValueError(f"Stream: block {name}: wanted one tensor as its output, got {describe(output)}")
    return leaves[0]


def _check_independent(name: str, inputs: Inputs) -> None:
    """ValueError for arguments, besides the first, that hold what other blocks gave."""
    leaves = pytree.tree_leaves((inputs.positional, inputs.keywords))
    if any(is_cache(leaf) for leaf in leaves):
        raise ValueError(f"Stream: block {name}: wanted a call without a cache of keys and values (use_cache=False), got one")
    first = first_argument(inputs)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf is not first and leaf.is_floating_point() and bool(leaf.isnan().any()):
            raise ValueError(f"Stream: block {name}: wanted arguments that depend on no other block, got one with NaN")


def _batches(calls: Sequence[Inputs], labels: Sequence[Any], hidden: Hidden) -> Iterator[tuple[Inputs, Any]]:
    for number, (inputs, label) in enumerate(zip(calls, labels, strict=True)):
        yield _with_first(inputs, hidden.pop(number)), label


@contextmanager
def _keeping(name: str, block: nn.Module, hidden: Hidden) -> Iterator[None]:
    """While this runs, what the block gives for a tensor of `hidden` is kept in its place, whenever it was run on it."""

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        hidden.follow(first_argument(Inputs(args, kwargs)), only_output(name, output))

    handle = block.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
