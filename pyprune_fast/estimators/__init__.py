"""Estimators: quantities of a channel from counts that merge anywhere."""

from .aura import AuraEntropy, AuraInformation, InformationParts, LiteralAura
from .base import Estimator
from .by_name import ESTIMATORS
from .calibration import LevelCalibration
from .chunks import ChunkedInformation
from .greedy import cmim_order, diversity_order, jmi_order, mrmr_order, order_scores
from .information import ChannelInformation, LabelInformation
from .pairs import PairInformation
from .permutation import PermutationResult, PermutationTest

__all__ = [
    "ESTIMATORS",
    "AuraEntropy",
    "AuraInformation",
    "ChannelInformation",
    "ChunkedInformation",
    "Estimator",
    "InformationParts",
    "LabelInformation",
    "LevelCalibration",
    "LiteralAura",
    "PairInformation",
    "PermutationResult",
    "PermutationTest",
    "cmim_order",
    "diversity_order",
    "jmi_order",
    "mrmr_order",
    "order_scores",
]
