"""All rules: what each operation does to the axes of its arguments."""

from __future__ import annotations

from typing import Any

import torch

from . import elementwise, products, shapes, sums
from .registry import RULES, Rule

__all__ = ["elementwise", "products", "rule_of", "shapes", "sums"]  # each registers its rules


def rule_of(func: Any) -> Rule | None:
    """The rule of an operation, None for an unknown one."""
    rule = RULES.get(func.overloadpacket.__name__)
    return elementwise.pointwise if rule is None and torch.Tag.pointwise in func.tags else rule
