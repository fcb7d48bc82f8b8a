"""The groups of a model as a drawing: components on the left, groups on the right, a line where a group has members."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from pyprune_fast.slicing import Group

_ROW, _WIDE, _GAP = 26, 330, 170  # height of a box, width of a box, room for the lines between the columns
COLOURS = {"intra": "#0072b2", "coupling": "#d55e00", "interface": "#767676"}  # told apart by colour-blind readers, too


def draw_groups(groups: Sequence[Group]) -> str:
    """Draws which component takes part in which group.

    Args:
        groups: Groups, as `find_groups` lists them.

    Returns:
        An SVG image as text. Blue groups lie inside one component, orange ones are shared, grey ones are the model's
        interface; fixed ones are dashed, with the reason as a tooltip. On a page that defines the CSS variables --paper, --ink,
        --intra, --coupling and --interface it takes its colours from there.

    Example:
        >>> draw_groups([Group("fc1", 8, ("fc1",), (), components=("fc1", "fc2"), kind="coupling")])[:4]
        '<svg'
    """
    names = list(dict.fromkeys(name for group in groups for name in group.components))
    height = _ROW * max(len(names), len(groups), 1) * 4 // 3 + 20
    lefts, rights = _heights(len(names), height), _heights(len(groups), height)
    left = dict(zip(names, lefts, strict=True))
    right = list(zip(groups, rights, strict=True))
    parts = [_line(left[name], y, group) for group, y in right for name in group.components]
    parts += [_box(10, y, name, "ink", "", False) for name, y in left.items()]
    for group, y in right:
        text = f"{group.name}: {group.channels} x {group.parameters:,} parameters"
        tip = group.fixed or f"{group.kind} {group.subtype}".strip()
        parts.append(_box(10 + _WIDE + _GAP, y, text, group.kind, tip, bool(group.fixed)))
    width = 20 + 2 * _WIDE + _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join([f'{head} font-family="sans-serif" font-size="13">', *parts, "</svg>"]) + "\n"


def _heights(count: int, height: int) -> list[float]:
    """Spreads boxes evenly over the height."""
    return [height * (number + 0.5) / count for number in range(count)]


def _line(start: float, end: float, group: Group) -> str:
    x, far = 10 + _WIDE, 10 + _WIDE + _GAP
    middle = (x + far) / 2
    return (
        f'<path d="M{x} {start:.1f} C{middle} {start:.1f} {middle} {end:.1f} {far} {end:.1f}" fill="none" '
        f'{_painted("stroke", group.kind)} stroke-width="1.5" stroke-opacity="{0.45 if group.fixed else 0.85}"/>'
    )


def _box(x: float, y: float, text: str, kind: str, tip: str, fixed: bool) -> str:
    shown = text if len(text) <= 46 else f"{text[:45]}…"
    title = f"<title>{escape(f'{text}: {tip}' if tip else text)}</title>"
    dashes = ' stroke-dasharray="4 3"' if fixed else ""
    return (
        f"<g>{title}"
        f'<rect x="{x}" y="{y - _ROW / 2:.1f}" width="{_WIDE}" height="{_ROW}" rx="4" '
        f'{_painted("stroke", kind, ";fill:var(--paper,white)")} stroke-width="1.5" fill="white"'
        f"{dashes}/>"
        f'<text x="{x + 8}" y="{y + 4.5:.1f}" {_painted("fill", kind)}>{escape(shown)}</text></g>'
    )


def _painted(attribute: str, kind: str, more: str = "") -> str:
    """The colour as an attribute for every viewer, and as a variable for those that know a page's."""
    colour = COLOURS.get(kind, "#333333")
    return f'{attribute}="{colour}" style="{attribute}:var(--{kind},{colour}){more}"'
