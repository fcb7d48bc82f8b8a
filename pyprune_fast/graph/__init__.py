"""Dependency groups of a model: `find_groups`, entry points, ties, tables, drawings, the masked model, proofs by numbers."""

from pyprune_fast.slicing import Group, Member

from .dot import groups_to_dot
from .drawing import draw_groups
from .entries import EntryPoint, Tie, UntiedWarning
from .explain import Explanation, explain
from .groups import find_groups
from .masked import MaskedModel
from .table import GroupTable, group_table
from .trial import verify

__all__ = [
    "EntryPoint",
    "Explanation",
    "Group",
    "GroupTable",
    "MaskedModel",
    "Member",
    "Tie",
    "UntiedWarning",
    "draw_groups",
    "explain",
    "find_groups",
    "group_table",
    "groups_to_dot",
    "verify",
]
