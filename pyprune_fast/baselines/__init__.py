"""Baselines for studies: what other papers score channels by. All scores are `Scores`; higher keeps."""

from .activation import score_activation
from .copula import CopulaInformation, normal_scores, score_copula
from .fisher import score_fisher
from .maps import channel_independence, map_ranks, score_chip, score_hrank
from .neighbors import NeighborInformation, score_neighbors
from .renyi import RenyiInformation, matrix_entropy, score_renyi
from .taylor import score_taylor
from .weights import score_bn_scale, score_fpgm

__all__ = [
    "CopulaInformation",
    "NeighborInformation",
    "RenyiInformation",
    "channel_independence",
    "map_ranks",
    "matrix_entropy",
    "normal_scores",
    "score_activation",
    "score_bn_scale",
    "score_chip",
    "score_copula",
    "score_fisher",
    "score_fpgm",
    "score_hrank",
    "score_neighbors",
    "score_renyi",
    "score_taylor",
]
