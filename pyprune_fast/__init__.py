"""Compiled kernels for structured pruning: spatial aura entropy, mutual information, channel slicing."""

from . import distributed, ops
from ._native import build_info
from .estimators import AuraEntropy, AuraInformation, ChannelInformation, Estimator, LevelCalibration
from .levels import Levels
from .observe import observe
from .scoring import Scores, score_model, score_random, score_weights

__all__ = [
    "AuraEntropy",
    "AuraInformation",
    "ChannelInformation",
    "Estimator",
    "LevelCalibration",
    "Levels",
    "Scores",
    "build_info",
    "distributed",
    "observe",
    "ops",
    "score_model",
    "score_random",
    "score_weights",
]
