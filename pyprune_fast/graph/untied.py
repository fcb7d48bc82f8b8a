"""The recurrence that tracing cannot see: a component's output that is its own input at the next step."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence

from pyprune_fast.slicing import Group

from .axes import layout
from .components import Components
from .entries import Tie, Trace, UntiedWarning


def warn_untied(trace: Trace, groups: Sequence[Group], components: Components, ties: Collection[Tie]) -> None:
    """Warns of every output that is as wide as something that the same component reads from outside, tied to nothing.

    What it reads from outside is an input of an entry point, or channels that other components make.
    """
    tied = {end for tie in ties for end in (tie.one, tie.other)}
    reads = _foreign_widths(trace, groups, components)
    for name, outputs in trace.outputs.items():
        for number, axes in enumerate(outputs):
            if (name, "output", number) in tied or not axes:
                continue
            for leaf, _ in layout(axes[-1]):
                makers = _makers(trace, components, id(leaf))
                for component in makers:
                    if leaf.size > 1 and axes[-1].size == leaf.size and leaf.size in reads.get(component, ()):
                        warnings.warn(
                            f"output {number} of entry point {name!r} has {leaf.size} channels, as many as component "
                            f"{component!r} reads from outside. If it is fed back, declare it: "
                            f"Tie(({name!r}, 'output', {number}), (entry point, 'input', number))",
                            UntiedWarning,
                            stacklevel=3,
                        )


def _makers(trace: Trace, components: Components, leaf: int) -> set[str]:
    tracer = trace.tracer
    return {
        components.of(name)
        for name, dim in tracer.makes
        if any(id(other) == leaf for other, _ in layout(tracer.parameters[name][dim]))
    }


def _foreign_widths(trace: Trace, groups: Sequence[Group], components: Components) -> dict[str, set[int]]:
    """Widths of what each component reads and does not make."""
    found: dict[str, set[int]] = {}
    for name, dim in trace.tracer.reads:
        component = components.of(name)
        axis = trace.tracer.parameters[name][dim]
        for leaf, run in layout(axis):
            if run[1] == run[2] == 1 and component not in _makers(trace, components, id(leaf)):
                found.setdefault(component, set()).add(leaf.size)
    return found
