"""Anytime scoring against the full pass: images used, and overlap of the filters removed, promised and realised.

The demo's CIFAR-10 network and its 10,000 calibration images, in several random orders. In each order every batch is counted
once, by itself; passes with all settings are then replayed from these counts by Anytime, which deals, checks and stops as in
score_model. One of them is compared with score_model itself, and timed.

    PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/anytime.py [--quick]
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from record import ROOT, arguments, caption, table, where_and_when, write
from torch import Tensor

from pyprune_fast import Estimator, score_model
from pyprune_fast.anytime import Anytime
from pyprune_fast.demo import cifar10
from pyprune_fast.demo.batches import Batches
from pyprune_fast.observe import eval_mode, find_taps, observe

REMOVE = (0.25, 0.4, 0.5)
CONFIDENCE = (0.9, 0.95, 0.99)
CALIBRATION = 512  # score_model's default
Counted = dict[str, Estimator]  # layer -> the estimator of one batch


def in_order(seed: int, images: int) -> list[tuple[Tensor, Tensor]]:
    """The calibration images in batches of 128, in a random order."""
    data: Any = cifar10.loaders(calibration_images=images).calibration
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return list(Batches(data.images[order], data.labels[order]))


def counted(net: torch.nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[Counted]:
    """Every batch by itself, with the levels that score_model gives this order."""
    start = score_model(net, batches[: -(-CALIBRATION // 128)]).estimators
    taps = find_taps(net, list(start), batches[0][0][:1])
    parts = []
    for inputs, labels in batches:
        part = {layer: e.with_levels(e.levels) for layer, e in start.items() if e.levels is not None}
        with eval_mode(net), observe(net, part, labels=labels, taps=taps):
            net(inputs)
        parts.append(part)
    return parts


def merged(parts: list[Counted]) -> Counted:
    """The estimators of all batches."""
    return {layer: e.with_levels(e.levels).merge(*(part[layer] for part in parts)) for layer, e in parts[0].items() if e.levels}


def lowest(estimator: Estimator, remove: float) -> set[int]:
    """The channels below the cut."""
    scores = estimator.compute()
    return set(scores.sort(stable=True).indices[: round(remove * len(scores))].tolist())


def replay(
    batches: list[tuple[Tensor, Tensor]], parts: list[Counted], full: Counted, confidence: float, remove: float
) -> dict[str, Any]:
    """One anytime pass over counted batches, beside the full pass of the same order."""
    empty = {layer: e.with_levels(e.levels) for layer, e in full.items() if e.levels is not None}
    scorer = Anytime(empty, confidence, remove, len(batches))
    for _, _, part in scorer.until_settled((x, y, part) for (x, y), part in zip(batches, parts, strict=True)):
        for layer, observer in scorer.observers.items():
            observer.groups[observer.turn].merge(part[layer])
    found = scorer.merged()
    realised = {
        layer: len(lowest(found[layer], remove) & lowest(full[layer], remove)) / len(lowest(full[layer], remove))
        for layer in full
    }
    return {
        "remove": remove,
        "confidence": confidence,
        "images": scorer.images,
        "images_full": sum(len(x) for x, _ in batches),
        "settled": scorer.settled,
        "promised": scorer.overlap,
        "realised": realised,
    }


def timed(net: torch.nn.Module, batches: list[tuple[Tensor, Tensor]], wanted: dict[str, Any]) -> dict[str, float]:
    """Seconds of CPU time of score_model, plain and anytime; the latter stops where its replay did."""
    seconds = {}
    settings = {"confidence": wanted["confidence"], "remove": wanted["remove"]}
    for name, options in (("plain", {}), ("anytime", settings)):
        start = time.process_time()
        scores = score_model(net, batches, **options)
        seconds[name] = time.process_time() - start
        seconds[f"{name}_scoring"] = scores.seconds
        seconds[f"{name}_images"] = scores.images
    assert seconds["anytime_images"] == wanted["images"]
    return seconds


def summary(runs: list[dict[str, Any]]) -> Iterator[list[object]]:
    """A row a setting: means over orders, and over orders and layers."""
    for remove, confidence in itertools.product(REMOVE, CONFIDENCE):
        chosen = [run for run in runs if (run["remove"], run["confidence"]) == (remove, confidence)]
        used = [run["images"] / run["images_full"] for run in chosen]
        promised, realised = (torch.tensor([list(run[key].values()) for run in chosen]) for key in ("promised", "realised"))
        by_layer = realised.mean(0)
        error = (realised.mean(1).std() / len(chosen) ** 0.5).item()
        yield [
            f"{remove:.0%}",
            f"{confidence:.0%}",
            f"{sum(used) / len(used):.0%} ({min(used):.0%} to {max(used):.0%})",
            f"{sum(not run['settled'] for run in chosen)} of {len(chosen)}",
            f"{promised.mean():.1%}",
            f"{realised.mean():.1%} ± {error:.1%}",
            f"{by_layer.min():.1%}",
            f"{(realised.mean(1) >= confidence).float().mean():.0%}",
            f"{(realised >= confidence - 1e-6).float().mean():.0%}",
        ]


HEADER = (
    "remove", "confidence", "images used", "read to the end", "overlap expected", "overlap realised", "of the worst layer",
    "passes that kept it", "layers that kept it",
)  # fmt: skip


def main() -> None:
    """Run the study."""
    parser = arguments("anytime", __doc__.splitlines()[0] if __doc__ else "")
    parser.set_defaults(docs=ROOT / "docs" / "anytime.md")
    parser.add_argument("--orders", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = where_and_when()  # of the code that runs
    net = cifar10.network()
    runs: list[dict[str, Any]] = []
    times: dict[str, float] = {}
    orders, images = (2, 2000) if options.quick else (options.orders, 10_000)
    for seed in range(orders):
        batches = in_order(seed, images)
        parts = counted(net, batches)
        full = merged(parts)
        for remove, confidence in itertools.product(REMOVE, CONFIDENCE):
            runs.append({"order": seed, **replay(batches, parts, full, confidence, remove)})
            if seed == 0 and (remove, confidence) == (0.4, 0.95):
                times = timed(net, batches, runs[-1])
        print(f"order {seed + 1} of {orders}", flush=True)
    about = f"{orders} orders of {images:,} images, batches of 128."
    text = f"{table(HEADER, summary(runs))}\n\n{caption(where, about)}"
    share = times["anytime"] / times["plain"]
    used = times["anytime_images"] / times["plain_images"]
    text += (
        f" The first order at 40 % and 95 %, by score_model: {used:.0%} of the images, {share:.0%} of the plain pass's CPU time"
        f" ({times['anytime']:.1f} s and {times['plain']:.1f} s)."
    )
    write(options, {"machine": where, "times": times, "runs": runs}, {"anytime": text})


if __name__ == "__main__":
    main()
