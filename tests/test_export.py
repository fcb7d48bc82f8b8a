"""Cut models leave torch as any other: torch.export, and ONNX computed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from nets import build, outputs
from test_cut_files import halved
from torch import nn

from pyprune_fast.slicing import apply, load_pruned, save_pruned

NETS = ("concat", "depthwise", "residual", "tied", "transposed")


def cut_model(net: str) -> tuple[nn.Module, Any]:
    model, x = build(net)
    apply(model, halved(model, x))
    return model, x


@pytest.mark.parametrize("net", NETS)
def test_torch_export(net: str) -> None:
    model, x = cut_model(net)
    exported = torch.export.export(model, (x,)).module()
    assert all(torch.equal(a, b) for a, b in zip(outputs(exported, x), outputs(model, x), strict=True))
    assert sum(p.numel() for p in exported.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning")  # torch's own exporter
@pytest.mark.parametrize("net", NETS)
def test_onnx_runtime(net: str, tmp_path: Path) -> None:
    """Saved, loaded, exported, and computed elsewhere."""
    model, x = build(net)
    save_pruned(model, tmp_path / "pruned", apply(model, halved(model, x)))
    again = load_pruned(lambda: build(net)[0], tmp_path / "pruned").eval()
    torch.onnx.export(again, (x,), str(tmp_path / "model.onnx"), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for a, b in zip(got, outputs(model, x), strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-4, atol=1e-5)
    shapes = {tuple(p.shape) for p in model.parameters() if p.ndim > 1}
    stored = {tuple(t.dims) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert {s for s in shapes if s in stored or s[::-1] in stored} == shapes
