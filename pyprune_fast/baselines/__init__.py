"""Baselines for studies: what other papers score channels by. All return `Scores`; higher keeps."""

from .fisher import score_fisher
from .taylor import score_taylor
from .weights import score_bn_scale, score_fpgm

__all__ = ["score_bn_scale", "score_fisher", "score_fpgm", "score_taylor"]
