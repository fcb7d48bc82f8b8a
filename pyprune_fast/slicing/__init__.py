"""What to cut, as pure data, and the cutting: `Member`, `Group`, `Plan`, `apply`, `Cut`, `compensate`, `Compensation`."""

from .compensation import Compensation, compensate
from .cut import Cut, apply
from .group import Group, Member
from .plan import Plan

__all__ = ["Compensation", "Cut", "Group", "Member", "Plan", "apply", "compensate"]
