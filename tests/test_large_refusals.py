"""What a stream of blocks refuses: nothing that would be computed from something else than the whole model has."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from sequence_nets import decoder
from torch import nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Lattice, score_model
from pyprune_fast.graph import find_groups
from pyprune_fast.large import Stream, TensorFiles, cut_files, weightless
from pyprune_fast.prune.norms import group_norms
from pyprune_fast.slicing import Plan

X = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Blocks of two linear layers, called as `order` says."""

    def __init__(self, order="01"):
        super().__init__()
        self.order = order
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        for step in self.order:
            x = x.relu() if step == "r" else self.blocks[int(step)](x)
        return self.scale * x


class Pairs(nn.Module):
    """A block that takes what another one gave besides its first argument, or gives two tensors."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.blocks = nn.ModuleList(Step(kind) for _ in range(2))

    def forward(self, x):
        y = self.blocks[0](x, x)
        return self.blocks[1](y, y + 1 if self.kind == "extra" else x)


class Step(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(4, 4)

    def forward(self, x, other):
        return (self.linear(x), other) if self.kind == "two" else self.linear(x)


def stream(make, folder, blocks="blocks"):
    torch.manual_seed(0)
    save_file(make().state_dict(), folder / "model.safetensors")
    return Stream(weightless(make), TensorFiles(folder), blocks)


def test_labels(tmp_path):
    make, labels = Net, torch.arange(6) % 2
    found = stream(make, tmp_path).score([(X, labels)], ChannelInformation(num_classes=2), tap="layer")
    torch.manual_seed(0)
    wanted = score_model(make(), [(X, labels)], ChannelInformation(num_classes=2), tap="layer")
    assert found.layers.keys() == wanted.layers.keys()
    assert all(torch.equal(found.layers[name], row) for name, row in wanted.layers.items())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (partial(Net, "0r1"), "^Stream: block blocks.1: wanted the output of blocks.0 as it is, got something else$"),
        (partial(Net, "10"), r"^Stream: blocks: wanted calls of \['blocks.0', 'blocks.1'\] in this order, got \['blocks.1'\]$"),
        (
            partial(Net, "001"),
            r"^Stream: blocks: wanted calls of .* got \['blocks.0', 'blocks.0', 'blocks.1'\]$",
        ),
        (partial(Net, "0"), r"^Stream: blocks: wanted calls of .* in this order, got \['blocks.0'\]$"),
        (partial(Pairs, "extra"), "^Stream: block blocks.1: wanted arguments that depend on no other block, got one with NaN$"),
        (partial(Pairs, "two"), "^Stream: block blocks.0: wanted one tensor as its output, got tuple"),
    ],
)
def test_models_that_are_no_chain_of_blocks(make, text, tmp_path):
    lost = stream(make, tmp_path)
    with pytest.raises(ValueError, match=text):
        list(lost.run([X]))
    assert all(p.is_meta for p in lost.model.parameters())
    assert not any("forward" in vars(module) for module in lost.model.modules())


def test_a_cache_of_keys_and_values(tmp_path):
    ids = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="^Stream: block model.layers.0: wanted a call without a cache .* got one$"):
        stream(partial(decoder, "Llama", 4, 2), tmp_path, "model.layers").score(
            [{"input_ids": ids, "use_cache": True}], lattice=Lattice()
        )


@pytest.mark.parametrize(
    ("criterion", "options", "text"),
    [
        (AuraInformation(), {}, "^Stream.score: criterion: wanted its num_classes, got None$"),
        (AuraEntropy(), {"layers": ["head"]}, "^Stream.score: layers: wanted layers inside the blocks, got 'head'$"),
        (AuraEntropy(), {}, "^layer blocks.0: score_model: model: wanted layers that the criterion can score, got none$"),
        (
            AuraEntropy(),
            {"lattice": Lattice((2, 2))},
            r"^layer blocks.0: layer 0: wanted 0 \+ 2 \* 2 tokens \(lattice\), got",
        ),
    ],
)
def test_scores_that_cannot_be(criterion, options, text, tmp_path):
    lost = stream(Net, tmp_path)
    with pytest.raises(ValueError, match=text):
        lost.score([X], criterion, **options)
    assert all(p.is_meta for p in lost.model.parameters())


def test_files_of_another_model(tmp_path):
    state = Net().state_dict()
    save_file({"scale": state["scale"]}, tmp_path / "model.safetensors")
    model, files = weightless(Net), TensorFiles(tmp_path)
    with pytest.raises(ValueError, match=r"^Stream: files: wanted a tensor 'blocks.0.0.weight', got none$"):
        Stream(model, files, "blocks")
    groups = find_groups(model, X)
    with pytest.raises(ValueError, match=r"^group_norms: weights: wanted one named 'blocks.0.0.weight', got none$"):
        group_norms(model, groups, weights=files)
    plan = Plan.of(model, groups, {"blocks.0.0": [1]})
    with pytest.raises(
        ValueError, match=r"^cut_files: source: wanted a tensor 'blocks.0.0.weight' of shape \(6, 4\), got none$"
    ):
        cut_files(model, plan, files, tmp_path / "cut")
    save_file(state | {"blocks.0.0.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^Stream: files: tensor 'blocks.0.0.weight': wanted shape \(6, 4\), got \(3, 4\)$"):
        Stream(model, TensorFiles(tmp_path), "blocks")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^cut_files: target: wanted another folder than the source's, got "):
        cut_files(model, plan, TensorFiles(tmp_path), tmp_path)
    with pytest.raises(TypeError, match=r"^cut_files: source: wanted TensorFiles, got OrderedDict"):
        cut_files(model, plan, state, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ValueError, match=r"^blocks: wanted names of the model's modules, got 'layers'$"):
        Stream(model, TensorFiles(tmp_path), "layers")
    with pytest.raises(ValueError, match=r"^Stream: blocks: wanted the names of blocks, got none$"):
        Stream(model, TensorFiles(tmp_path), [])


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^TensorFiles: path: wanted safetensors files, got none at "):
        TensorFiles(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^TensorFiles: path: wanted safetensors files, got none at "):
        TensorFiles(tmp_path / "model.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"^TensorFiles: .*a.safetensors: wanted a safetensors file, got "):
        TensorFiles(tmp_path)
    for name in "ab":
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"^TensorFiles: tensor 'x': wanted it once, got it in .*a.safetensors and "):
        TensorFiles(tmp_path)
    with pytest.raises(KeyError):
        TensorFiles(tmp_path / "a.safetensors")["y"]
