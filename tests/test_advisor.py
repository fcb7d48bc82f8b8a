"""The metric advisor on constructed cases, and on a model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Journal, Metric, Plan, advise, sample_metrics
from pyprune_fast.slicing.fingerprint import fingerprint

DEPTH = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).double()


def noisy(means: Tensor, noise: float, repeats: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return means[:, None] + noise * torch.randn(len(means), repeats, generator=generator, dtype=torch.float64)


def test_each_case_gets_its_verdict() -> None:
    values = {
        "psnr": noisy(20 - DEPTH, 0.1),
        "mse": noisy((DEPTH / 5).exp(), 0.001, seed=1),  # the same news, upside down
        "colour": noisy(torch.ones(6).double(), 0.5, seed=2),  # pruning does not touch it
        "recall": noisy(0.9 - 0.1 * (DEPTH - 2.5).abs(), 0.03, seed=3),  # its floor is too near for its noise
        "size": noisy(torch.tensor([5.0, 1.0, 4.0, 2.0, 6.0, 3.0]).double(), 0.0),  # exact, and another order
    }
    advice = advise(values, {"psnr": 18.0, "recall": 0.64, "size": 7.0})
    assert [a.verdict for a in advice] == ["keep", "redundant", "insensitive", "too noisy", "keep"]
    by_name = {a.name: a for a in advice}
    assert by_name["mse"].correlations["psnr"] == pytest.approx(-1)
    assert by_name["mse"].reason == "mse: it ranks the models as psnr does (Spearman -1)"
    assert by_name["recall"].half_width >= by_name["recall"].margin
    assert (by_name["size"].noise, by_name["size"].chance, by_name["size"].half_width) == (0, 0, 0)
    assert by_name["size"].margin == 2


def test_numbers_equal_scipys_analysis_of_variance() -> None:
    from scipy.stats import f_oneway, t

    rows = noisy(DEPTH * 0.1, 0.2)
    (advice,) = advise({"m": rows})
    assert advice.chance == pytest.approx(f_oneway(*rows.numpy()).pvalue)
    noise = math.sqrt(rows.var(1).mean())
    assert advice.noise == pytest.approx(noise)
    assert advice.half_width == pytest.approx(t.ppf(0.95, 18) * noise / 2)
    assert advice.signal == pytest.approx(float((rows.mean(1) - rows[0].mean()).abs().max()))


def test_the_margin_must_exceed_the_half_width() -> None:
    rows = noisy(10 - DEPTH, 0.5)
    half, dense = advise({"m": rows})[0].half_width, float(rows[0].mean())
    verdicts = [advise({"m": rows}, {"m": dense - factor * half})[0].verdict for factor in (0.99, 1.01, -0.99, -1.01)]
    assert verdicts == ["too noisy", "keep", "too noisy", "keep"]


def test_insensitive_metrics_are_rarely_called_sensitive() -> None:
    """2,000 metrics that pruning does not move, five at a time, at 5 %: at most 5 % of the fives hold a false one."""
    wrong = 0
    for case in range(400):
        values = {str(i): noisy(torch.zeros(4).double(), 1.0, 3, seed=5 * case + i) for i in range(5)}
        wrong += any(a.verdict != "insensitive" for a in advise(values))
    assert wrong / 400 <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 400)


def test_little_data_says_little() -> None:
    (moved, still) = advise({"moved": DEPTH[:3, None], "still": torch.ones(3, 1)})
    assert (moved.verdict, still.verdict) == ("keep", "insensitive")
    assert math.isnan(moved.noise)
    assert moved.correlations == {}
    four = {"a": DEPTH[:4, None], "b": DEPTH[:4, None]}
    assert [a.verdict for a in advise(four)] == ["keep", "keep"]  # four models may agree by chance
    five = {"a": DEPTH[:5, None], "b": DEPTH[:5, None]}
    assert [a.verdict for a in advise(five)] == ["keep", "redundant"]


@pytest.mark.parametrize(
    ("values", "floors", "text"),
    [
        ({}, {}, "got none"),
        ({"m": torch.zeros(3)}, {}, r"wanted \(M, R\) of M >= 2, R >= 1 for each metric alike, got m: \(3,\)"),
        ({"m": torch.zeros(1, 2)}, {}, "M >= 2"),
        ({"m": torch.zeros(3, 2), "n": torch.zeros(4, 2)}, {}, "alike"),
        ({"m": torch.tensor([[1.0], [math.nan]])}, {}, "wanted finite ones, got others for m"),
        ({"m": torch.zeros(3, 2)}, {"n": 1.0}, "wanted those of measured metrics, got n"),
    ],
)
def test_wrong_arguments_are_named(values: dict, floors: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        advise(values, floors)


def test_sampled_on_a_model_that_stays_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    dense, groups = fingerprint(model), find_groups(model, x)
    plans = [Plan.of(model, groups, {"0": range(count)}) for count in range(1, 6)]
    calls = []

    def width(model: nn.Module) -> float:
        calls.append(1)
        return model[0].out_features

    wanted = [Metric("width", width), Metric("chance", lambda model: torch.rand(()).item())]
    values = sample_metrics(model, plans, wanted, repeats=3, journal=Journal(tmp_path / "log.jsonl"))
    assert values["width"].tolist() == [[w] * 3 for w in (8, 7, 6, 5, 4, 3)]
    assert len(set(values["chance"][0].tolist())) == 3  # repeats have seeds of their own
    assert torch.equal(values["chance"][0], values["chance"][5])  # common to all models
    assert fingerprint(model) == dense
    assert len(calls) == 18
    again = sample_metrics(model, plans, wanted, repeats=3, journal=Journal(tmp_path / "log.jsonl"))
    assert len(calls) == 18
    assert all(torch.equal(again[name], values[name]) for name in values)
    assert [advice.verdict for advice in advise(values)] == ["keep", "insensitive"]


def test_a_metric_that_fails_leaves_the_model_dense() -> None:
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    dense = fingerprint(model)
    plan = Plan.of(model, find_groups(model, x), {"0": [0]})
    with pytest.raises(ZeroDivisionError):
        sample_metrics(model, [plan], [Metric("m", lambda model: 1 / (model[0].out_features - 7))])
    assert fingerprint(model) == dense
