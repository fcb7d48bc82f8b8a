"""adapters.onnx: an ONNX file in, scored, cut, an ONNX file out, and the same numbers in ONNX Runtime all along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import toy
from nets import build, outputs
from torch import nn

from pyprune_fast import score_model
from pyprune_fast.adapters.onnx import load, save
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Target, count_cost, group_scores, plan_for
from pyprune_fast.slicing import apply

X = toy.batches(1, 3, size=4)[0][0]


def computed(path: Path, x: torch.Tensor) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})


def assert_close(got: list[Any], wanted: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_an_onnx_model_is_scored_cut_and_written_back(tmp_path: Path) -> None:
    save(toy.model(), X, tmp_path / "dense.onnx")
    model = load(tmp_path / "dense.onnx")
    assert_close(computed(tmp_path / "dense.onnx", X), (model(X),))
    scores = score_model(model, toy.batches(8, 1))  # batches of another size than the file's
    groups = find_groups(model, X)
    plan = plan_for(model, groups, group_scores(groups, scores.layers), target=Target("macs", 0.5), example_inputs=X)
    before = count_cost(model, X)
    apply(model, plan)
    assert 1 - count_cost(model, X).macs / before.macs == pytest.approx(0.5, abs=0.06)
    save(model, X, tmp_path / "cut.onnx")
    assert_close(computed(tmp_path / "cut.onnx", X), (model(X),))
    assert (tmp_path / "cut.onnx").stat().st_size < (tmp_path / "dense.onnx").stat().st_size
    again = load(tmp_path / "cut.onnx")  # and what was written can be read and cut once more
    assert {group.channels for group in find_groups(again, X) if not group.fixed} == {
        after for _, after in plan.widths().values()
    }


@pytest.mark.parametrize("net", ["concat", "depthwise", "residual"])
def test_other_networks(net: str, tmp_path: Path) -> None:
    model, x = build(net)
    save(model, x, tmp_path / "model.onnx")
    again = load(tmp_path / "model.onnx")
    groups = [group for group in find_groups(again, x) if not group.fixed]
    assert groups
    for a, b in zip(outputs(again, x), outputs(model, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_no_stand_in_stays() -> None:
    program = """
import sys
from pyprune_fast.adapters.onnx import _torchvision
with _torchvision():
    import torchvision
    stand_in = not hasattr(torchvision, "__file__")
assert stand_in != ("torchvision" in sys.modules)
"""
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_refuses_and_restores(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="load: path: wanted a file, got none at"):
        load(tmp_path / "none.onnx")
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    save(model, torch.zeros(1, 2), tmp_path / "model.onnx")
    assert model.training
