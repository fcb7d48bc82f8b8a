"""Dependency groups of a model: `find_groups`, entry points, ties, the table of groups, the masked model, proofs by numbers."""

from pyprune_fast.slicing import Group, Member

from .drawing import draw_groups
from .entries import EntryPoint, Tie, UntiedWarning
from .groups import find_groups
from .masked import MaskedModel
from .table import GroupTable, group_table
from .trial import verify

__all__ = [
    "EntryPoint",
    "Group",
    "GroupTable",
    "MaskedModel",
    "Member",
    "Tie",
    "UntiedWarning",
    "draw_groups",
    "find_groups",
    "group_table",
    "verify",
]
