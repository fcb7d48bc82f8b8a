"""Whole blocks: their influence by hand, and models without some of them."""

from __future__ import annotations

import copy

import pytest
import torch
from sequence_nets import decoder
from torch import nn

from pyprune_fast.graph import find_groups
from pyprune_fast.large import block_influence, drop_blocks

IDS = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(0))


class Blocks(nn.Module):
    """One block that changes nothing, and one that turns tokens of the first two sequences round."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), Turn()])

    def forward(self, x, attention_mask=None):
        for block in self.blocks:
            x = block(x)
        return x


class Turn(nn.Module):
    def forward(self, x):
        return x * torch.tensor([-1.0, -1.0, 1.0])[:, None, None]


def test_influence() -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert block_influence(Blocks(), [x], "blocks").tolist() == pytest.approx([0, 4 / 3])
    mask = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
    found = block_influence(Blocks(), [({"x": x, "attention_mask": mask}, None)], "blocks")
    assert found.tolist() == pytest.approx([0, 2 / 4])


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_a_model_without_a_block_is_the_model_that_never_had_it(family) -> None:
    torch.manual_seed(0)
    model = decoder(family, 4, 2, num_hidden_layers=3).eval()
    influence = block_influence(model, [{"input_ids": IDS}], "model.layers")
    assert influence.shape == (3,)
    assert bool((influence > 0).all())
    short = copy.deepcopy(model)
    drop_blocks(short, "model.layers", [1])
    assert [layer.self_attn.layer_idx for layer in short.model.layers] == [0, 1]
    assert short.config.num_hidden_layers == 2
    model.model.layers[1] = Skip(model.model.layers[1])
    with torch.no_grad():
        assert torch.equal(short(IDS).logits, model(IDS).logits)
        cached = short(IDS, use_cache=True)  # a cache has a place for each block
        assert torch.equal(cached.logits, short(IDS).logits)
    assert [group.name for group in find_groups(short, {"input_ids": IDS[:1]}) if "layers.1" in group.name]


class Skip(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.attention_type = getattr(block, "attention_type", None)

    def forward(self, x, *args, **kwargs):
        return x


@pytest.mark.parametrize(
    ("blocks", "remove", "text"),
    [
        ("blocks", [2], r"^drop_blocks: remove: wanted some of 0..1, not all, got \[2\]$"),
        ("blocks", [0, 1], r"^drop_blocks: remove: wanted some of 0..1, not all, got \[0, 1\]$"),
        ("blocks.0", [0], "^drop_blocks: blocks: wanted a ModuleList, got Identity$"),
        ("layers", [0], "^blocks: wanted names of the model's modules, got 'layers'$"),
    ],
)
def test_refuses_to_drop(blocks, remove, text) -> None:
    model = Blocks()
    with pytest.raises(ValueError, match=text):
        drop_blocks(model, blocks, remove)
    assert len(model.blocks) == 2


def test_refuses_to_score() -> None:
    with pytest.raises(ValueError, match=r"^block 0: wanted \(N, T, C\) in and out, got \(3, 4\), \(3, 4\)$"):
        block_influence(Blocks(), [torch.zeros(3, 4)], "blocks")
    with pytest.raises(ValueError, match=r"^block_influence: blocks: wanted tokens in all blocks, got none in \['0', '1'\]$"):
        block_influence(Blocks(), [], "blocks")
    model = Blocks()
    assert not any(module._forward_hooks for module in model.modules())
