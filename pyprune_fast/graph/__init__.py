"""Dependency groups of a model: `find_groups`, its entry points and ties, the masked model, and proofs by numbers."""

from pyprune_fast.slicing import Group, Member

from .entries import EntryPoint, Tie, UntiedWarning
from .groups import find_groups
from .masked import MaskedModel
from .trial import verify

__all__ = ["EntryPoint", "Group", "MaskedModel", "Member", "Tie", "UntiedWarning", "find_groups", "verify"]
