"""The ops: one file each, with schema, kernel per device, shape rule and public function.

Public functions check arguments, allocate results and call the op. Nothing moves between devices. Letters: N images,
C channels, L levels, K classes, R stored offsets.
"""

from .aura import aura_counts
from .entropy import entropy, information
from .extremes import Extremes, extremes
from .joint import joint_counts
from .masked_norm import masked_norm
from .norms import norms
from .pairs import pair_counts, pair_information
from .take import take, take_all

__all__ = [
    "Extremes",
    "aura_counts",
    "entropy",
    "extremes",
    "information",
    "joint_counts",
    "masked_norm",
    "norms",
    "pair_counts",
    "pair_information",
    "take",
    "take_all",
]
