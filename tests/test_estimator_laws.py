"""The laws that all estimators keep: merging, splitting, resuming, refusing."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from feeding import LEVELS, C, K, batches, fed
from strategies import values
from torch import Tensor

from pyprune_fast import (
    AuraEntropy,
    AuraInformation,
    ChannelInformation,
    Estimator,
    Levels,
    LiteralAura,
    PairInformation,
    PermutationTest,
)

MAKE: dict[str, Callable[[], Estimator]] = {
    "AuraEntropy": lambda: AuraEntropy(LEVELS),
    "AuraEntropy of the matrix": lambda: AuraEntropy(LEVELS, relative=False, merge_offsets=True, correction="plug-in"),
    "AuraInformation": lambda: AuraInformation(LEVELS, num_classes=K),
    "AuraInformation on a torus": lambda: AuraInformation(LEVELS, num_classes=K, periodic=True, neighborhood=[(2, -1)]),
    "ChannelInformation": lambda: ChannelInformation(LEVELS, num_classes=K, correction="plug-in"),
    "LiteralAura": lambda: LiteralAura(LEVELS, num_classes=K, neighborhood="moore"),
    "PairInformation": lambda: PairInformation(LEVELS, num_classes=K),
    "PairInformation by class": lambda: PairInformation(LEVELS, num_classes=K, order="jmi"),
    "PairInformation without labels": lambda: PairInformation(LEVELS, order="diversity", reduce="max"),
    "PermutationTest": lambda: PermutationTest(LEVELS, num_classes=K, blocks=3, permutations=9),
    "PermutationTest of channels": lambda: PermutationTest(LEVELS, num_classes=K, criterion=ChannelInformation()),
}
every = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
Make = Callable[[], Estimator]


def assert_same(a: Estimator, b: Estimator) -> None:
    """The same state, and so the same result, bit for bit."""
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    if "counts" in mine:
        assert torch.equal(a.compute(), b.compute())


@every
def test_result(make: Make) -> None:
    result = fed(make(), *((x + labels[:, None, None, None], labels) for x, labels in batches())).compute()
    assert (result.shape, result.dtype) == ((C,), torch.float64)
    assert result.isfinite().all()
    assert len(set(result.tolist())) == C  # three different channels


@every
def test_split_is_the_whole(make: Make) -> None:
    parts = batches()
    whole = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
    assert_same(fed(make(), *parts), fed(make(), whole))


@every
def test_merge_is_commutative_and_associative(make: Make) -> None:
    parts = batches()
    wanted = fed(make(), *parts)
    for order in permutations(parts):
        first, second, *others = (fed(make(), part) for part in order)
        assert first.merge(second.merge(*others)) is first
        assert_same(first, wanted)
        one_by_one = make()
        for part in order:
            one_by_one.merge(fed(make(), part))
        assert_same(one_by_one, wanted)


@every
def test_merge_leaves_the_others_alone(make: Make) -> None:
    first, second = batches((2, 3))
    other = fed(make(), first)
    merged = make().merge(make(), other, make())
    assert_same(merged, other)
    fed(merged, second).merge(other)
    assert_same(other, fed(make(), first))
    assert_same(merged, fed(make(), first, second, first))
    assert_same(fed(make(), first).merge(make()), other)


@every
def test_reset_is_new(make: Make) -> None:
    first, second = batches((2, 3))
    used = fed(make(), first).reset()
    assert_same(used, make())
    assert_same(fed(used, second), fed(make(), second))


@every
def test_with_levels_is_new(make: Make) -> None:
    (batch,) = batches((4,))
    used = fed(make(), batch)
    assert_same(fed(used.with_levels(LEVELS), batch), used)
    other = Levels(LEVELS.edges + 1)
    assert used.with_levels(other).levels is other
    assert_same(used, fed(make(), batch))


@every
def test_state_round_trip(make: Make) -> None:
    first, second = batches((2, 3))
    used = fed(make(), first)
    file = io.BytesIO()
    torch.save(used.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    loaded = make().load_state_dict(state)
    assert_same(loaded, used)
    fed(loaded, second)  # the state that it came from is not its own
    assert_same(make().load_state_dict(state), used)
    state = used.state_dict()
    fed(used, second)
    assert_same(make().load_state_dict(state), fed(make(), first))
    assert_same(make().load_state_dict(make().state_dict()), make())


@every
def test_a_pass_is_resumed_in_its_middle(make: Make) -> None:
    """From a file, by another process: an estimator made anew, which knows only its configuration."""
    parts = batches((3, 2, 4, 1))
    file = io.BytesIO()
    torch.save(fed(make(), *parts[:2]).state_dict(), file)
    file.seek(0)
    resumed = make().with_levels(Levels(torch.zeros(1, 1))).load_state_dict(torch.load(file, weights_only=True))
    assert_same(fed(resumed, *parts[2:]), fed(make(), *parts))
    assert_same(make().merge(resumed), fed(make(), *parts))


@every
def test_counts_that_are_too_large(make: Make) -> None:
    """Refused before anything is allocated; the size is known beforehand, and exact."""
    ((x, labels),) = batches((2,))
    estimator = fed(make(), (x, labels))
    size = estimator.counts.numel() * 8
    assert make().state_bytes(2) == make().with_levels(LEVELS, K).state_bytes(2) == size
    small = make()
    small.max_bytes = size
    assert_same(small.update(x, labels), estimator)
    assert small.merge(estimator).with_levels(LEVELS).max_bytes == size  # no part of the configuration, but kept
    small = small.with_levels(LEVELS)
    small.max_bytes = size - 1
    wanted = rf"counts: wanted at most {size - 1:,} bytes \(max_bytes\), got \(.*\) int64 = {size:,} bytes; smaller with "
    with pytest.raises(ValueError, match=f"^{type(small).__name__}: {wanted}"):
        small.update(x, labels)
    assert_same(small, make())
    with pytest.raises(RuntimeError, match="wanted levels before state_bytes, got none"):
        type(small)(num_classes=K).state_bytes()


@every
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_copies_are_independent(make: Make, copied: Callable[[Estimator], Estimator]) -> None:
    first, second = batches((2, 3))
    used = fed(make(), first)
    twin = copied(used)
    assert_same(twin, used)
    fed(twin, second)
    assert_same(used, fed(make(), first))
    assert_same(twin, fed(make(), first, second))
    assert_same(copied(make()), make())
    used.merge(twin)  # still of one configuration


@every
def test_state_does_not_grow(make: Make) -> None:
    sizes = {len(pickle.dumps(fed(make(), *batches((3,) * n)))) for n in (1, 2, 20)}
    assert len(sizes) == 1


@every
def test_order_of_calls(make: Make) -> None:
    ((x, labels),) = batches((2,))
    name = type(make()).__name__
    with pytest.raises(RuntimeError, match=rf"^{name}: wanted an update before compute, got none$"):
        make().compute()
    with pytest.raises(RuntimeError, match=rf"^{name}: wanted an update before compute, got none$"):
        _ = fed(make(), (x, labels)).reset().counts
    bare = type(make())(num_classes=K)
    with pytest.raises(RuntimeError, match=rf"^{name}: wanted levels before update, got none; see with_levels$"):
        bare.update(x, labels)
    assert_same(fed(bare.with_levels(LEVELS), (x, labels)), fed(type(bare)(LEVELS, num_classes=K), (x, labels)))


FAILING: list[tuple[Callable[[Tensor, Tensor], tuple[Any, Any]], type[Exception]]] = [
    (lambda x, labels: (x.tolist(), labels), TypeError),
    (lambda x, labels: (x.int(), labels), TypeError),
    (lambda x, labels: (x[:, :2], labels), ValueError),
    (lambda x, labels: (x[..., None, None], labels), ValueError),
]


@every
@pytest.mark.parametrize("seen", [(), (4,)], ids=["first", "later"])
@pytest.mark.parametrize(("spoil", "error"), FAILING)
def test_failing_update_changes_nothing(make: Make, seen: tuple[int, ...], spoil: Any, error: type[Exception]) -> None:
    estimator, wanted = fed(make(), *batches(seen)), fed(make(), *batches(seen))
    with pytest.raises(error):
        estimator.update(*spoil(*batches((3,), seed=9)[0]))
    assert_same(estimator, wanted)
    assert_same(make().load_state_dict(estimator.state_dict()), wanted)


@every
@pytest.mark.parametrize("seen", [(), (4,)], ids=["first", "later"])
def test_failing_labels_change_nothing(make: Make, seen: tuple[int, ...]) -> None:
    if not make().needs_labels:
        assert_same(make().update(batches((3,))[0][0], "ignored"), fed(make(), *batches((3,))))
        return
    ((x, labels),) = batches((3,), seed=9)
    estimator, wanted = fed(make(), *batches(seen)), fed(make(), *batches(seen))
    for bad, error in ((None, ValueError), (labels + K, ValueError), (labels[:2], ValueError), (labels.float(), TypeError)):
        with pytest.raises(error, match="labels: wanted"):
            estimator.update(x, bad)
        assert_same(estimator, wanted)


@every
def test_failing_merge_is_refused(make: Make) -> None:
    used = fed(make(), *batches())
    name = type(used).__name__
    other = ChannelInformation(LEVELS) if name != "ChannelInformation" else AuraEntropy(LEVELS)
    configured = copy.deepcopy(used)
    configured.correction = "plug-in" if used.correction == "miller-madow" else "miller-madow"
    without = copy.deepcopy(used).reset()
    without.levels = None
    for bad, error, text in (
        (other, TypeError, f"^merge: wanted {name}, got {type(other).__name__}$"),
        (configured, ValueError, "^merge: wanted the same configuration .*correction"),
        (used.with_levels(Levels(LEVELS.edges + 1)), ValueError, "^merge: wanted the same levels, got other edges$"),
        (without, ValueError, "^merge: wanted the same levels, got other edges$"),
    ):
        with pytest.raises(error, match=text):
            used.merge(make(), bad)
        assert_same(used, fed(make(), *batches()))


@every
def test_nan_is_refused_when_read(make: Make) -> None:
    ((x, labels),) = batches((3,))
    x[1, 2, 0, 0] = x[0, 2, 3, 3] = torch.nan
    used = fed(make(), (x, labels), *batches((2,)))
    for estimator in (used, make().merge(used), make().load_state_dict(used.state_dict())):
        with pytest.raises(ValueError, match=rf"^{type(used).__name__}: x: .*NaN at 2 sites, in channels 2$"):
            estimator.compute()
    with pytest.raises(ValueError, match=r"NaN at 4 sites, in channels 2$"):
        used.merge(copy.deepcopy(used)).compute()


@every
def test_load_refuses(make: Make) -> None:
    with pytest.raises(ValueError, match=r"^load_state_dict: wanted edges, counts and nans, got \['x'\]$"):
        make().load_state_dict({"x": LEVELS.edges})
    with pytest.raises(ValueError, match=r"^load_state_dict: wanted counts and nans together, got \['counts'\]$"):
        make().load_state_dict({"counts": fed(make(), *batches()).counts})


@every
def test_dead_channel_scores_zero(make: Make) -> None:
    """Exactly, whatever the number of images: ties are broken by index."""
    for n in range(1, 60):
        x = values(LEVELS, (n, C, 3, 3), torch.float32, seed=n)
        x[:, 1] = 0.25
        assert fed(make(), (x, torch.arange(n) % K)).compute()[1] == 0


@every
def test_scaling_changes_nothing(make: Make) -> None:
    """By a power of two, with the edges: exactly."""
    x = torch.randn(6, C, 5, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % K
    levels = Levels(torch.tensor([[-1.0, -0.25, 0.5, 1.0]] * C))
    wanted = make().with_levels(levels).update(x, labels).compute()
    for scale in (2.0**-20, 8.0):
        scaled = make().with_levels(Levels(levels.edges * scale)).update(x * scale, labels)
        assert torch.equal(scaled.compute(), wanted)


@pytest.mark.parametrize("cls", [AuraEntropy, AuraInformation, ChannelInformation, LiteralAura, PairInformation])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"levels": LEVELS.edges}, TypeError, r"levels: wanted Levels, got \(3, 4\) float32"),
        ({"num_classes": 0}, ValueError, "num_classes: wanted at least 1, got 0$"),
        ({"num_classes": 2.0}, TypeError, "num_classes: wanted an int, got float 2.0$"),
        ({"correction": "best"}, ValueError, "correction: wanted 'plug-in', .* or 'jackknife', got 'best'$"),
    ],
)
def test_refuses(cls: type[Estimator], options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{cls.__name__}: {text}"):
        cls(**options)


@pytest.mark.parametrize("cls", [AuraEntropy, AuraInformation])
@pytest.mark.parametrize(("neighborhood", "error"), [("hex", ValueError), (5, TypeError), ([(0.5, 1)], TypeError)])
def test_neighborhood_is_refused_at_once(cls: type[Estimator], neighborhood: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="neighborhood: wanted"):
        cls(neighborhood=neighborhood)


@pytest.mark.parametrize("shape", [(4, C), (4, C, 1), (4, C, 1, 1)])
def test_maps_of_one_site(shape: tuple[int, ...]) -> None:
    x, labels = torch.zeros(shape), torch.arange(4) % K
    for estimator in (AuraEntropy(LEVELS), AuraInformation(LEVELS, num_classes=K)):
        with pytest.raises(ValueError, match="x: wanted maps of several sites, since it counts neighbours, got "):
            estimator.update(x, labels)
    instead = AuraInformation(num_classes=K, correction="plug-in").without_pairs()
    assert (type(instead), instead.num_classes, instead.correction) == (ChannelInformation, K, "plug-in")
    assert instead.with_levels(LEVELS).update(x, labels).compute().tolist() == [0] * C
    assert AuraEntropy().without_pairs() is None


def test_number_of_classes_is_needed() -> None:
    for estimator in (AuraInformation(LEVELS), ChannelInformation(LEVELS)):
        with pytest.raises(ValueError, match=r"num_classes: wanted the number of classes, got None$"):
            estimator.update(*batches()[0])
        assert estimator.with_levels(LEVELS, 4).num_classes == 4
    assert AuraInformation(num_classes=2).with_levels(LEVELS, 4).num_classes == 2
