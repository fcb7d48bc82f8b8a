"""The estimators that can be asked for by name, as criteria: each makes one without levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from .aura import AuraEntropy, AuraInformation, LiteralAura
from .base import Estimator
from .information import ChannelInformation
from .pairs import PairInformation

ESTIMATORS: Mapping[str, Callable[[], Estimator]] = {
    "sae": AuraInformation,
    "entropy": AuraEntropy,
    "absolute_entropy": partial(AuraEntropy, relative=False),
    "channel": ChannelInformation,
    "literal": LiteralAura,
    "mrmr": partial(PairInformation, order="mrmr"),
    "cmim": partial(PairInformation, order="cmim"),
    "jmi": partial(PairInformation, order="jmi"),
    "diversity": partial(PairInformation, order="diversity"),
}
