"""What to cut, as pure data, and the cutting, its undoing and its files; see `Plan`, `apply`, `undo`, `save_pruned`."""

from .attributes import register_widths
from .compensation import Compensation, compensate
from .cut import Cut, apply
from .group import Group, Member, Width
from .masks import from_masks, masks_of
from .plan import Plan
from .pruned import load_pruned, save_pruned
from .record import undo

__all__ = [
    "Compensation",
    "Cut",
    "Group",
    "Member",
    "Plan",
    "Width",
    "apply",
    "compensate",
    "from_masks",
    "load_pruned",
    "masks_of",
    "register_widths",
    "save_pruned",
    "undo",
]
