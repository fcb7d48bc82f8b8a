"""Trains the networks of `cifar.py`, once: PYTHONPATH=bench/studies python bench/studies/train_baselines.py [vgg] [resnet20].

SGD (momentum cycled with the rate), one cycle, weight decay 5e-4, batches of 128, images mirrored and moved by up to 4 pixels,
bfloat16 where that is fast. A line of JSON an epoch goes to bench/results/baselines/NAME.jsonl,
the weights to NAME.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cifar
import torch
from record import where_and_when
from safetensors.torch import save_file
from torch import Tensor, nn

from pyprune_fast.demo.batches import Batches, Loaders
from pyprune_fast.prune import accuracy, fast_dtype, fine_tune

EPOCHS = 30
# How to make it, and the peak of its rate.
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], float]] = {"vgg": (cifar.vgg, 0.1), "resnet20": (cifar.resnet20, 0.2)}


class Logged:
    """Training batches; after each pass a line goes to the log."""

    def __init__(self, train: Batches, log: Callable[[], None]) -> None:
        self._train, self._log = train, log

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._train
        self._log()


def train(name: str, folder: Path, data: Loaders, epochs: int) -> None:
    """One network: its log and its weights.

    The accuracy in the log is on the images that studies judge on; nothing is chosen by it, the last weights are kept.
    """
    make, rate = NETWORKS[name]
    net, log, start = make(), folder / f"{name}.jsonl", time.perf_counter()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cifar.initialise(net, seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, object]] = []

    def add(line: dict[str, object]) -> None:
        lines.append(line)
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(name, line, flush=True)

    def epoch() -> None:
        add({"epoch": len(lines) + 1, "test": accuracy(net, data.test), "seconds": round(time.perf_counter() - start)})

    assert isinstance(data.train, Batches)
    steps = epochs * len(data.train)
    # The last pass is never read to its end.
    fine_tune(net, Logged(data.train, epoch), steps=steps, learning_rate=rate, autocast=fast_dtype())
    file = folder / f"{name}.safetensors"
    state = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    stored = accuracy(cifar.trained(make(), file), data.test)
    recipe = {"epochs": epochs, "rate": rate, "autocast": str(fast_dtype()), "seed": 0}
    add({"test": stored, "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), **recipe, **where_and_when()})


def main() -> None:
    """Trains what is named, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    torch.set_num_threads(1)
    for name in parser.parse_args().networks:
        train(name, cifar.BASELINES, cifar.batches(augment=True), EPOCHS)


if __name__ == "__main__":
    main()
