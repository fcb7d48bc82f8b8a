"""Dependency groups: which channels of which layers can only be removed together.

The model runs without numbers under a tracer that labels every axis of every tensor; each variable that comes out is a
group. See `axes` for the labels, `rules` for what operations do to them, `trial` for the proofs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from pyprune_fast._checks import check_choice, check_count
from pyprune_fast.slicing import Group

from .axes import fix
from .collect import collect, output_axis
from .components import COUPLING_BOUND, Components
from .entries import EntryPoint, Tie, Trace, are_entries, read_entries, run_entries
from .trial import Trial, settle
from .untied import warn_untied

Proof = Literal["auto", "shapes", "values"]
PROOFS = ("auto", "shapes", "values")

# Up to so many parameters, a trial with numbers costs less than most that is done with a model.
CHEAP = 20_000_000


@torch.inference_mode(False)  # inside of it, operations are not seen as the parts that they are made of
def find_groups(
    model: nn.Module,
    inputs: Any,
    *,
    components: Mapping[str, Sequence[str]] | None = None,
    ties: Iterable[Tie] = (),
    ignore: Sequence[str] = (),
    protect: Mapping[str, str] | None = None,
    policies: Mapping[str, str | float] | None = None,
    blocks: int = 1,
    proof: Proof = "auto",
) -> list[Group]:
    """Finds the groups of channels that can be removed from a model without changing what the others compute.

    Every output axis of a layer belongs to a group, or is fixed with the reason in ``fixed``: the model's input or output,
    an operation whose result depends on all channels (softmax, argmax, a sum over products of two activations), positions
    chosen by number, a parametrised or masked tensor, an unknown operation. Channels of attention heads, of grouped
    convolutions and GroupNorms go in whole blocks: heads with their keys and values, whole groups. Norms and means over
    channels are taken over those that remain.

    Args:
        model: The model, on any device, meta included; it is only read. All work is done on copies in eval mode without
            hooks.
        inputs: Example inputs of ``forward``: one tensor, a tuple of positional arguments, or a mapping of keyword
            arguments. Or entry points: a mapping from names to `EntryPoint`, or a sequence of them.
        components: Prefixes of module names by component name; default: each top-level child is a component.
        ties: Equalities between inputs and outputs of entry points over time. What is tied is not the model's interface.
        ignore: Names of modules whose output channels may not be cut (their submodules' neither). A module with parameters
            that no entry point runs must be named here.
        protect: Groups, layers or components that must stay as they are, by name, each with a reason.
        policies: For groups by name: "joint", "frozen", or the greatest fraction of channels that may go. Default: "joint",
            with a bound of 0.5 for coupling groups.
        blocks: So many neighbouring channels go together, where a layer has a multiple of them; heads and groups of channels
            stay as they are.
        proof: "shapes": all groups are cut on a copy without numbers, which must run. "values": on a copy with random
            weights as well, whose outputs must equal the masked model's. "auto": "values" for models with numbers of up to 20
            million parameters.

    Returns:
        Groups in the order of their root layers. Deterministic for a deterministic model.

    Raises:
        TypeError: ``inputs`` is no such thing.
        ValueError: A module was not executed, a name is unknown, ties do not fit, or no parameter was read.

    Warns:
        UntiedWarning: A component puts out what it also reads, as wide, and no tie says whether one becomes the other.

    Source:
        The problem: Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023. Components: after Sundaram et al.
        (arXiv 2504.13296). The algebra of axes is ours.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [(group.name, group.channels, group.fixed) for group in find_groups(model, torch.zeros(1, 3))]
        [('0', 8, ''), ('2', 2, "the model's output")]
    """
    check_choice("find_groups", "proof", proof, PROOFS)
    check_count("find_groups", "blocks", blocks, 1)
    modules = dict(model.named_modules())
    for name in ignore:
        if name not in modules:
            raise ValueError(f"find_groups: ignore: wanted names of the model's modules, got {name!r}")
    partition = Components(model, components)
    entries = read_entries(model, inputs)
    ties = list(ties)
    trace = run_entries(model, entries, ties)
    idle = _idle(trace, ignore)
    for name in ignore:
        _fix_outputs(trace, name)
    groups = collect(trace, partition, blocks)
    if are_entries(inputs):
        warn_untied(trace, groups, partition, ties)
    groups = _with_policies(_protected(groups, partition, protect or {}), policies or {})
    groups = _proven(model, groups, entries, trace, proof)
    return _in_order(groups + idle, list(modules))


def _idle(trace: Trace, ignore: Sequence[str]) -> list[Group]:
    """Layers that no entry point runs: fixed groups if they are ignored, else an error that names them."""
    tracer = trace.tracer
    if not any(True for name, _ in trace.model.named_parameters() if name in tracer.parameters):
        raise ValueError("find_groups: model: wanted an output that depends on parameters, got none")
    names = {id(tensor): name for name, tensor in trace.model.named_parameters()}
    missing = [
        (name, module)
        for name, module in trace.model.named_modules()
        if module._parameters.values() and name not in tracer.executed
        if not any(names.get(id(p)) in tracer.parameters for p in module._parameters.values() if p is not None)
    ]
    named = [name for name, _ in missing if not any(_inside(name, other) for other in ignore)]
    if named:
        raise ValueError(
            "find_groups: model: wanted every module with parameters to be run by an entry point, or named in ignore; "
            f"got no call of {named}"
        )
    layers = [(name, module) for name, module in missing if output_axis(module) is not None]
    widths = [(name, int(getattr(module, "out_channels", 0)) or _width(module)) for name, module in layers]
    return [Group(name, width, (name,), (), "the layer is not executed") for name, width in widths]


def _width(layer: Any) -> int:
    return int(layer.weight.shape[output_axis(layer)])


def _inside(name: str, module: str) -> bool:
    return not module or name == module or name.startswith(f"{module}.")


def _fix_outputs(trace: Trace, ignored: str) -> None:
    """Keeps what an ignored module puts out: all axes of its tensors but those that read."""
    for name, axes in trace.tracer.parameters.items():
        for dim, axis in enumerate(axes):
            if _inside(name.rpartition(".")[0], ignored) and (name, dim) not in trace.tracer.reads:
                fix(axis, f"{ignored} is ignored")


def _protected(groups: list[Group], partition: Components, protect: Mapping[str, str]) -> list[Group]:
    """Fixes what the user protects, with the user's reason."""
    for name, reason in protect.items():
        hit = {g.name for g in groups if name in (g.name, *g.layers, *g.components)}
        hit |= {g.name for g in groups if any(m.tensor.rpartition(".")[0] == name for m in g.members)} if not hit else set()
        if not hit:
            known = sorted({g.name for g in groups} | set(partition.names))
            raise ValueError(f"find_groups: protect: wanted names of groups, layers or components among {known}, got {name!r}")
        groups = [
            replace(g, fixed=g.fixed or reason, protected=g.protected or not g.fixed) if g.name in hit else g for g in groups
        ]
    return groups


def _with_policies(groups: list[Group], policies: Mapping[str, str | float]) -> list[Group]:
    """Sets the bounds of groups; a frozen one is fixed."""
    names = {g.name for g in groups}
    for name, policy in policies.items():
        if name not in names:
            raise ValueError(f"find_groups: policies: wanted names of groups among {sorted(names)}, got {name!r}")
        known = policy in ("joint", "frozen") if isinstance(policy, str) else not isinstance(policy, bool) and 0 <= policy <= 1
        if not known:
            raise ValueError(
                f"find_groups: policies: {name!r}: wanted 'joint', 'frozen' or a fraction in [0, 1], got {policy!r}"
            )
    return [_with_policy(g, policies[g.name]) if g.name in policies else g for g in groups]


def _with_policy(group: Group, policy: str | float) -> Group:
    if policy == "joint":
        return replace(group, policy="joint", bound=COUPLING_BOUND if group.kind == "coupling" else 1.0)
    if policy == "frozen":
        return replace(group, policy="frozen", bound=0.0, fixed=group.fixed or "frozen by its policy")
    return replace(group, policy="bounded", bound=float(policy))


def _proven(
    model: nn.Module, groups: list[Group], entries: Mapping[str, EntryPoint], trace: Trace, proof: Proof
) -> list[Group]:
    trial = Trial(model, entries, trace)
    groups = settle(groups, trial.shapes_differ)
    bare = any(p.device.type == "meta" for p in model.parameters())
    if proof == "values" and bare:
        raise ValueError("find_groups: proof: wanted 'shapes' for a model on the meta device, got 'values'")
    if proof == "values" or (proof == "auto" and not bare and sum(p.numel() for p in model.parameters()) <= CHEAP):
        groups = settle(groups, trial.values_differ)
    return groups


def _in_order(groups: list[Group], modules: list[str]) -> list[Group]:
    place = {name: number for number, name in enumerate(modules)}

    def key(group: Group) -> int:
        name = group.name.partition("[")[0]
        while name not in place:
            name = name.rpartition(".")[0]
        return place[name]

    return sorted(groups, key=key)
