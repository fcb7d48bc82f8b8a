"""Scores as a table and as JSON, with hashes that prove counts equal, whoever counted them."""

from __future__ import annotations

import json
from typing import Any

from pyprune_fast.fingerprint import fingerprint_tensors
from pyprune_fast.scoring import Scores

from .table import Row


def scores_table(scores: Scores) -> tuple[Row, list[Row]]:
    """Head and rows: a row a layer, with the first 16 digits of the SHA-256 of its counts."""
    head = ["layer", "sha256 of counts", "channels", "min", "median", "max", "images"]
    rows = []
    for layer, values in scores.layers.items():
        numbers = [f"{value:.6f}" for value in (values.min(), values.quantile(0.5), values.max())]
        rows.append([layer, _fingerprint(scores, layer)[:16], str(len(values)), *numbers, f"{scores.images:,}"])
    return head, rows


def as_json(scores: Scores) -> str:
    """Everything but times, so that equal scores are equal files. "sha256" is that of the counts of all layers."""
    layers = {
        layer: {"sha256": _fingerprint(scores, layer), "scores": values.tolist()} for layer, values in scores.layers.items()
    }
    everything: dict[str, Any] = {
        "criterion": scores.criterion,
        "images": scores.images,
        "sha256": fingerprint_all(scores),
        "layers": layers,
    }
    return json.dumps(everything, indent=1) + "\n"


def fingerprint_all(scores: Scores) -> str:
    """SHA-256 over the counts of all layers; 64 hexadecimal digits."""
    return fingerprint_tensors({layer: estimator.counts for layer, estimator in scores.estimators.items()})


def _fingerprint(scores: Scores, layer: str) -> str:
    return fingerprint_tensors({layer: scores.estimators[layer].counts})
