"""Drop-ins for Torch-Pruning (1.3.7 to 1.6): importances for every pruner of it, and its step by our cut.

    importance = AuraInformationImportance().fit(model, loader)
    pruner = torch_pruning.pruner.BasePruner(model, example, importance=importance, pruning_ratio=0.5)
    step(pruner)            # or pruner.step()

Importances also work with copies of Torch-Pruning, as in LLM-Pruner, and where it is called by others, as by fasterai.
"""

from .fused import Step, step
from .importance import GroupImportance
from .measured import (
    AuraEntropyImportance,
    AuraInformationImportance,
    ChannelInformationImportance,
    InformationImportance,
    ScoresImportance,
)
from .plans import from_history
from .weights import MagnitudeImportance, TaylorImportance, WeightImportance

__all__ = [
    "AuraEntropyImportance",
    "AuraInformationImportance",
    "ChannelInformationImportance",
    "GroupImportance",
    "InformationImportance",
    "MagnitudeImportance",
    "ScoresImportance",
    "Step",
    "TaylorImportance",
    "WeightImportance",
    "from_history",
    "step",
]
