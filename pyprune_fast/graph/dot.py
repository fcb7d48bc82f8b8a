"""The groups of a model in the DOT language, for Graphviz and everything else that reads it."""

from __future__ import annotations

from collections.abc import Sequence

from pyprune_fast.slicing import Group

from .drawing import COLOURS


def groups_to_dot(groups: Sequence[Group]) -> str:
    r"""Writes which group is computed from which: a box a group, an arrow a layer that reads one and makes the other.

    Args:
        groups: Groups, as `find_groups` lists them.

    Returns:
        Text in the DOT language. Groups inside one component stand in its cluster; fixed ones are dashed, with the reason as a
        tooltip. Deterministic.

    Source:
        The language: https://graphviz.org/doc/info/lang.html

    Example:
        >>> a = Group("a", 8, ("a",), (), kind="intra", components=("body",), makers=("a",), readers=("b",))
        >>> b = Group("b", 2, ("b",), (), "the model's output", kind="interface", components=("body",), makers=("b",))
        >>> print(groups_to_dot([a, b]))
        digraph groups {
          rankdir=LR;
          fontname="sans-serif";
          node [shape=box, fontname="sans-serif"];
          edge [fontname="sans-serif", fontsize=10];
          subgraph "cluster body" {
            label="body";
            "a" [label="a\n8 channels", color="#0072b2"];
            "b" [label="b\n2 channels", color="#767676", style=dashed, tooltip="the model's output"];
          }
          "a" -> "b" [label="b"];
        }
        <BLANKLINE>
    """
    lines = ["digraph groups {", "  rankdir=LR;", '  fontname="sans-serif";', '  node [shape=box, fontname="sans-serif"];']
    lines.append('  edge [fontname="sans-serif", fontsize=10];')
    alone = {name: [g for g in groups if g.components == (name,)] for g in groups for name in g.components[:1]}
    for component, own in alone.items():
        if own:
            lines += [f"  subgraph {_quoted(f'cluster {component}')} {{", f"    label={_quoted(component)};"]
            lines += [*(f"    {_node(group)}" for group in own), "  }"]
    lines += [f"  {_node(group)}" for group in groups if len(group.components) != 1]
    for source in groups:
        for group in groups:
            for layer in group.makers:
                if layer in source.readers:
                    lines.append(f"  {_quoted(source.name)} -> {_quoted(group.name)} [label={_quoted(layer)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _node(group: Group) -> str:
    label = f"{_escaped(group.name)}\\n{group.channels:,} channel{'s' if group.channels > 1 else ''}"
    fixed = f", style=dashed, tooltip={_quoted(group.fixed)}" if group.fixed else ""
    return f'{_quoted(group.name)} [label="{label}", color="{COLOURS[group.kind]}"{fixed}];'


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
