"""The recipe in docs/anytime.md: a pass that crashed goes on from its last save, to the counts of an uninterrupted one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyprune_fast import score_model
from pyprune_fast.demo import toy

DOCS = Path(__file__).parents[1] / "docs" / "anytime.md"


class CrashError(Exception):
    pass


def broken(batches: list[tuple[Tensor, Tensor]], at: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from batches[:at]
    raise CrashError


def test_recipe(tmp_path: Path) -> None:
    code = re.search(r"<!-- resume -->\n```python\n(.*?)```\n<!-- /resume -->", DOCS.read_text(), re.S)
    recipe: dict[str, Any] = {}
    exec(code[1], recipe)
    model, batches, file = toy.model(), toy.batches(12, seed=1, size=128), tmp_path / "counts.pt"
    seen: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    for at in (7, 10):  # saved after 6 and after 9 batches
        with pytest.raises(CrashError):
            recipe["count"](model, broken(batches, at), file, every=3)
    assert torch.load(file, weights_only=True)["done"] == 9
    seen.clear()
    found = recipe["count"](model, batches, file, every=3)
    assert seen.count(128) == 4 + 4 + 3  # levels and counts of the first batches, then what was not saved
    wanted = score_model(model, batches)
    for layer, estimator in wanted.estimators.items():
        assert torch.equal(found[layer].counts, estimator.counts)
        assert torch.equal(found[layer].levels.edges, estimator.levels.edges)
        assert torch.equal(found[layer].compute(), wanted.layers[layer])
    assert [path.name for path in tmp_path.iterdir()] == ["counts.pt"]
