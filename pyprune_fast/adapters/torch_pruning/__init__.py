"""Drop-ins for Torch-Pruning (1.3.7 to 1.6): importances for every pruner of it.

    importance = AuraInformationImportance().fit(model, loader)
    pruner = torch_pruning.pruner.BasePruner(model, example, importance=importance, pruning_ratio=0.5)
    pruner.step()

Importances also work with copies of Torch-Pruning, as in LLM-Pruner, and where it is called by others, as by fasterai.
"""

from .importance import GroupImportance
from .measured import (
    AuraEntropyImportance,
    AuraInformationImportance,
    ChannelInformationImportance,
    InformationImportance,
    ScoresImportance,
)
from .weights import MagnitudeImportance, TaylorImportance, WeightImportance

__all__ = [
    "AuraEntropyImportance",
    "AuraInformationImportance",
    "ChannelInformationImportance",
    "GroupImportance",
    "InformationImportance",
    "MagnitudeImportance",
    "ScoresImportance",
    "TaylorImportance",
    "WeightImportance",
]
