"""Which rule belongs to which operation.

A rule is called with the tracer, the operation, its result and its arguments, and labels the result. It may raise
`IrregularError`; the operation then counts as unknown.
"""

from __future__ import annotations

from collections.abc import Callable

Rule = Callable[..., None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
