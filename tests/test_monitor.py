"""The monitor: an injected drift raises the alarm, a quiet stream does so no more often than stated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.levels import Levels
from pyprune_fast.prune import Baseline, Metric, Monitor, Plan, metrics, rollout
from pyprune_fast.prune.chances import kolmogorov_tail
from pyprune_fast.prune.drift import FeatureCounts, more_missing, shifts, summaries

MODEL = nn.Linear(2, 2)


def normal(examples: int, features: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(examples, features, generator=torch.Generator().manual_seed(seed))


def baseline(reference: Tensor | None = None, **settings) -> Baseline:
    return Baseline.of(MODEL, [normal(2000) if reference is None else reference], **settings)


# --- statistics ----------------------------------------------------------------------------------------------------------


def test_psi_by_hand() -> None:
    levels = Levels(torch.tensor([[1.0, 2.0]]))
    a, b = FeatureCounts(levels), FeatureCounts(levels)
    a.update(torch.tensor([0.0] * 50 + [1.5] * 30 + [3.0] * 20)[:, None])
    b.update(torch.tensor([0.0] * 30 + [1.5] * 30 + [3.0] * 40)[:, None])
    p, q = ([(count + 0.5) / 101.5 for count in counts] for counts in ((50, 30, 20), (30, 30, 40)))
    (shift,) = shifts(a, b)
    assert shift.psi == pytest.approx(sum((x - y) * math.log(x / y) for x, y in zip(p, q, strict=True)))
    assert shift.ks == pytest.approx(0.2)
    assert shift.missing == (0.0, 0.0)


def test_sparse_levels_are_joined_until_each_is_expected_to_hold_twenty() -> None:
    levels = Levels(torch.tensor([[1.0, 2.0, 3.0]]))
    a, b = FeatureCounts(levels), FeatureCounts(levels)
    a.update(torch.tensor([0.5] * 5 + [1.5] * 15 + [2.5] * 60 + [3.5] * 20)[:, None])
    b.update(torch.tensor([0.5] * 30 + [1.5] * 150 + [2.5] * 700 + [3.5] * 120)[:, None])
    # The smaller set holds 100 of 1,100: of the first two levels it is expected to hold 18.2, of the first three 87.3, and of
    # the last one 12.7, which therefore joins them: nothing is left to compare.
    (shift,) = shifts(a, b)
    assert (shift.psi, shift.psi_chance) == (0.0, 1.0)
    assert shift.ks == pytest.approx(0.08)
    a.update(torch.tensor([3.5] * 100)[:, None])  # now 32.0, 126.7 and 40.0 of 200
    (shift,) = shifts(a, b)
    p, q = ([(count + 0.5) / (n + 1.5) for count in counts] for counts, n in (((20, 60, 120), 200), ((180, 700, 120), 1000)))
    assert shift.psi == pytest.approx(sum((x - y) * math.log(x / y) for x, y in zip(p, q, strict=True)))


def test_ks_equals_scipy_where_levels_tell_all_values_apart() -> None:
    from scipy.stats import ks_2samp

    values = torch.arange(40.0)
    levels = Levels((values[None, :-1] + values[None, 1:]) / 2)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 40, (150,), generator=generator), torch.randint(5, 40, (220,), generator=generator)
    (shift,) = shifts(*(FeatureCounts(levels).update(x.float()[:, None]) for x in (a, b)))
    wanted = ks_2samp(a.numpy(), b.numpy(), method="asymp")
    assert shift.ks == pytest.approx(wanted.statistic)
    assert shift.ks_chance == kolmogorov_tail(shift.ks, 150, 220)
    assert shift.ks_chance == pytest.approx(wanted.pvalue, rel=0.2)  # SciPy corrects for finite samples


def test_levels_of_a_reference_have_one_below_and_one_above() -> None:
    reference = FeatureCounts.reference(torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]]), levels=6)
    assert reference.counts[:, 0].tolist() == [0, 0]
    assert reference.counts[:, -1].tolist() == [0, 0]
    assert reference.counts.sum(1).tolist() == [4, 4]
    window = FeatureCounts(reference.levels).update(torch.tensor([[-0.1, 4.9], [3.1, 5.1]]))
    assert window.counts[:, 0].tolist() == [1, 1]
    assert window.counts[:, -1].tolist() == [1, 1]  # a constant feature that moves either way is seen


@pytest.mark.parametrize("examples", [200, 2000])
@pytest.mark.parametrize("kind", ["normal", "ties", "skewed"])
def test_chances_are_no_smaller_than_stated(examples: int, kind: str) -> None:
    """Without drift, a chance of at most 5 % comes in at most 5 % of windows (and 4 standard errors)."""
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Tensor:
        x = torch.randn(count, 600, generator=generator)
        return x if kind == "normal" else (2 * x).round() if kind == "ties" else x.exp()

    reference = FeatureCounts.reference(draw(2000))
    found = shifts(FeatureCounts(reference.levels).update(draw(examples)), reference)
    limit = 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)
    assert sum(shift.psi_chance <= 0.05 for shift in found) / 600 <= limit
    assert sum(shift.ks_chance <= 0.05 for shift in found) / 600 <= limit
    if kind == "normal":  # and they are no idle tests
        assert sum(shift.psi_chance <= 0.05 for shift in found) > 0
        assert sum(shift.ks_chance <= 0.05 for shift in found) > 0


def test_missing_values_are_counted_apart() -> None:
    usual = normal(1000, 2)
    usual[::100] = math.nan
    reference = FeatureCounts.reference(usual)
    window = normal(1000, 2, seed=1)
    window[::90, 0], window[::20, 1] = math.nan, math.nan
    counted = FeatureCounts(reference.levels).update(window)
    assert counted.missing.tolist() == [12, 50]
    assert more_missing(counted, reference, 0.01) == [False, True]
    lost = FeatureCounts(reference.levels).update(torch.full((50, 2), math.nan))
    assert more_missing(lost, reference, 0.01) == [True, True]
    assert shifts(lost, reference)[0].ks_chance == 1  # nothing is left to compare
    assert more_missing(FeatureCounts(reference.levels), reference, 0.01) == [False, False]


def test_counts_of_parts_are_the_counts_of_the_whole() -> None:
    reference = FeatureCounts.reference(normal(500))
    x = normal(300, seed=1)
    x[3, 2] = math.nan
    whole = FeatureCounts(reference.levels).update(x)
    parts = [FeatureCounts(reference.levels).update(part) for part in x.split(70)]
    merged = parts[0].merge(*parts[1:])
    again = FeatureCounts.from_state(merged.state_dict())
    for counts in (merged, again):
        assert torch.equal(counts.counts, whole.counts)
        assert torch.equal(counts.missing, whole.missing)
    with pytest.raises(ValueError, match="wanted the same levels"):
        whole.merge(FeatureCounts.reference(normal(500, seed=3)))


def test_summaries_are_one_row_an_example() -> None:
    images = torch.rand(4, 2, 5, 6, dtype=torch.float64)
    rows = summaries(images)
    assert rows.shape == (4, 8)
    wanted = [images[1, 1].mean(), images[1, 1].std(correction=0), images[1, 1].min(), images[1, 1].max()]
    assert rows[1, 4:].tolist() == pytest.approx([float(w) for w in wanted])
    assert torch.equal(summaries(torch.tensor([1.0, 2.0])), torch.tensor([[1.0], [2.0]]))
    with pytest.raises(TypeError, match="wanted floating point .* give `features`"):
        summaries(torch.tensor([[1, 2]]))


# --- the monitor ---------------------------------------------------------------------------------------------------------


def test_a_quiet_stream_is_quiet_within_the_stated_level() -> None:
    """300 windows at a level of 10 %, whatever their size of effect: alarms in at most 10 % (and 4 standard errors)."""
    monitor = Monitor(MODEL, baseline(normal(4000)), level=0.1, least_psi=0.0, least_ks=0.0)
    alarms = sum(bool(monitor.update(normal(500, seed=100 + seed)).check()) for seed in range(300))
    assert alarms / 300 <= 0.1 + 4 * math.sqrt(0.1 * 0.9 / 300)
    quiet = Monitor(MODEL, monitor.baseline)
    assert not [alert for seed in range(50) for alert in quiet.update(normal(500, seed=1000 + seed)).check()]


@pytest.mark.parametrize(
    ("drift", "statistics"),
    [
        (lambda x: x + torch.tensor([0.0, 0.5] + [0.0] * 6), {"PSI", "KS"}),
        (lambda x: x * torch.tensor([1.0, 2.0] + [1.0] * 6), {"PSI", "KS"}),
        (lambda x: torch.where(torch.tensor([False, True] + [False] * 6) & (x > 1), math.nan, x), {"PSI", "KS", "missing"}),
        (lambda x: torch.where(torch.tensor([False, True] + [False] * 6), 0.1, x), {"PSI", "KS"}),
    ],
    ids=["shifted", "stretched", "missing", "stuck"],
)
def test_an_injected_drift_raises_the_alarm_and_names_its_feature(drift, statistics: set[str]) -> None:
    monitor = Monitor(MODEL, baseline())
    for seed in range(10):
        monitor.update(normal(100, seed=50 + seed))
    assert monitor.check() == []
    for seed in range(10):
        monitor.update(drift(normal(100, seed=50 + seed)))
    alerts = monitor.check()
    assert {(alert.kind, alert.name) for alert in alerts} == {("input", "feature 1")}
    assert {alert.statistic for alert in alerts} == statistics
    record = json.loads(alerts[0].line())
    assert (record["examples"], record["kind"], record["statistic"]) == (1000, "input", "PSI")
    assert monitor.examples == 0  # a new window has begun


def test_rates_that_surely_fell_raise_the_alarm() -> None:
    monitor = Monitor(MODEL, baseline(normal(500, 2)), floors={"accuracy": 0.9, "agreement": 0.9})
    x = normal(200, 2, seed=1)
    outputs = torch.eye(2)[torch.zeros(200, dtype=torch.int64)]
    labels = torch.zeros(200, dtype=torch.int64)
    labels[:24] = 1  # 88 %: below, not surely
    assert monitor.update(x, outputs, labels=labels, dense=outputs).check() == []
    labels[:60] = 1
    (alert,) = monitor.update(x, outputs, labels=labels, dense=outputs).check()
    assert (alert.kind, alert.name, alert.value, alert.threshold) == ("rate", "accuracy", 0.7, 0.9)
    other = outputs.flip(1)
    (alert,) = monitor.update(x, outputs, dense=other).check()
    assert (alert.name, alert.value) == ("agreement", 0.0)
    assert monitor.update(x).check() == []  # without answers nothing is said of rates


def test_metric_windows_and_scores() -> None:
    scores = {"conv": torch.arange(6.0), "single": torch.zeros(1)}
    monitor = Monitor(MODEL, baseline(scores=scores))
    low = Metric("recall", lambda model: metrics.Rate(60, 100), floor=0.9, confidence=0.95)
    doubtful = Metric("precision", lambda model: metrics.Rate(87, 100), floor=0.9, confidence=0.95)
    shuffled = torch.tensor([5.0, 0.0, 4.0, 1.0, 3.0, 2.0])
    (alert,) = monitor.check_metrics([low, doubtful])
    assert (alert.kind, alert.name, alert.value, alert.threshold) == ("metric", "recall", 0.6, 0.9)
    (alert,) = monitor.check_scores({"conv": shuffled, "single": torch.ones(1)})
    assert (alert.kind, alert.name) == ("scores", "conv")
    assert alert.value == pytest.approx(1 - 6 * 44 / 210)  # sum of squared differences of ranks: 44
    assert monitor.check_scores({"conv": 2 * torch.arange(6.0) + 1}) == []
    with pytest.raises(ValueError, match="layer fc: wanted what the baseline has, no scores"):
        monitor.check_scores({"fc": torch.zeros(3)})
    with pytest.raises(ValueError, match="layer conv: wanted what the baseline has, 6 channels, got 5"):
        monitor.check_scores({"conv": torch.zeros(5)})
    assert [alert.value for alert in monitor.check_scores({"conv": torch.zeros(6)})] == [pytest.approx(math.nan, nan_ok=True)]


def test_state_is_of_constant_size_and_goes_on(tmp_path: Path) -> None:
    base = baseline()
    one, other = Monitor(MODEL, base), Monitor(MODEL, base)
    sizes = set()
    for seed in range(5):
        one.update(normal(100, seed=seed))
        sizes.add(sum(tensor.numel() for tensor in one.state_dict().values()))
    assert len(sizes) == 1
    one.save(tmp_path / "window.safetensors")
    resumed = Monitor(MODEL, base).resume(tmp_path / "window.safetensors")
    for seed in range(5, 8):
        resumed.update(normal(100, seed=seed))
        other.update(normal(100, seed=seed) + 1)
    drifted = resumed.merge(other)
    assert drifted.examples == 1100
    whole = Monitor(MODEL, base)
    for seed in range(8):
        whole.update(normal(100, seed=seed))
    for seed in range(5, 8):
        whole.update(normal(100, seed=seed) + 1)
    assert [a.line() for a in drifted.check()] == [a.line() for a in whole.check()] != []


# --- weights -------------------------------------------------------------------------------------------------------------


def test_other_weights_are_refused(tmp_path: Path) -> None:
    base = baseline()
    changed = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="wanted the weights that the baseline was taken for"):
        Monitor(changed, base)
    theirs = Monitor(changed, Baseline.of(changed, [normal(2000)]))
    mine = Monitor(MODEL, base)
    with pytest.raises(ValueError, match="wanted monitors of the same weights"):
        mine.merge(theirs)
    theirs.save(tmp_path / "window.safetensors")
    with pytest.raises(ValueError, match="wanted a window of the same weights"):
        mine.resume(tmp_path / "window.safetensors")
    moved = Monitor(MODEL, baseline(normal(2000, seed=9)))
    with pytest.raises(ValueError, match="wanted the baseline's levels"):
        mine.load_state_dict(moved.state_dict())


def test_the_model_must_be_the_one_that_the_plan_left() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), normal(100, 3)
    done = rollout(model, [Plan.of(model, find_groups(model, x), {"0": [1, 2]})], [metrics.size(floor=1e6)])
    base = Baseline.of(model, [x], plan=done.plans[-1])
    Monitor(model, base)
    done.undo()
    with pytest.raises(ValueError, match="wanted the one that the plan left"):
        Baseline.of(model, [x], plan=done.plans[-1])
    with pytest.raises(ValueError, match=r"wanted the one that the plan left \(no weights\)"):
        Baseline.of(model, [x], plan=Plan.of(model, find_groups(model, x), {"0": [1, 2]}))
    with pytest.raises(ValueError, match="wanted the weights that the baseline was taken for"):
        Monitor(model, base)


def test_baselines_survive_a_file(tmp_path: Path) -> None:
    base = baseline(scores={"conv": torch.arange(3.0)})
    base.save(tmp_path / "baseline.safetensors")
    again = Baseline.load(tmp_path / "baseline.safetensors")
    assert again.weights == base.weights
    assert torch.equal(again.inputs.counts, base.inputs.counts)
    assert torch.equal(again.inputs.levels.edges, base.inputs.levels.edges)
    assert again.scores["conv"].tolist() == [0, 1, 2]
    (tmp_path / "text.safetensors").write_text("no tensors")
    Monitor(MODEL, base).save(tmp_path / "window.safetensors")
    with pytest.raises(ValueError, match=r"text.safetensors: wanted a safetensors file"):
        Baseline.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="wanted format 'pyprune_fast.baseline' version '1', got format 'pyprune_fast.window'"):
        Baseline.load(tmp_path / "window.safetensors")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Baseline.of(MODEL, []), "inputs: wanted at least one example, got none"),
        (lambda: baseline(torch.full((3, 1), math.nan)), "wanted finite values for each"),
        (lambda: baseline(torch.full((3, 1), math.inf)), "wanted finite values for each"),
        (lambda: baseline(levels=3), "levels: wanted 4..256, got 3"),
        (lambda: Monitor(MODEL, baseline(), level=0.0), r"level: wanted a number in \(0, 1\), got 0.0"),
        (lambda: Monitor(MODEL, baseline(), floors={"f1": 0.5}), "floors: wanted 'accuracy' or 'agreement', got 'f1'"),
        (lambda: Monitor(MODEL, baseline()).update(normal(3, 2)), r"wanted \(N, F = 8\)"),
        (lambda: Monitor(MODEL, baseline()).update(normal(3), labels=torch.zeros(3)), "labels: wanted outputs"),
        (lambda: shifts(baseline().inputs, baseline(normal(9, 1)).inputs), "wanted the reference's levels"),
    ],
)
def test_wrong_settings_are_named(call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call()


def test_a_batch_that_does_not_fit_counts_nowhere() -> None:
    monitor = Monitor(MODEL, baseline())
    before = monitor.state_dict()
    with pytest.raises(ValueError, match="dense: wanted outputs"):
        monitor.update(normal(3), torch.zeros(3, 2), labels=torch.zeros(3), dense=torch.zeros(4, 2))
    with pytest.raises(ValueError, match="wanted"):
        monitor.update(normal(3, 2), torch.zeros(3, 2), labels=torch.zeros(3))
    after = monitor.state_dict()
    assert torch.equal(after["rates"], before["rates"])
    assert torch.equal(after["counts"], before["counts"])
