"""The sweep of suggest_levels on the demo's CIFAR-10 network and its 10,000 calibration images.

PYTHONPATH=bench OMP_NUM_THREADS=1 python bench/studies/levels.py [--quick]
"""

from __future__ import annotations

import time

import torch
from record import ROOT, arguments, caption, where_and_when, write

from pyprune_fast import suggest_levels
from pyprune_fast.demo import cifar10


def main() -> None:
    """Run the study."""
    parser = arguments("levels", "The sweep of suggest_levels on the demo's network.")
    parser.set_defaults(docs=ROOT / "docs" / "anytime.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = where_and_when()  # of the code that runs
    images = 1000 if options.quick else 10_000
    net, data = cifar10.network(), cifar10.loaders(calibration_images=images).calibration
    start = time.process_time()
    found = suggest_levels(net, data)
    seconds = time.process_time() - start
    rows = [
        {
            "num_levels": s.num_levels,
            "neighborhood": s.neighborhood,
            "tau": s.tau,
            "bias": s.bias,
            "shift": s.shift,
            "spread": s.spread,
            "nbytes": s.nbytes,
            "bias_ok": s.allowed(None),
        }
        for s in found.settings
    ]
    text = f"```\n{found}\n```\n\n{caption(where, f'{images:,} images, {seconds:.0f} s of CPU time.')}"
    chosen = {"num_levels": found.num_levels, "neighborhood": found.neighborhood}
    write(options, {"machine": where, "seconds": seconds, "suggested": chosen, "settings": rows}, {"levels": text})


if __name__ == "__main__":
    main()
