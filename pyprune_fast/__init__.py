"""Compiled kernels for structured pruning: spatial aura entropy, mutual information, channel slicing."""

from . import distributed, ops
from ._native import build_info
from .estimators import (
    AuraEntropy,
    AuraInformation,
    ChannelInformation,
    ChunkedInformation,
    Estimator,
    LevelCalibration,
    LiteralAura,
    PairInformation,
    PermutationTest,
)
from .levels import Levels
from .observe import observe
from .scoring import Scores, score_model, score_random, score_weights
from .suggest import LevelSuggestion, suggest_levels
from .tokens import Lattice

__all__ = [
    "AuraEntropy",
    "AuraInformation",
    "ChannelInformation",
    "ChunkedInformation",
    "Estimator",
    "Lattice",
    "LevelCalibration",
    "LevelSuggestion",
    "Levels",
    "LiteralAura",
    "PairInformation",
    "PermutationTest",
    "Scores",
    "build_info",
    "distributed",
    "observe",
    "ops",
    "score_model",
    "score_random",
    "score_weights",
    "suggest_levels",
]
