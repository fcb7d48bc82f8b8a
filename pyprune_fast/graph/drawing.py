"""The groups of a model as a drawing: components on the left, groups on the right, a line where a group has members."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from pyprune_fast.slicing import Group

_ROW, _WIDE, _GAP = 26, 330, 170  # height of a box, width of a box, room for the lines between the columns
_COLOURS = {"intra": "#4c78a8", "coupling": "#e45756", "interface": "#9d9d9d"}


def draw_groups(groups: Sequence[Group]) -> str:
    """Draws which component takes part in which group.

    Args:
        groups: Groups, as `find_groups` lists them.

    Returns:
        An SVG image as text. Blue groups lie inside one component, red ones are shared, grey ones are the model's interface;
        fixed ones are pale, with the reason as a tooltip.

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
    parts += [_box(10, y, name, "#333333", "", False) for name, y in left.items()]
    for group, y in right:
        text = f"{group.name}: {group.channels} x {group.parameters:,} parameters"
        tip = group.fixed or f"{group.kind} {group.subtype}".strip()
        parts.append(_box(10 + _WIDE + _GAP, y, text, _COLOURS[group.kind], tip, bool(group.fixed)))
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
        f'stroke="{_COLOURS[group.kind]}" stroke-opacity="{0.5 if group.fixed else 0.8}"/>'
    )


def _box(x: float, y: float, text: str, colour: str, tip: str, pale: bool) -> str:
    shown = text if len(text) <= 46 else f"{text[:45]}…"
    title = f"<title>{escape(f'{text}: {tip}' if tip else text)}</title>"
    return (
        f'<g opacity="{0.7 if pale else 1}">{title}'
        f'<rect x="{x}" y="{y - _ROW / 2:.1f}" width="{_WIDE}" height="{_ROW}" rx="4" '
        f'fill="white" stroke="{colour}" stroke-width="1.5"/>'
        f'<text x="{x + 8}" y="{y + 4.5:.1f}" fill="{colour}">{escape(shown)}</text></g>'
    )
