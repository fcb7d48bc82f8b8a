"""Which claims of Musat & Andonie's paper the rows support: rules that were fixed before the rows of claims.py were there.

A claim falls into cases. A case has an effect with a 95 % interval and a limit: it speaks for the claim if all of the interval
is on the claim's side of the limit, against it if all of it is on the other side, and is open otherwise. The verdict needs more
than half of the cases to be decided, and is "mixed" unless nine tenths of those speak alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from distances import MIDDLE, ks, overlap, shape_distance, standardised
from record import ROOT, caption, table
from scipy.stats import kendalltau, spearmanr

from pyprune_fast.study import Difference, paired, read

SAE, LITERAL = READINGS = ("sae", "literal")
PLAIN, RENYI, SEARCHED = "plain information", "Renyi by rule", "Renyi after HRel"
H_A, AME = "H_A", "AME"
MEASURES = (SAE, LITERAL, H_A, AME, PLAIN, RENYI, SEARCHED)
RESULTS = ROOT / "bench" / "results"

Distance = Callable[[Sequence[float], Sequence[float]], tuple[float, float, float]]
ALIKE = NormalDist().cdf(-1)  # the KS distance between a normal and an exponential distribution of equal mean and deviation
SHARED = 0.5  # of the ranges
AS_GOOD = 0.5  # percentage points of accuracy
DECIDED, ALL_BUT = 0.5, 0.9


@dataclass(frozen=True)
class Case:
    """An effect and its interval; the claim says that it is above the limit, or `below` it."""

    name: str
    effect: float
    low: float
    high: float
    limit: float = 0.0
    below: bool = False
    beside: str = ""  # the rival, where it has a column of its own

    @property
    def says(self) -> str:
        """for, against, open."""
        above, under = self.low > self.limit, self.high < self.limit
        return "open" if not (above or under) else "against" if above == self.below else "for"


def verdict(cases: Sequence[Case]) -> str:
    """The word, and what it stands on."""
    if not cases:
        return "no rows yet"
    found = [case.says for case in cases]
    pro, contra, undecided = (found.count(word) for word in ("for", "against", "open"))
    decided = pro + contra
    if decided <= DECIDED * len(cases):
        word = "undecided"
    elif max(pro, contra) < ALL_BUT * decided:
        word = "mixed"
    else:
        word = "supported" if pro > contra else "not supported"
    return f"**{word}**: {pro} for, {contra} against, {undecided} open"


def case_of(name: str, found: Difference, limit: float = 0.0, beside: str = "") -> Case:
    """A mean difference with its interval by Student's t."""
    return Case(name, found.mean, found.mean - found.half, found.mean + found.half, limit, beside=beside)


# --- The cases, from the rows ---------------------------------------------------------------------------------------------


def cost(results: Any, reading: str) -> Iterator[Case]:
    """Logarithm of how many times our CPU time the competitor takes, paired by block of images."""
    for network, found in results["networks"].items():
        for rival in (SEARCHED, RENYI):
            logs = ([math.log(seconds) for seconds in found["cost"][name]] for name in (rival, reading))
            yield case_of(network, paired(*logs), beside=rival)


def steadier(results: Any, reading: str) -> Iterator[Case]:
    """By how much our tau under noise is higher, mean over layers, paired by draw of noise."""
    for network, found in results["networks"].items():
        for level, by_measure in found["noise"].items():
            for rival in (SEARCHED, RENYI, PLAIN):
                both = by_measure[reading], by_measure[rival]
                layers = [layer for layer in both[0] if not any(math.isnan(tau) for by in both for tau in by[layer])]
                means = ([fmean(taus) for taus in zip(*(by[layer] for layer in layers), strict=True)] for by in both)
                if layers:
                    yield case_of(f"{network}, noise {level}", paired(*means), beside=rival)


def layerwise(results: Any, reading: str, distance: Distance, limit: float) -> Iterator[Case]:
    """A distance between the scores of a layer's filters by ours and by the competitor."""
    for network, found in results["networks"].items():
        for layer, values in found["scores"][reading].items():
            for rival in (SEARCHED, RENYI):
                apart = distance(values, found["scores"][rival][layer])
                yield Case(f"{network}, layer {layer}, {len(values)} filters", *apart, limit, True, rival)


def indifferent(results: Any, reading: str, word: Callable[[str], bool]) -> Iterator[Case]:
    """By how much the tau against the default is above that between halves of the images, paired by layer."""
    for network, found in results["networks"].items():
        halves = found["sensitivity"]["halves"][reading]
        for setting, by_reading in found["sensitivity"].items():
            both = {layer: (tau, halves[layer]) for layer, tau in by_reading[reading].items()}
            kept = [pair for pair in both.values() if not any(map(math.isnan, pair))]
            if word(setting) and len(kept) > 1:
                yield case_of(f"{network}, {setting}", paired(*zip(*kept, strict=True)))


@dataclass(frozen=True)
class Run:
    """A pruned and fine-tuned network; accuracies in percent."""

    target: str  # network, study and how much was removed
    criterion: str
    seed: int
    tuned: float


def runs(folder: Path = RESULTS) -> list[Run]:
    """Those of the criteria study and of the laboratory of docs/quality.md, as far as there are rows."""
    found = []
    for file in sorted(folder.glob("study-criteria-*.jsonl")):
        for row in read(file):
            target = f"{file.stem.removeprefix('study-criteria-')}, criteria study, -{row['remove']:.0%}"
            found.append(Run(target, row["criterion"], row["seed"], 100 * row["last"]))
    for row in read(folder / "quality.jsonl"):
        target = f"{row['network']}, laboratory, {row['steps']} steps, -{row['remove']:.0%}"
        found.append(Run(target, row["method"], row["seed"], row["tuned"]))
    return found


def pruned(found: Sequence[Run], reading: str, rivals: Sequence[str], limit: float) -> Iterator[Case]:
    """By how many points ours is better after fine-tuning, paired by seed; of three seeds and more."""
    cells: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in found:
        cells[run.target][run.criterion][run.seed] = run.tuned
    for target, by_criterion in cells.items():
        ours = by_criterion.get(reading, {})
        for rival in rivals:
            theirs = by_criterion.get(rival, {})
            seeds = [seed for seed in ours if seed in theirs]
            if len(seeds) > 2:
                difference = paired([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
                yield case_of(f"{target}, {rival}", difference, limit)


# --- Claims ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What the paper says, what would speak for it ({}: the rival), its marker in the docs, and its cases for a reading."""

    says: str
    support: str
    marker: str
    cases: Callable[[Any, str], Iterator[Case]]
    show: Callable[[float], str] = lambda effect: f"{effect:+.3f}"


WEIGHTS = ("l1", "l2", "fpgm", "taylor")
CLAIMS = (
    Claim("cheaper than {}", "{} takes more CPU time", "cost", cost, lambda effect: f"x {math.exp(effect):.2f}"),
    Claim("less sensitive to noise than {}", "tau under noise is higher than that of {}", "noise", steadier),
    Claim(
        "prunes as well as Renyi after HRel or better", f"accuracy is less than {AS_GOOD} points below its", "pruning renyi",
        lambda results, reading: pruned(runs(), reading, ("renyi",), -AS_GOOD), lambda effect: f"{effect:+.2f}",
    ),
    Claim(
        "prunes as well as other criteria or better", f"accuracy is less than {AS_GOOD} points below theirs", "pruning",
        lambda results, reading: pruned(runs(), reading, WEIGHTS, -AS_GOOD), lambda effect: f"{effect:+.2f}",
    ),
    Claim(
        "prunes better than random order (control)", "accuracy is higher", "pruning random",
        lambda results, reading: pruned(runs(), reading, ("random",), 0), lambda effect: f"{effect:+.2f}",
    ),
    Claim(
        "values range elsewhere than those of {}", f"less than {SHARED:.0%} of both ranges is shared", "ranges",
        lambda results, reading: layerwise(results, reading, overlap, SHARED), lambda effect: f"{effect:.2f}",
    ),
    Claim(
        "values are distributed as those of {}", f"KS distance of standardised scores is below {ALIKE:.3f}", "distributions",
        lambda results, reading: layerwise(results, reading, shape_distance, ALIKE), lambda effect: f"{effect:.2f}",
    ),
    Claim(
        "the number of levels matters little", "another number moves ranks less than another draw of images", "levels",
        lambda results, reading: indifferent(results, reading, lambda name: name.endswith(" levels")),
    ),
    Claim(
        "the neighbourhood matters little", "another one moves ranks less than another draw of images", "neighbourhood",
        lambda results, reading: indifferent(results, reading, lambda name: "Moore" in name or "axial" in name),
    ),
)  # fmt: skip


def verdicts(results: Any) -> str:
    """One line a claim and rival."""
    rows = []
    for claim in CLAIMS:
        found = {reading: list(claim.cases(results, reading)) for reading in READINGS}
        for rival in dict.fromkeys(case.beside for of_reading in found.values() for case in of_reading) or [""]:
            words = (verdict([case for case in of_reading if case.beside == rival]) for of_reading in found.values())
            rows.append([claim.says.format(rival), claim.support.format(rival), *words])
    return table(["claim", "supported if", *(f"`{reading}`" for reading in READINGS)], rows)


def cases(claim: Claim, results: Any) -> str:
    """One line a case, readings and rivals side by side."""
    found: dict[str, dict[tuple[str, str], Case]] = defaultdict(dict)
    for reading in READINGS:
        for case in claim.cases(results, reading):
            found[case.name][reading, case.beside] = case
    if not found:
        return "No rows yet."
    columns = list(dict.fromkeys(key for by in found.values() for key in by))
    header = [f"`{reading}`" + f" beside {rival}" * bool(rival) for reading, rival in columns]
    return table(["case", *header], [[name, *(_case(claim, by.get(key)) for key in columns)] for name, by in found.items()])


def _case(claim: Claim, case: Case | None) -> str:
    if case is None:
        return ""
    return f"{claim.show(case.effect)} ({claim.show(case.low)} to {claim.show(case.high)}): {case.says}"


# --- Tables ---------------------------------------------------------------------------------------------------------------


def tables(results: Any) -> dict[str, str]:
    """Every marker's text."""
    about = f"{results['images']:,} images, half of them but for other levels, neighbourhoods and numbers of images."
    return {claim.marker: cases(claim, results) for claim in CLAIMS} | {
        "verdicts": verdicts(results) + "\n\n" + caption(results["machine"], about),
        "seconds": seconds(results),
        "stability": stability(results),
        "values": "\n\n".join(values(name, found) for name, found in results["networks"].items()),
        "agreement": agreement(results),
        "sensitivity": sensitivity(results),
    }


def seconds(results: Any) -> str:
    """CPU time."""
    cells = [
        [name, measure, *_seconds(blocks)] for name, f in results["networks"].items() for measure, blocks in f["cost"].items()
    ]
    return table(["network", "score", "CPU ms an image", "least to greatest of the blocks"], cells)


def _seconds(blocks: Sequence[float]) -> tuple[str, str]:
    return f"{1e3 * fmean(blocks):.2f}", f"{1e3 * min(blocks):.2f} to {1e3 * max(blocks):.2f}"


def stability(results: Any) -> str:
    """Tau under noise."""
    measures = (SAE, LITERAL, PLAIN, RENYI, SEARCHED)
    cells = [
        [name, level, *(_spread([fmean(taus) for taus in by[measure].values()]) for measure in measures)]
        for name, found in results["networks"].items() for level, by in found["noise"].items()
    ]  # fmt: skip
    return table(["network", "noise, deviations", *measures], cells)


def sensitivity(results: Any) -> str:
    """Tau against the default."""
    cells = [
        [name, setting, *(_spread(list(by[reading].values())) for reading in READINGS)]
        for name, found in results["networks"].items() for setting, by in found["sensitivity"].items()
    ]  # fmt: skip
    return table(["network", "setting", *(f"`{reading}`" for reading in READINGS)], cells)


def _spread(values: Sequence[float]) -> str:
    """Mean over layers, least and greatest; layers whose scores are all equal have no tau."""
    known = [value for value in values if not math.isnan(value)]
    return f"{fmean(known):.2f} ({min(known):.2f} to {max(known):.2f})" if known else "none"


def values(name: str, found: Any) -> str:
    """The middle 90 % of the values in each layer."""
    rows = [
        [layer, shape["filters"], shape["sites"], *(_range(found["scores"][measure][layer]) for measure in MEASURES)]
        for layer, shape in found["layers"].items()
    ]
    return table([f"{name}: layer", "filters", "sites", *MEASURES], rows)


def _range(values: Sequence[float]) -> str:
    low, high = np.percentile(values, MIDDLE)
    return f"{low:.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.3f}"  # the table scrolls


def agreement(results: Any) -> str:
    """Rank correlations and KS distances with every other measure."""
    rows = []
    for name, found in results["networks"].items():
        scores = found["scores"]
        for reading in READINGS:
            for other in (measure for measure in MEASURES if measure not in READINGS):
                pairs = [(values, scores[other][layer]) for layer, values in scores[reading].items()]
                taus, rhos = ([_correlation(test, *pair) for pair in pairs] for test in (kendalltau, spearmanr))
                apart = [ks(*(standardised(np.asarray(x)) for x in pair)) for pair in pairs]
                rows.append([name, f"`{reading}`", other, _spread(rhos), _spread(taus), _spread(apart)])
    return table(["network", "score", "beside", "Spearman", "Kendall", "KS"], rows)


def _correlation(test: Any, a: Sequence[float], b: Sequence[float]) -> float:
    """NaN where all of either are equal, which SciPy warns of."""
    return float(test(a, b).statistic) if len(set(a)) > 1 < len(set(b)) else math.nan
