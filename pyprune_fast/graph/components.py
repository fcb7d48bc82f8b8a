"""Components of a model: named sub-networks; and what their exchange of channels makes of a group."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import nn

ROOT = "root"  # the component of everything that no other one lists
COUPLING_BOUND = 0.5  # a shared channel is one decision in several components


class Components:
    """A partition of a model's modules by name.

    Args:
        model: The model.
        components: Prefixes of module names by component name; None makes every top-level child a component.

    Raises:
        ValueError: A prefix that names no module, or one in two components.
    """

    def __init__(self, model: nn.Module, components: Mapping[str, Sequence[str]] | None):
        if components is None:
            components = {name: [name] for name, _ in model.named_children()}
        modules = dict(model.named_modules())
        self._of: dict[str, str] = {}
        for name, prefixes in components.items():
            for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
                if prefix not in modules:
                    raise ValueError(f"find_groups: components: {name!r}: wanted names of the model's modules, got {prefix!r}")
                if prefix in self._of:
                    raise ValueError(f"find_groups: components: wanted each module in one, got {prefix!r} in two")
                self._of[prefix] = name
        self.names = (*components, ROOT)

    def of(self, name: str) -> str:
        """The component of a module or tensor: that of its longest listed prefix."""
        while name not in self._of:
            if not name:
                return ROOT
            name = name.rpartition(".")[0]
        return self._of[name]

    def ordered(self, names: Collection[str]) -> tuple[str, ...]:
        """Component names, each once, in the order of the partition."""
        return tuple(name for name in self.names if name in names)


def subtype(makers: Iterable[str], readers: Iterable[str], added: bool) -> str:
    """Types a coupling group by the components that make its channels and those that read them.

    Example:
        >>> subtype({"encoder"}, {"encoder", "decoder"}, added=False)
        'chain'
    """
    by, to = set(makers), set(readers)
    if len(by) > 1:
        return "residual" if added else "tied"
    return "fan-out" if len(to - by) > 1 else "chain"
