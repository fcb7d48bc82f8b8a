"""The plan under the name that users look for; it lives beside the cutting, which pruning is built on."""

from pyprune_fast.slicing import Plan

__all__ = ["Plan"]
