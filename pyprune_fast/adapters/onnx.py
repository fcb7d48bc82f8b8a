"""ONNX models: read by onnx2torch as modules that can be scored and cut, and written by torch's exporter.

onnx2torch imports torchvision for its two converters of detection operators (NonMaxSuppression, RoiAlign). Where torchvision is
missing, or was built for another torch, a stand-in takes its place while onnx2torch is imported: all other operators work.
onnx2torch 1.5.15 also stops short of what exporters write today; `load` brings files back to what it reads.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter
import torch
from torch import nn
from torch.fx import GraphModule

OPSET = 17  # from 18 on, reductions take their axes as inputs, which onnx2torch does not know


def load(path: str | os.PathLike[str]) -> GraphModule:
    """Reads an ONNX model as a module, in eval mode, with layers of torch.nn where ONNX has such operators.

    Args:
        path: the file.

    Returns:
        The module; its layers are named as the file names its nodes, "/" and "." replaced.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnx2torch is not installed.
        NotImplementedError: an operator that onnx2torch has no converter for.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
        >>> save(model, torch.zeros(1, 1, 4, 4), folder / "model.onnx")
        >>> [type(layer).__name__ for layer in load(folder / "model.onnx").children()]
        ['Conv2d', 'ReLU']
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"load: path: wanted a file, got none at {os.fspath(path)}")
    with _torchvision():
        from onnx2torch import convert
    return convert(_readable(onnx.load(path))).eval()  # type: ignore[no-any-return]


def save(model: nn.Module, example: Any, path: str | os.PathLike[str]) -> None:
    """Writes a module as ONNX, in eval mode, for inputs of the example's shapes.

    Args:
        model: any module that torch.export takes, cut or not; its mode is restored.
        example: example inputs of forward: one tensor, or a tuple of them.
        path: the file, weights inside; up to 2 GB.

    Raises:
        Whatever torch.export raises for models that it cannot take.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    training = model.training
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", FutureWarning)  # its own
            torch.onnx.export(model.eval(), inputs, os.fspath(path), dynamo=True, verbose=False, external_data=False)
    finally:
        model.train(training)


def _readable(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the words of OPSET at most, and with reshapes that say what they mean.

    Exporters write flatten(1) as a Reshape to the numbers of the example: that fixes the batch size and the channels. A flag of
    Reshape that matters for shapes with a 0 only is left out for others.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.value_info]
    first = {value.name: value.type.tensor_type.shape.dim[:1] for value in values}
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Reshape" or 0 in (shape := constants.get(node.input[1], [0])):
            continue
        del node.attribute[:]
        if len(shape) == 2 and any(extent.dim_value == shape[0] for extent in first.get(node.input[0], ())):
            node.op_type = "Flatten"
            del node.input[1]
            node.attribute.append(onnx.helper.make_attribute("axis", 1))
    version = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return model if version <= OPSET else onnx.version_converter.convert_version(model, OPSET)


@contextmanager
def _torchvision() -> Iterator[None]:
    """torchvision, or a stand-in for it, gone again afterwards."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # none, or one whose operators this torch does not know
        broken = [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
        for name in broken:
            del sys.modules[name]
        root, operators = ModuleType("torchvision"), ModuleType("torchvision.ops")
        root.ops = operators  # type: ignore[attr-defined]
        operators.nms = operators.box_convert = operators.roi_align = _missing  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": root, "torchvision.ops": operators}
        try:
            yield
        finally:
            del sys.modules["torchvision"], sys.modules["torchvision.ops"]
    else:
        yield


def _missing(*arguments: object, **keywords: object) -> None:
    raise RuntimeError("NonMaxSuppression and RoiAlign need torchvision, which could not be imported")
