"""Known architectures: what can be cut, that a cut is what masks compute, and that it can be taken back."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache

import pytest
import torch
from architectures import ALL
from masked import masked_outputs, outputs
from torch import nn

from pyprune_fast.graph import Member, find_groups
from pyprune_fast.slicing import Plan, apply, load_pruned, save_pruned, undo

# Which layers may put out channels that cannot be removed: those of the model's output, and what stands beside them.
WHOLE = {
    "vgg16": ["classifier.6"],
    "resnet18": ["fc"],
    "resnet50": ["fc"],
    "resnext": ["fc"],
    # Padding by a constant number of silent channels: from the second stage on only those that the first stage has can go.
    "resnet56": ["linear", "blocks.9.conv2", "blocks.1?.conv2", "blocks.2?.conv2"],
    "mobilenet_v2": ["classifier.1"],
    "mobilenet_v3": ["classifier.3"],
    "efficientnet_b0": ["classifier.1"],
    "densenet": ["classifier"],
    "unet": ["out"],
    "unet_groupnorm": ["out"],
    "style": ["out.2"],
    "style_plain": ["out.2"],
    "srresnet": ["out"],
    "conv1d": ["13"],
    "c3d": ["12"],
    "vit": ["head"],
    "vit_separate": ["head"],
    # torch's attention wants as many channels inside as outside.
    "mha": ["head", "embed", "attention*", "down"],
    "transformer_encoder": ["head", "embed", "encoder.layers.?.self_attn*", "encoder.layers.?.linear2"],
    "lstm": ["head.2"],
    "lstm_bidirectional": ["head.2"],
    "gru": ["head.2"],
    "tied": [],
    "autoencoder": ["decoder.4"],
    "told": ["reward.4", "policy.4", "q1.5", "q2.5"],
    "bert": ["classifier"],
    "gpt2": [],
    **{name: ["lm_head"] for name in ("llama_4_2", "llama_4_2_eager", "llama_8_8", "qwen3_4_2", "qwen3_8_8")},
    "llama_8_2": [],
    "gemma2": [],
    "phi3": ["lm_head", "*qkv_proj"],  # cut in three by widths from its configuration
    "gpt_neox": ["lm_head"],
    "t5": ["head"],
    "convnext": ["head"],
    # Halves of the channels, interleaved with each other: no single channel can go.
    "shufflenet": ["fc", "stem.0", "units.?.branch.5"],
    "googlenet": ["5"],
    # As wide inside as outside, and the width of a head follows from both.
    "swin": ["head", "patch", "blocks.?.attn.*", "blocks.?.fc2"],
    "dit": ["out"],
    "gated": ["head"],
    "spatial_attention": ["out.2", "conv", "gate"],
    "competing": ["chosen", "summed", "sorted", "placed", "written", "out.?"],
}

# How many channels the group has that owns positions of an axis: heads go as heads, parts of a concat as parts.
CHANNELS = {
    "resnet56": {("conv1.weight", 0): 4, ("blocks.26.conv2.weight", 0): 4, ("blocks.26.conv1.weight", 0): 16},
    "vgg16": {("features.12.0.weight", 0): 16, ("features.16.0.weight", 0): 16},
    "densenet": {("stages.0.layers.0.conv2.weight", 0): 4, ("stages.6.layers.1.conv2.weight", 0): 4},
    "unet": {("down1.3.weight", 0): 8, ("up1.weight", 1): 8},
    "vit": {("blocks.0.attn.qkv.weight", 0): 4, ("patch.weight", 0): 24, ("blocks.0.fc1.weight", 0): 48},
    "vit_separate": {("blocks.0.attn.q.weight", 0): 4, ("patch.weight", 0): 24, ("blocks.0.fc1.weight", 0): 48},
    "bert": {
        ("bert.encoder.layer.0.attention.self.query.weight", 0): 4,
        ("bert.encoder.layer.1.intermediate.dense.weight", 0): 32,
    },
    "gpt2": {
        ("transformer.h.0.attn.c_attn.weight", 1): 4,
        ("transformer.h.1.mlp.c_fc.weight", 1): 96,
        ("transformer.wte.weight", 1): 24,
    },
    **{
        name: {
            **{(f"model.layers.{i}.self_attn.{p}_proj.weight", 0): kv for i in range(2) for p in "qkv"},
            **{(f"model.layers.{i}.mlp.{p}_proj.weight", 0): 32 for i in range(2) for p in ("up", "gate")},
            ("model.embed_tokens.weight", 1): 24,
        }
        for name, kv in (("llama_4_2", 2), ("llama_8_2", 2), ("llama_8_8", 8), ("qwen3_4_2", 2), ("qwen3_8_8", 8))
    },
    "gemma2": {("model.layers.1.self_attn.k_proj.weight", 0): 2, ("model.layers.0.mlp.up_proj.weight", 0): 32},
    "phi3": {("model.layers.0.mlp.gate_up_proj.weight", 0): 32, ("model.embed_tokens.weight", 1): 24},
    "gpt_neox": {("gpt_neox.layers.0.attention.query_key_value.weight", 0): 4, ("gpt_neox.embed_in.weight", 1): 24},
    "lstm": {("rnn.weight_hh_l0", 1): 12, ("rnn.weight_hh_l1", 1): 12},
    "gru": {("rnn.weight_hh_l0", 1): 12, ("rnn.weight_hh_l1", 1): 12},
    "dit": {("patch.weight", 0): 16, ("blocks.1.adapt.weight", 0): 16, ("condition.2.weight", 0): 12},
    "tied": {("embed.weight", 1): 16, ("up.0.weight", 0): 24},
    "told": {("encoder.2.weight", 0): 50, ("dynamics.4.weight", 0): 50, ("q1.0.weight", 0): 512},
    "autoencoder": {("encoder.4.weight", 0): 32},
}


@cache
def found(name):
    """The network, its input and its groups; it stays as it is."""
    model, inputs = ALL[name]()
    return model, inputs, find_groups(model, inputs)


def fresh(name):
    """The same, with a copy of the network that may be cut."""
    model, inputs, groups = found(name)
    return copy.deepcopy(model), inputs, groups


def prunable(name):
    return [group for group in found(name)[2] if not group.fixed]


def makers(model):
    """(module, tensor, dim) of every axis that new channels come from."""
    for name, module in model.named_modules():
        for kind, dim in axes_of(module):
            yield name, f"{name}.{kind}", dim


def axes_of(module):
    if isinstance(module, nn.RNNBase):
        return [(kind, 1) for kind, _ in module.named_parameters() if kind.startswith("weight_hh")]
    if isinstance(module, nn.MultiheadAttention):
        return [("in_proj_weight", 0)]
    if isinstance(module, nn.Embedding) or getattr(module, "transposed", False) or type(module).__name__ == "Conv1D":
        return [("weight", 1)]
    return [("weight", 0)] if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) else []


def some(name, group):
    """Some of the group's channels, always the same: between one and all but one."""
    rng = random.Random(f"{name} {group.name}")
    return sorted(rng.sample(range(group.channels), rng.randrange(1, group.channels)))


def removed(groups, remove):
    return [
        (member.tensor, member.dim, member.positions(remove[group.name]).tolist())
        for group in groups
        for member in group.members
        if group.name in remove
    ]


def bare(model, groups, remove):
    """The removed channels of norms that have no tensors to tell them."""
    return {
        width.module: [channel * width.block + i for channel in remove[group.name] for i in range(width.block)]
        for group in groups
        for width in group.bare
        if isinstance(model.get_submodule(width.module), nn.LayerNorm) and group.name in remove
    }


def state(model):
    """Every tensor and every width that a cut may change."""
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    plain = int, tuple, str, bool, float
    widths = {n: {k: v for k, v in vars(m).items() if isinstance(v, plain)} for n, m in model.named_modules()}
    return tensors, widths


def same(one, other):
    """Whether two states are equal, bit for bit."""
    (tensors, widths), (others, wanted) = one, other
    return widths == wanted and list(tensors) == list(others) and all(torch.equal(tensors[k], others[k]) for k in others)


def check(model, inputs, groups, remove):
    """Cuts, compares with the masked model, takes back, compares with the model that was; how much the outputs changed."""
    dense, before = outputs(model, inputs), state(model)
    wanted = masked_outputs(model, inputs, removed(groups, remove), bare(model, groups, remove))
    parameters = sum(p.numel() for p in model.parameters())
    cut = apply(model, Plan.of(model, groups, remove))
    assert sum(p.numel() for p in model.parameters()) < parameters
    for got, want in zip(outputs(model, inputs), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    cut.undo()
    assert same(state(model), before)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, inputs), dense, strict=True))
    return max(float((a - b).abs().max()) for a, b in zip(dense, wanted, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_every_group_cut_equals_masked_and_is_undone(name):
    model, inputs, _ = fresh(name)
    assert prunable(name)
    for group in prunable(name):
        if group.channels > 1:
            part = some(name, group)
            rest = sorted({*range(group.channels)} - {*part})
            # One of the parts may be dead by its activation; if both were, nothing would have been compared.
            assert max(check(model, inputs, [group], {group.name: chosen}) for chosen in (part, rest)) > 1e-4, group.name


@pytest.mark.parametrize("name", ALL)
def test_all_groups_at_once(name):
    model, inputs, _ = fresh(name)
    groups = prunable(name)
    assert check(model, inputs, groups, {group.name: some(name, group) for group in groups if group.channels > 1}) > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_a_cut_model_is_loaded_from_its_file_and_undone_from_its_file(name, tmp_path):
    model, inputs, _ = fresh(name)
    groups = prunable(name)
    dense, before = outputs(model, inputs), state(model)
    plan = Plan.of(model, groups, {group.name: some(name, group) for group in groups if group.channels > 1})
    apply(model, plan, undo=tmp_path / "removed")
    save_pruned(model, tmp_path / "model", plan)
    again = load_pruned(lambda: ALL[name]()[0], tmp_path / "model").eval()
    assert same(state(again), state(model))
    # The same numbers, but elsewhere in memory: kernels may sum them in another order.
    torch.testing.assert_close(outputs(again, inputs), outputs(model, inputs), rtol=1e-5, atol=1e-6)
    undo(model, tmp_path / "removed")
    assert same(state(model), before)
    assert all(torch.equal(a, b) for a, b in zip(outputs(model, inputs), dense, strict=True))


@pytest.mark.parametrize(
    ("name", "member", "others"),
    [
        # The flatten of (C, 2, 2) read as one of (2, 2, C).
        (
            "vgg16",
            Member("classifier.0.weight", 1, 0, 4, 4),
            [Member("classifier.0.weight", 1, 16 * i, 1, 1) for i in range(4)],
        ),
        # The skip of a concat taken for what stands beside it.
        ("unet", Member("join1.0.weight", 1, 0, 1, 1), [Member("join1.0.weight", 1, 8, 1, 1)]),
    ],
)
def test_a_wrong_member_would_show(name, member, others):
    right = next(group for group in prunable(name) if member in group.members)
    wrong = replace(right, members=tuple(m for m in right.members if m != member) + tuple(others))
    remove = {right.name: [0, 2, 3]}
    model, inputs, _ = fresh(name)
    check(model, inputs, [right], remove)
    with pytest.raises(AssertionError, match="not close"):
        check(model, inputs, [wrong], remove)


def owned(groups):
    """The positions of each axis that groups own, once for each time that one does."""
    found = {}
    for group in groups:
        for member in group.members:
            found.setdefault((member.tensor, member.dim), []).extend(member.positions(range(group.channels)).tolist())
    return found


@pytest.mark.parametrize("name", ALL)
def test_all_channels_but_those_of_the_output_can_go(name):
    model, _, groups = found(name)
    known, tensors = owned(prunable(name)), dict(model.named_parameters())
    short = {
        tensor: (dim, len(known.get((tensor, dim), ())))
        for module, tensor, dim in makers(model)
        if tensor in tensors and not any(fnmatch(module, pattern) for pattern in WHOLE[name])
        if len(known.get((tensor, dim), ())) < tensors[tensor].shape[dim]
    }
    assert not short, [f"{group.name}: {group.fixed}" for group in groups if group.fixed]


@pytest.mark.parametrize("name", ALL)
def test_every_channel_is_in_one_group_that_can_be_cut_or_says_why_not(name):
    model, _, groups = found(name)
    known, tensors = owned(groups), dict(model.named_parameters())
    axes = {(tensor, dim) for _, tensor, dim in makers(model) if tensor in tensors}
    wrong = {axis: at for axis in axes if (at := sorted(known.get(axis, []))) != [*range(tensors[axis[0]].shape[axis[1]])]}
    assert not wrong


@pytest.mark.parametrize("name", CHANNELS)
def test_groups_have_as_many_channels_as_can_go_one_by_one(name):
    for (tensor, dim), channels in CHANNELS[name].items():
        owners = [g for g in prunable(name) if any((m.tensor, m.dim) == (tensor, dim) for m in g.members)]
        assert [group.channels for group in owners] == [channels], tensor


@pytest.mark.parametrize("name", ALL)
def test_finding_groups_leaves_the_model_alone(name):
    assert same(state(found(name)[0]), state(ALL[name]()[0]))


def test_a_llama_of_seven_billion_is_grouped_and_cut_without_numbers():
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(use_cache=False))
    groups = find_groups(model, torch.zeros(1, 8, dtype=torch.int64, device="meta"))
    widths = {"self_attn.q_proj": 32, "mlp.gate_proj": 11008}
    inner = {f"model.layers.{i}.{name}": width for i in range(32) for name, width in widths.items()}
    assert {g.name: g.channels for g in groups if not g.fixed} == {"model.embed_tokens": 4096, **inner}
    apply(model, Plan.of(model, groups, {name: range(width // 2) for name, width in inner.items()}), undo=False)
    assert model.model.layers[31].self_attn.o_proj.weight.shape == (4096, 2048)
    assert model.model.layers[31].mlp.down_proj.weight.shape == (4096, 5504)
