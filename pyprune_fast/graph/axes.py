"""The algebra of labelled axes: what the positions of a tensor's axis are made of, and which of them are the same.

An axis of n positions is one of

    variable        n channels that nothing is known about yet
    a + b + ...     a concatenation, |a| + |b| + ... = n
    a * b * ...     a product, the first factor outermost, |a| |b| ... = n: position = (i_a |b| + i_b) ...
    constant        n positions that can never go: the model's input, tokens, sites of an image

A variable is refined in place when an operation cuts it or views it as a product, and bound when it turns out to be the
same as another axis. So all that refer to it learn of it, whenever it happens: `unify` is unification of terms over the
laws of + and *, and its most general solution are the groups of channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

# A unification that takes more steps shifts an axis against itself; channels then depend on all others.
_STEPS = 20_000


class IrregularError(Exception):
    """Two readings of an axis that no concatenation of products describes."""


class Axis:
    """One axis, or a part of one.

    Attributes:
        size: Number of positions.
        form: "" variable, "+" concatenation, "*" product, "!" constant, "=" bound to ``parts[0]``.
        parts: What it is made of.
        fixed: Of a variable or constant: why its channels must stay; empty if they may go.
        added: Of a variable: whether two activations that were computed apart were added along it.
    """

    __slots__ = ("added", "fixed", "form", "parts", "size")

    def __init__(self, size: int, form: str = "", parts: tuple[Axis, ...] = (), fixed: str = "", added: bool = False):
        self.size, self.form, self.parts, self.fixed, self.added = size, form, parts, fixed, added


def constant(size: int, why: str) -> Axis:
    """Positions that never go. Nothing is known of their insides: parts and products of constants are constants."""
    return Axis(size, "!", fixed=why)


def find(axis: Axis) -> Axis:
    """Follows bindings to what an axis is now."""
    while axis.form == "=":
        if axis.parts[0].form == "=":
            axis.parts = axis.parts[0].parts
        axis = axis.parts[0]
    return axis


def concat(parts: Iterable[Axis]) -> Axis:
    """Sets axes one behind the other."""
    found = [part for axis in parts for part in segments(axis) if part.size]
    if len(found) == 1:
        return found[0]
    size = sum(part.size for part in found)
    if all(part.form == "!" for part in found):
        return constant(size, found[0].fixed if found else "")
    return Axis(size, "+", tuple(found))


def product(parts: Iterable[Axis]) -> Axis:
    """Nests axes, the first outermost."""
    parts = list(parts)
    found = [factor for axis in parts for factor in factors(axis)]
    if len(found) == 1:
        return found[0]
    if not found:  # one position: the variable stays, if there is one
        return next((find(axis) for axis in parts if find(axis).form != "!"), constant(1, ""))
    if all(part.form == "!" for part in found):
        return constant(prod(part.size for part in found), found[0].fixed)
    return Axis(prod(part.size for part in found), "*", tuple(found))


def segments(axis: Axis) -> list[Axis]:
    """The parts of nested concatenations, flat."""
    axis = find(axis)
    if axis.form != "+":
        return [axis]
    axis.parts = tuple(part for parts in axis.parts for part in segments(parts))
    return list(axis.parts)


def factors(axis: Axis) -> list[Axis]:
    """The factors of nested products, flat, without those of size 1."""
    axis = find(axis)
    if axis.form != "*":
        return [axis] if axis.size != 1 else []
    axis.parts = tuple(factor for parts in axis.parts for factor in factors(parts))
    return list(axis.parts)


def leaves(axis: Axis) -> Iterator[Axis]:
    """Yields the variables of an axis."""
    axis = find(axis)
    if axis.form == "":
        yield axis
    for part in axis.parts:
        yield from leaves(part)


def fix(axis: Axis, why: str) -> None:
    """Keeps the channels of all variables of an axis; the first reason stays."""
    for leaf in leaves(axis):
        leaf.fixed = leaf.fixed or why


def mark_added(axis: Axis) -> None:
    """Notes that two activations were added along an axis."""
    for leaf in leaves(axis):
        leaf.added = True


def cut(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Cuts an axis in two: its first ``at`` positions, and the others."""
    axis = find(axis)
    if axis.form == "+":
        head: list[Axis] = []
        for number, part in enumerate(segments(axis)):
            if at < part.size:
                ends = cut(part, at) if at else (constant(0, ""), part)
                return concat([*head, ends[0]]), concat([ends[1], *axis.parts[number + 1 :]])
            head.append(part)
            at -= part.size
        return concat(head), constant(0, "")
    if not 0 < at < axis.size:
        nothing = constant(0, "")
        return (nothing, axis) if at <= 0 else (axis, nothing)
    if axis.form == "*":
        return _cut_product(axis, at)
    first, last = (Axis(size, axis.form, fixed=axis.fixed, added=axis.added) for size in (at, axis.size - at))
    if axis.form == "":
        axis.form, axis.parts = "+", (first, last)
    return first, last


def _cut_product(axis: Axis, at: int) -> tuple[Axis, Axis]:
    """Cuts the outermost factor; where the cut falls inside one of its positions, that one is cut further."""
    outer, *rest = factors(axis)
    inner = product(rest)
    whole, within = divmod(at, inner.size)
    first, last = cut(outer, whole)
    if not within:
        return product([first, *rest]), product([last, *rest])
    _, last = cut(last, 1)
    head, tail = cut(inner, within)
    first_part = [product([first, *rest])] if first.size else []
    last_part = [product([last, *rest])] if last.size else []
    return concat([*first_part, head]), concat([tail, *last_part])


def piece(axis: Axis, start: int, stop: int) -> Axis:
    """The positions from ``start`` up to ``stop``."""
    return cut(cut(axis, stop)[0], start)[1]


def split(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """Reads an axis as a product with an innermost factor of ``inner`` positions: (the outer factor, the inner one).

    Raises:
        IrregularError: It has another inner structure.
    """
    axis = find(axis)
    outer, left = divmod(axis.size, inner)
    if left:
        raise IrregularError
    if inner == 1:
        return axis, constant(1, "")
    if outer == 1:
        return constant(1, ""), axis
    if axis.form == "+":
        return _split_concat(axis, inner)
    if axis.form == "*":
        return _split_product(axis, inner)
    first, last = (Axis(size, axis.form, fixed=axis.fixed, added=axis.added) for size in (outer, inner))
    if axis.form == "":
        axis.form, axis.parts = "*", (first, last)
    return first, last


def _split_product(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    rest, taken = factors(axis), []
    while inner > 1:
        factor = rest.pop()
        if inner % factor.size == 0:
            taken.append(factor)
            inner //= factor.size
        elif factor.size % inner == 0:
            outer, last = split(factor, inner)
            rest.append(outer)
            taken.append(last)
            inner = 1
        else:
            raise IrregularError
    return product(rest), product(reversed(taken))


def _split_concat(axis: Axis, inner: int) -> tuple[Axis, Axis]:
    """Each part a multiple of ``inner``: the inner factors are one; otherwise each row of ``inner`` positions is the same."""
    rows, pending = [], Axis(0, "+")
    for part in segments(axis):
        pending = concat([pending, part])
        if pending.size % inner == 0:
            rows.append(pending)
            pending = Axis(0, "+")
    outers, first = [], None
    for row in rows:
        if find(row).form == "+":  # parts end inside a row
            while row.size:
                head, row = cut(row, inner)
                outers.append(Axis(1))
                first = first or head
                _unify(first, head, [_STEPS])
        else:
            outer, last = split(row, inner)
            outers.append(outer)
            first = first or last
            _unify(first, last, [_STEPS])
    assert first is not None
    return concat(outers), first


def unify(a: Axis, b: Axis) -> None:
    """Makes two axes of equal size the same, position by position.

    Raises:
        IrregularError: They cannot be described together. All their channels are fixed then.
    """
    try:
        _unify(a, b, [_STEPS])
    except IrregularError:
        for axis in (a, b):
            fix(axis, f"an axis of {axis.size} is read in two ways that do not fit together")
        raise


def _unify(a: Axis, b: Axis, steps: list[int]) -> None:
    a, b = find(a), find(b)
    steps[0] -= 1
    if a is b:
        return
    if steps[0] < 0:
        raise IrregularError
    if "!" in (a.form, b.form):
        one, other = (a, b) if a.form == "!" else (b, a)
        if one.fixed:
            fix(other, one.fixed)
        return
    if b.form == "" and a.form != "":
        a, b = b, a
    if a.form == "":
        _own_constants(b)
        if a.fixed:
            fix(b, a.fixed)
        if a.added:
            mark_added(b)
    elif "+" in (a.form, b.form):
        _unify_segments(a, b, steps)
    else:
        _unify_factors(a, b, steps)
    root, other = find(a), find(b)
    if root is not other:
        root.form, root.parts = "=", (other,)


def _own_constants(axis: Axis) -> None:
    """Turns the constant parts of an axis into fixed variables: what a variable is bound to stays whole."""
    for part in axis.parts:
        part = find(part)
        if part.form == "!" and part.size > 1:
            part.form = ""
        _own_constants(part)


def _unify_segments(a: Axis, b: Axis, steps: list[int]) -> None:
    left, right = segments(a)[::-1], segments(b)[::-1]
    while left:
        x, y = left.pop(), right.pop()
        if x.size > y.size:
            x, rest = cut(x, y.size)
            left += segments(rest)[::-1]
        elif y.size > x.size:
            y, rest = cut(y, x.size)
            right += segments(rest)[::-1]
        _unify(x, y, steps)


def _unify_factors(a: Axis, b: Axis, steps: list[int]) -> None:
    left, right = factors(a), factors(b)
    while left:
        x, y = left.pop(), right.pop()
        if x.size > y.size:
            outer, x = split(x, y.size)
            left += factors(outer)
        elif y.size > x.size:
            outer, y = split(y, x.size)
            right += factors(outer)
        _unify(x, y, steps)


Run = tuple[int, int, int]


def layout(axis: Axis) -> list[tuple[Axis, Run]]:
    """Lists the variables of an axis with the positions that their channels own, as (offset, step, block).

    Channel c owns the ``block`` positions from offset + c * step. A variable stands in the list once for each run.

    Example:
        >>> heads = Axis(4)
        >>> [run for _, run in layout(concat([constant(3, ""), product([heads, constant(2, "")])]))]
        [(3, 2, 2)]
    """
    axis = find(axis)
    if axis.form == "":
        return [(axis, (0, 1, 1))]
    runs: list[tuple[Axis, Run]] = []
    if axis.form == "+":
        start = 0
        for part in segments(axis):
            runs += [(leaf, (offset + start, step, block)) for leaf, (offset, step, block) in layout(part)]
            start += part.size
    elif axis.form == "*":
        outer = 1
        inner = axis.size
        for factor in factors(axis):
            width, inner = inner, inner // factor.size
            for leaf, (offset, step, block) in layout(factor):
                scaled = (step * inner, block * inner)
                runs += [(leaf, (row * width + offset * inner, *scaled)) for row in range(outer)]
            outer *= factor.size
    return runs
