"""A step of Torch-Pruning's pruners with our cut: each kept byte is copied once, and all of it can be taken back.

A pruner's groups are read, not carried out, and become one plan; the plan is applied; then the pruner is told what happened, so
that its next step finds what it would have found after its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from pyprune_fast.graph.copies import arguments, copy_model
from pyprune_fast.observe import eval_mode
from pyprune_fast.slicing import Cut, Plan, apply
from pyprune_fast.slicing.cut import Path

from .axes import DUMMIES
from .groups import Positions, is_out
from .plans import Composer


class Step:
    """A step that was carried out, and the way back.

    Attributes:
        plan: what was cut, as data; in the model's channels before the step.
        cut: the cut, for `cut.save` and the like. Take it back by `undo` here, or the pruner will not know.
    """

    def __init__(self, pruner: Any, plan: Plan, cut: Cut, before: _State) -> None:
        self.plan = plan
        self.cut = cut
        self._pruner = pruner
        self._before = before

    def undo(self) -> None:
        """Gives the model back as it was, bit for bit, and the pruner with it: the step can be done again.

        Raises:
            RuntimeError: as of `Cut.undo`; steps that came after this one must be undone before.
        """
        now, wanted = self._pruner.current_step, self._before.step + 1
        if now != wanted:
            raise RuntimeError(f"Step.undo: wanted the pruner right after this step, {wanted}, got it after {now}")
        self.cut.undo()
        self._before.restore(self._pruner)


def step(
    pruner: Any,
    *,
    example_inputs: Any = None,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    undo: bool | Path = True,
    low_memory: bool = False,
) -> Step:
    """Does what `pruner.step()` does, by one fused cut.

    The model is the same as after `pruner.step()`, bit for bit, and so are the pruner's history and next steps. Beyond that,
    frozen parameters stay frozen, tied ones tied; hooks, gradients and memory formats are kept, optimisers go on with their
    state; attention modules that write their heads down (as those of transformers do) have them set.

    Args:
        pruner: any pruner of Torch-Pruning 1.4.1 or later, at its next step.
        example_inputs: what the model takes, as the pruner was given it: then a copy of the model, which shares its tensors, is
            cut and run first, in eval mode. Torch-Pruning cuts some models so that they cannot run.
        optimizer: one or several that shall go on with the cut parameters and their states.
        undo: whether the step can be undone, or the file from which; see `slicing.apply`.
        low_memory: whether tensors are exchanged one after the other; see `slicing.apply`.

    Returns:
        The step, which can be undone.

    Raises:
        RuntimeError: the pruner chose no channel: no steps left, or all groups are ignored, without scores or too small.
        ValueError: what Torch-Pruning would cut wrongly, or in a way of the user's own: an LSTM, a layer with a customized
            pruner, a masked or parametrised weight, a tied weight cut on one side, unequal parts of groups or of heads (give
            the pruner `num_heads`); a model that would not run on `example_inputs`; and what `slicing.apply` refuses. Model and
            pruner are then as before.

    Example:
        >>> import torch, torch_pruning as tp
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> pruner = tp.pruner.MagnitudePruner(
        ...     model, torch.zeros(1, 2), importance=tp.importance.MagnitudeImportance(), ignored_layers=[model[2]])
        >>> done = step(pruner)
        >>> model[2].in_features, done.plan.widths()
        (2, {'0': (4, 2)})
        >>> done.undo()
        >>> model[2].in_features
        4
    """
    if hasattr(pruner, "prune_local"):
        raise ValueError(
            "step: pruner: wanted one of Torch-Pruning 1.4.1 or later, got an earlier one, which scores groups anew after the "
            "cut of others; its own step() takes our importances all the same"
        )
    before = _State(pruner)
    try:
        groups = list(pruner.step(interactive=True))
        if not groups:
            raise RuntimeError(
                "step: pruner: wanted channels to prune, got none: no steps left, or all groups are ignored, too small, or "
                "without scores"
            )
        composer = Composer(pruner.model, pruner.DG)
        for group in groups:
            composer.add(group)
        plan = composer.plan(source="torch-pruning step", step=pruner.current_step)
        entries = list(_entries(pruner.DG, groups))
        if example_inputs is not None:
            _try(pruner.model, plan, example_inputs)
        cut = apply(pruner.model, plan, optimizer=optimizer, undo=undo, low_memory=low_memory)
    except BaseException:
        before.restore(pruner)
        raise
    _tell(pruner.DG, groups)
    pruner.DG._pruning_history.extend(entries)
    _rename(pruner.DG)
    return Step(pruner, plan, cut, before)


def _try(model: nn.Module, plan: Plan, example_inputs: Any) -> None:
    shadow = copy_model(model, lambda name, tensor: tensor.detach())
    apply(shadow, plan, undo=False)
    positional, keywords = arguments(example_inputs)
    try:
        with eval_mode(shadow):
            shadow(*positional, **keywords)
    except Exception as error:  # any error of any forward method means: not like this
        why = f"{type(error).__name__}: {error}"
        raise ValueError(f"step: pruner: wanted a model that runs after this step, got {why}") from error


class _State:
    """What a step changes in a pruner beside the model: counters, heads, sizes of concats and splits, the history's length."""

    def __init__(self, pruner: Any) -> None:
        self.step: int = pruner.current_step
        self._history = len(pruner.DG._pruning_history)
        self._dicts = [(value, dict(value)) for value in vars(pruner).values() if isinstance(value, dict)]
        nodes = [node for node in pruner.DG.module2node.values() if node.type.name in DUMMIES]
        self._sizes = [(node.module, _sizes(node.module)) for node in nodes]

    def restore(self, pruner: Any) -> None:
        pruner.current_step = self.step
        del pruner.DG._pruning_history[self._history :]
        for held, value in self._dicts:
            held.clear()
            held.update(value)
        for module, sizes in self._sizes:
            vars(module).update({name: list(value) if isinstance(value, list) else value for name, value in sizes.items()})
        _rename(pruner.DG)


def _sizes(module: Any) -> dict[str, Any]:
    names = ("concat_sizes", "split_sizes", "offsets", "start", "end", "shape")
    found = {name: vars(module)[name] for name in names if name in vars(module)}
    return {name: list(value) if isinstance(value, list) else value for name, value in found.items()}


def _tell(graph: Any, groups: Sequence[Any]) -> None:
    """Has Torch-Pruning's own functions count what went of concats, splits and slices: once for each, as numbered before."""
    gone: dict[Any, tuple[Any, set[int]]] = {}
    for group in groups:
        for item in group:
            dependency, idxs = item[0], item[1]
            if dependency.target.type.name in DUMMIES:
                gone.setdefault(dependency.target, (dependency, set()))[1].update(int(i) for i in idxs)
    for dependency, idxs in gone.values():
        dependency(sorted(idxs))


def _entries(graph: Any, groups: Sequence[Any]) -> Iterator[list[Any]]:
    """The groups as Torch-Pruning's history has them: each in the numbers that hold after those before it."""
    gone: dict[tuple[Any, bool], list[Positions]] = {}
    for group in groups:
        root, out = group[0][0].target.module, is_out(group[0][0].handler)
        idxs = np.asarray(group[0][1], np.int64)
        earlier = np.unique(np.concatenate(gone.get((root, out), [idxs[:0]])))
        yield [graph._module2name[root], out, (idxs - np.searchsorted(earlier, idxs)).tolist()]
        for item in group:
            gone.setdefault((item[0].target.module, is_out(item[0].handler)), []).append(np.asarray(item[1], np.int64))


def _rename(graph: Any) -> None:
    """The graph's free parameters are those that the model holds now."""
    for old, name in list(graph._param_to_name.items()):
        owner, _, last = name.rpartition(".")
        new: nn.Parameter = getattr(graph.model.get_submodule(owner), last)
        if new is old:
            continue
        graph._param_to_name[new] = graph._param_to_name.pop(old)
        if old in graph.module2node:
            node = graph.module2node[new] = graph.module2node.pop(old)
            node.module = new
