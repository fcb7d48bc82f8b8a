"""Estimators: quantities of a channel from counts that merge anywhere."""

from .aura import AuraEntropy, AuraInformation, InformationParts
from .base import Estimator
from .calibration import LevelCalibration
from .information import ChannelInformation

__all__ = [
    "AuraEntropy",
    "AuraInformation",
    "ChannelInformation",
    "Estimator",
    "InformationParts",
    "LevelCalibration",
]
