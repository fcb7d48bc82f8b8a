"""The laws of all estimators; the entropies and informations against plain loops, golden values and statistics."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import oracle
import pytest
import torch
from oracle import GOLDEN, LN2, TOLERANCE, close
from strategies import edges, values
from torch import Tensor

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Estimator, Levels

C, K, L = 3, 3, 5
LEVELS = Levels(edges(C, L, seed=3))
MAKE: dict[str, Callable[[], Estimator]] = {
    "AuraEntropy": lambda: AuraEntropy(LEVELS),
    "AuraEntropy of the matrix": lambda: AuraEntropy(LEVELS, relative=False, merge_offsets=True, correction="plug-in"),
    "AuraInformation": lambda: AuraInformation(LEVELS, num_classes=K),
    "AuraInformation on a torus": lambda: AuraInformation(LEVELS, num_classes=K, periodic=True, neighborhood=[(2, -1)]),
    "ChannelInformation": lambda: ChannelInformation(LEVELS, num_classes=K, correction="plug-in"),
}
every = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
Make = Callable[[], Estimator]
Batch = tuple[Tensor, Tensor]


def batches(sizes: Iterable[int] = (5, 1, 0, 7), seed: int = 0) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    labels = [torch.randint(K, (n,), generator=generator) for n in sizes]
    return [(values(LEVELS, (len(y), C, 5, 4), torch.float32, seed=seed + i), y) for i, y in enumerate(labels)]


def fed(estimator: Estimator, *parts: Batch) -> Estimator:
    for x, labels in parts:
        assert estimator.update(x, labels) is estimator
    return estimator


def assert_same(a: Estimator, b: Estimator) -> None:
    """The same state, and so the same result, bit for bit."""
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    if "counts" in mine:
        assert torch.equal(a.compute(), b.compute())


# --- laws of all estimators ----------------------------------------------------------------------------------------------


@every
def test_result(make: Make) -> None:
    result = fed(make(), *batches()).compute()
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
    for bad, error, text in (
        (other, TypeError, f"^merge: wanted {name}, got {type(other).__name__}$"),
        (configured, ValueError, "^merge: wanted the same configuration .*correction"),
        (used.with_levels(Levels(LEVELS.edges + 1)), ValueError, "^merge: wanted the same levels, got other edges$"),
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


@pytest.mark.parametrize("cls", [AuraEntropy, AuraInformation, ChannelInformation])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"levels": LEVELS.edges}, TypeError, r"levels: wanted Levels, got \(3, 4\) float32"),
        ({"num_classes": 0}, ValueError, "num_classes: wanted at least 1, got 0$"),
        ({"num_classes": 2.0}, TypeError, "num_classes: wanted an int, got float 2.0$"),
        ({"correction": "best"}, ValueError, "correction: wanted 'plug-in' or 'miller-madow', got 'best'$"),
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


# --- entropies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_golden_entropies(name: str, neighborhood: str) -> None:
    """method.md gives six digits, in bits."""
    image, _, *bits = GOLDEN[name]
    aura = AuraEntropy(Levels(oracle.golden_levels(image)), relative=False, neighborhood=neighborhood, correction="plug-in")
    found = aura.update(torch.tensor(image, dtype=torch.float32)[None, None]).compute().item() / LN2
    assert abs(found - bits[neighborhood == "moore"]) <= 1e-6


@pytest.mark.parametrize("correction", ["plug-in", "miller-madow"])
def test_entropies_term_by_term(correction: Any) -> None:
    """Relative: H(C_r) / H(0) - 1, here as 1 - I(X_s; X_s+r) / H(0). Of the matrix: H(A)."""
    relative = fed(AuraEntropy(LEVELS, neighborhood="moore", correction=correction), *batches())
    of_matrix = fed(AuraEntropy(LEVELS, neighborhood="moore", correction=correction, relative=False), *batches())
    corrected = correction != "plug-in"
    for c, tables in enumerate(relative.counts.sum(1)):
        terms = []
        for table in tables.tolist():
            pair = oracle.entropy((n for row in table for n in row), corrected)
            both = [oracle.entropy(map(sum, t), corrected) for t in (table, zip(*table, strict=True))]
            terms.append(1 - (sum(both) - pair) / (sum(both) / 2))
        assert close(relative.compute()[c], math.fsum(terms) / len(terms))
        assert close(of_matrix.compute()[c], oracle.entropy((tables + tables.mT).sum(0).flatten().tolist(), corrected))


def test_redundant_neighbours() -> None:
    """Every site tells its neighbour: AME 0. A checkerboard along both axes, any row repeated along one."""
    board = torch.tensor(GOLDEN["checkerboard"][0], dtype=torch.float32)[None, None]
    aura = AuraEntropy(Levels(torch.tensor([[0.5]])), periodic=True, correction="plug-in")
    assert close(aura.update(board).compute(), 0.0)
    columns = AuraEntropy(Levels(torch.tensor([[0.5]])), neighborhood=[(1, 0)], correction="plug-in")
    assert close(columns.update(torch.tensor([0.0, 1, 1, 0, 1, 1, 1]).expand(1, 1, 8, 7)).compute(), 0.0)


def test_independent_neighbours() -> None:
    """AME = 1 - I / H(0) on i.i.d. sites, where 2 pairs I is chi-square of (L-1)^2 degrees: within 5 standard deviations."""
    levels, side = Levels.uniform(0, 1, 8), 64
    x = torch.rand(20, 1, side, side, generator=torch.Generator().manual_seed(1))
    ame = AuraEntropy(levels, correction="plug-in").update(x).compute().item()
    pairs, freedom = 20 * side * (side - 1), 7**2
    assert 0 < 1 - ame <= (freedom + 5 * math.sqrt(2 * freedom)) / (2 * pairs * math.log(8)) * 1.01  # H(0) within 1 % of log 8


@pytest.mark.parametrize("change", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: x.flip(-1, -2)])
@pytest.mark.parametrize("neighborhood", ["axial", "moore"])
def test_flips_keep_the_matrix_entropy(change: Any, neighborhood: str) -> None:
    ((x, _),) = batches((6,))
    aura = AuraEntropy(LEVELS, relative=False, neighborhood=neighborhood)
    assert torch.equal(aura.with_levels(LEVELS).update(change(x)).compute(), aura.update(x).compute())


# --- information ---------------------------------------------------------------------------------------------------------


def test_information_term_by_term() -> None:
    """Total and histogram by their formulas; the spatial gain as I(X_s+r; Y | X_s), by its own."""
    aura = fed(AuraInformation(LEVELS, num_classes=K, correction="plug-in"), *batches())
    parts = aura.parts()
    assert torch.equal(parts.total, aura.compute())
    for c, counts in enumerate(aura.counts.transpose(1, 2).tolist()):  # (R, K, L, L)
        total = histogram = spatial = 0.0
        for tables in counts:
            pairs = sum(n for table in tables for row in table for n in row)
            total += oracle.information([[n for row in table for n in row] for table in tables]) / len(counts)
            histogram += oracle.information([[sum(row) for row in table] for table in tables]) / len(counts)
            for g in range(L):
                given_g = [table[g] for table in tables]
                if weight := sum(map(sum, given_g)) / pairs:
                    spatial += weight * oracle.information(given_g) / len(counts)
        assert close(parts.total[c], total)
        assert close(parts.histogram[c], histogram)
        assert close(parts.spatial[c], spatial)


@pytest.mark.parametrize("correction", ["plug-in", "miller-madow"])
def test_bounds_and_parts(correction: Any) -> None:
    """Plug-in: AME in [0, 1], H_A in [0, 2 log L], information and its parts in [0, log K]. Histogram + spatial = total."""
    for seed in range(20):
        aura, plain, ame, of_matrix = (
            fed(criterion.with_levels(LEVELS, K), *batches((4, 5), seed))
            for criterion in (
                AuraInformation(correction=correction), ChannelInformation(correction=correction),
                AuraEntropy(correction=correction), AuraEntropy(correction=correction, relative=False),
            )
        )  # fmt: skip
        total, histogram, spatial = aura.parts()
        assert close(total, (histogram + spatial).clamp(min=0))
        tables = plain.counts.tolist()
        by_term = [max(0.0, oracle.information(t, correction != "plug-in")) for t in tables]
        assert close(plain.compute(), torch.tensor(by_term, dtype=torch.float64))
        if correction == "plug-in":
            bounds = [(total, math.log(K)), (histogram, math.log(K)), (spatial, math.log(K)), (plain.compute(), math.log(K))]
            for result, largest in (*bounds, (ame.compute(), 1), (of_matrix.compute(), 2 * math.log(L))):
                assert (result >= -TOLERANCE).all()
                assert (result <= largest + TOLERANCE).all()
