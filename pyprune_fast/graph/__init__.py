"""Dependency groups of a model: `find_groups`."""

from pyprune_fast.slicing import Group, Member

from .groups import find_groups

__all__ = ["Group", "Member", "find_groups"]
