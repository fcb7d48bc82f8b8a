"""Metrics of the application: objects with a direction, a floor and a confidence bound, and the built-in ones.

from pyprune_fast.prune import metrics
wanted = [metrics.accuracy(test, floor=0.98, confidence=0.95), metrics.size(floor=2e6)]
print(metrics.evaluate(model, wanted))
"""

from .classification import accuracy, cost, recall, recall_at_false_alarms
from .dense import agreement, flips, latent_drift, linear_cka, neighbor_overlap
from .episodes import episode_return
from .estimate import Estimate, Mean, Number, Rate, Worst
from .images import psnr, similarity, ssim
from .metric import Measurement, Metric, NoisyWarning, Run, Surrogate
from .people import preference, rating
from .reading import subset
from .running import latency, macs, memory, size
from .table import Table, evaluate, objective_and_floors
from .together import shared, sharing
from .weighted import weighted

__all__ = [
    "Estimate",
    "Mean",
    "Measurement",
    "Metric",
    "NoisyWarning",
    "Number",
    "Rate",
    "Run",
    "Surrogate",
    "Table",
    "Worst",
    "accuracy",
    "agreement",
    "cost",
    "episode_return",
    "evaluate",
    "flips",
    "latency",
    "latent_drift",
    "linear_cka",
    "macs",
    "memory",
    "neighbor_overlap",
    "objective_and_floors",
    "preference",
    "psnr",
    "rating",
    "recall",
    "recall_at_false_alarms",
    "shared",
    "sharing",
    "similarity",
    "size",
    "ssim",
    "subset",
    "weighted",
]
