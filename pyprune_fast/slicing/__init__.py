"""What to cut, as pure data, and the cutting: `Member`, `Group`, `Plan`, `apply`, `Cut`."""

from .cut import Cut, apply
from .group import Group, Member
from .plan import Plan

__all__ = ["Cut", "Group", "Member", "Plan", "apply"]
