"""Groups: what they contain, that cutting them is right, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from nets import NETS, Concat, Residual, build, image, masked, outputs
from torch import nn
from torch.nn.utils import parametrizations, prune

from pyprune_fast.graph import Group, MaskedModel, Member, find_groups
from pyprune_fast.slicing import Plan, apply


def by_name(groups):
    return {group.name: group for group in groups}


def fixed(model, x, **options):
    return {group.name: group.fixed for group in find_groups(model, x, **options)}


def linear(size, **options):
    return nn.Linear(size, size, **options)


@pytest.mark.parametrize("net", NETS)
def test_every_prunable_group_cut_equals_masked(net):
    model, x = build(net)
    groups = find_groups(model, x)
    prunable = [group for group in groups if not group.fixed]
    assert prunable
    twin = MaskedModel(model, groups, x)
    for group in prunable:
        for channels in ((0,), (group.channels - 1,), tuple(range(0, group.channels, 2)), tuple(range(1, group.channels))):
            mask = torch.ones(group.channels).index_fill_(0, torch.tensor(channels), 0)
            with torch.no_grad():
                out = twin.run({group.name: mask})
            wanted = list(out.values()) if isinstance(out, dict) else [out]
            if not any(isinstance(module, nn.LayerNorm) for module in model.modules()):  # whose masks are not so simple
                for got, want in zip(wanted, outputs(masked(model, group, channels), x), strict=True):
                    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
            cut = apply(model, Plan.of(model, groups, {group.name: channels}))
            for got, want in zip(outputs(model, x), wanted, strict=True):
                torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
            cut.undo()


PRUNABLE = {
    "chain": {"0": 8, "4": 6, "8": 7},
    "relu_before_bn": {"0": 8, "5": 6},
    "residual": {"stem": 8, "conv1": 6},
    "concat": {"a": 4, "b": 6},
    "depthwise": {"0": 8, "5": 6},
    "channels_last_flatten": {"conv": 6},
    "conv1d": {"0": 8},
    "conv3d": {"0": 8},
    "transposed": {"0": 8, "3": 6},
    "layernorm": {"0": 8, "3": 7},
    "heads": {"trunk": 8, "policy": 7},
    "tied": {"embed": 6, "hidden": 8},
    "scaled": {"first": 8, "second": 6},
    "reused": {"first": 8},
}


@pytest.mark.parametrize("net", NETS)
def test_the_prunable_groups_are_these(net):
    model, x = build(net)
    assert {g.name: g.channels for g in find_groups(model, x) if not g.fixed} == PRUNABLE[net]


def test_members_name_every_axis():
    model, x = build("residual")
    group = by_name(find_groups(model, x))["stem"]
    assert group.layers == ("stem", "bn", "conv2", "bn2")
    axes = {(m.tensor, m.dim) for m in group.members}
    norms = {(f"{bn}.{t}", 0) for bn in ("bn", "bn2") for t in ("weight", "bias", "running_mean", "running_var")}
    weights = {("stem.weight", 0), ("conv1.weight", 1), ("conv2.weight", 0), ("conv2.bias", 0), ("head.weight", 1)}
    assert axes == norms | weights
    assert all((m.offset, m.step, m.block) == (0, 1, 1) for m in group.members)


def test_layouts_of_flatten_and_concat():
    model, x = build("concat")
    groups = by_name(find_groups(model, x))
    assert Member("head.weight", 1, 0, 4, 4) in groups["a"].members
    assert Member("head.weight", 1, 16, 4, 4) in groups["b"].members
    assert groups["b"].layers == ("b",)
    model, x = build("channels_last_flatten")
    rows = {m for m in by_name(find_groups(model, x))["conv"].members if m.tensor == "head.weight"}
    assert rows == {Member("head.weight", 1, 6 * site, 1, 1) for site in range(16)}


def test_a_tied_tensor_is_one_member():
    model, x = build("tied")
    group = by_name(find_groups(model, x))["embed"]
    assert [m for m in group.members if "out" in m.tensor] == []
    assert [m.dim for m in group.members if m.tensor == "embed.weight"] == [1]


def test_positions():
    assert Member("w", 1, 2, 6, 3).positions([0, 2]).tolist() == [2, 3, 4, 14, 15, 16]
    assert Member("w", 1, 2, 6, 3).positions([]).dtype == torch.int64


def test_input_and_output_are_fixed():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = linear(4), nn.Linear(4, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.c(self.b(x + self.a(x)).relu())

    why = fixed(Around(), torch.randn(2, 4))
    assert why == {"a": "the model's input", "b": "", "c": "the model's output"}


def test_what_code_does_with_widths_is_proven_by_trials():
    class Counted(nn.Module):
        """A width written in the code, and a number that follows a width."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            z = self.a(x)
            z = self.b(z - z.mean(1, keepdim=True)).relu() + torch.ones(8)
            z = self.c(z)
            return self.d(z * z.shape[1])

    why = fixed(Counted(), torch.randn(4, 3))
    assert why["a"] == ""  # a mean over channels is taken over those that remain
    assert "does not run" in why["b"]
    assert "of the remaining channels compute" in why["c"] or "what the remaining channels compute" in why["c"]


def test_a_zero_in_the_weights_hides_nothing():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
            nn.init.zeros_(self.a.weight)
            nn.init.zeros_(self.a.bias)

        def forward(self, x):
            z = self.a(x)
            return self.b(z * z.shape[1])

    assert "what the remaining channels compute" in fixed(Scaled(), torch.randn(2, 3))["a"]
    assert fixed(Scaled(), torch.randn(2, 3), proof="shapes")["a"] == ""


def test_layers_with_a_tied_weight_are_one_group():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), linear(8), nn.ReLU(), linear(8), nn.ReLU(), nn.Linear(8, 2))
    model[4].weight = model[2].weight
    groups = by_name(find_groups(model, torch.randn(2, 4)))
    assert list(groups) == ["0", "6"]
    assert groups["0"].layers == ("0", "2", "4")
    assert {m.dim for m in groups["0"].members if m.tensor == "2.weight"} == {0, 1}


def test_masked_and_parametrised_tensors_are_fixed_by_name():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), linear(8), nn.ReLU(), linear(8), nn.ReLU(), nn.Linear(8, 2))
    prune.random_unstructured(model[0], "weight", 0.5)
    parametrizations.weight_norm(model[4])
    why = fixed(model, torch.randn(2, 4))
    assert "0.weight" in why["0"]
    assert "4.weight" in why["2"]
    assert "4.weight" in why["4"]
    assert prune.is_pruned(model[0])


def test_recurrent_layers():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.gru, self.lstm = nn.Linear(4, 6), nn.GRU(6, 8, batch_first=True), nn.LSTM(8, 7, batch_first=True)
            self.fc, self.out = nn.Linear(7, 7), nn.Linear(7, 2)

        def forward(self, x):
            return self.out(self.fc(self.lstm(self.gru(self.inp(x))[0])[0]).relu())

    groups = by_name(find_groups(Recurrent(), torch.randn(2, 3, 4)))
    assert {name: group.channels for name, group in groups.items()} == {"inp": 6, "gru": 8, "lstm": 7, "fc": 7, "out": 2}
    gates = [(m.offset, m.step, m.block) for m in groups["lstm"].members if (m.tensor, m.dim) == ("lstm.weight_ih_l0", 0)]
    assert gates == [(7 * gate, 1, 1) for gate in range(4)]
    assert groups["fc"].fixed == ""


def test_transformer_layer_keeps_its_stream_and_loses_its_hidden_width():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    why = fixed(layer, torch.randn(2, 3, 8))
    assert why["linear1"] == ""
    assert why["self_attn.out_proj"] == "the model's input"


def test_an_unknown_operation_is_named():
    class Ordered(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), linear(8), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(self.b(torch.linalg.lu_factor(self.a(x))[0]))

    why = fixed(Ordered(), torch.randn(2, 4, 3))
    assert why == {"a": "linalg_lu_factor_ex: an operation that is not known", "b": "", "c": "the model's output"}


def test_unexecuted_layers_are_refused_or_ignored():
    model = Residual()
    model.aux = nn.Linear(8, 2)
    with pytest.raises(ValueError, match=r"find_groups: model: .*'aux'"):
        find_groups(model, image())
    why = fixed(model, image(), ignore=["aux"])
    assert why["aux"] == "the layer is not executed"
    assert why["stem"] == ""


def test_a_detached_branch_is_seen():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            z = self.a(x).relu()
            return self.b(z), self.c(z.detach()).argmax(1)

    groups = by_name(find_groups(Detached(), torch.randn(2, 3)))
    assert groups["a"].fixed == ""
    assert {"b.weight", "c.weight"} < {member.tensor for member in groups["a"].members}
    assert groups["c"].fixed == "argmax: its result depends on all of these channels"


def test_ignored_layers_keep_their_outputs():
    model, x = build("chain")
    assert fixed(model, x, ignore=["4"])["4"] == "4 is ignored"
    with pytest.raises(ValueError, match=r"ignore: .*'nowhere'"):
        find_groups(model, x, ignore=["nowhere"])


def test_split_and_concat_along_another_axis():
    class Rotary(nn.Module):
        """Halves swapped along the last axis of (N, heads, T, d): Torch-Pruning's own walk may never end here."""

        def __init__(self):
            super().__init__()
            self.q, self.k, self.o, self.up, self.down = linear(8), nn.Linear(8, 4), linear(8), nn.Linear(8, 6), nn.Linear(6, 8)

        def rotate(self, z):
            return z + torch.cat((-z[..., 1:], z[..., :1]), dim=-1)

        def forward(self, x):
            n, t, _ = x.shape
            q = self.rotate(self.q(x).view(n, t, 4, 2).transpose(1, 2))
            k = self.rotate(self.k(x).view(n, t, 2, 2).transpose(1, 2)).repeat_interleave(2, 1)
            z = (q @ k.transpose(2, 3)).softmax(-1) @ k
            y = x + self.o(z.transpose(1, 2).reshape(n, t, 8))
            return y + self.down(self.up(y).relu())

    model = nn.Sequential(nn.Linear(3, 8), Rotary(), nn.Linear(8, 2))
    groups = by_name(find_groups(model, torch.randn(2, 5, 3)))
    assert groups["1.up"].fixed == groups["0"].fixed == ""
    heads = groups["1.q"]
    assert heads.channels == 2
    assert "does not run" in heads.fixed  # their number stands written in the code
    assert Member("1.q.weight", 0, 0, 4, 4) in heads.members
    assert Member("1.k.weight", 0, 0, 2, 2) in heads.members


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_alone(broken, capsys, recwarn):
    model, x = build("concat")
    model.train()
    model.bn.eval()
    model.a.weight.requires_grad_(False)
    if broken:
        model.aux = nn.Linear(2, 2)
    calls = []
    model.a.register_forward_hook(lambda *args: calls.append(args))
    state = {name: (id(t), t.clone(), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    flags = [(m.training, dict(m._forward_hooks)) for m in model.modules()]
    rng = torch.get_rng_state()
    with torch.no_grad():
        if broken:
            with pytest.raises(ValueError, match="aux"):
                find_groups(model, x)
        else:
            find_groups(model, x)
    assert flags == [(m.training, dict(m._forward_hooks)) for m in model.modules()]
    assert calls == []
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert state[name][0] == id(tensor)
        assert state[name][2] == tensor._version
        assert torch.equal(state[name][1], tensor)
        assert tensor.requires_grad == (name != "a.weight" and isinstance(tensor, nn.Parameter))
    assert torch.equal(rng, torch.get_rng_state())
    assert capsys.readouterr() == ("", "")
    assert not recwarn.list


def test_inputs_by_tuple_and_keyword():
    model = Residual()
    tensors = find_groups(model, image())
    assert find_groups(model, (image(),)) == tensors
    assert find_groups(model, {"x": image()}) == tensors
    with pytest.raises(TypeError, match="example_inputs"):
        find_groups(model, 3)
    with pytest.raises(ValueError, match="depends on parameters"):
        find_groups(nn.Identity(), torch.zeros(1, dtype=torch.int64))


def test_half_precision_and_determinism():
    model = Concat().eval().bfloat16()
    first = find_groups(model, image().bfloat16())
    assert first == find_groups(model, image().bfloat16())
    assert {g.name for g in first if not g.fixed} == {"a", "b"}


def test_importing_brings_no_framework_but_torch():
    code = "import sys, pyprune_fast.graph, pyprune_fast.prune; assert 'torch_pruning' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_groups_are_values():
    assert Group("a", 2, ("a",), ()) == Group("a", 2, ("a",), ())
    assert len({Group("a", 2, ("a",), ()), Group("a", 2, ("a",), ())}) == 1


def test_parts_of_a_concat_are_the_groups_whatever_the_order_of_layers():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.a, self.b, self.head = nn.Linear(3, 10), nn.Linear(3, 4), nn.Linear(3, 6), nn.Linear(10, 2)

        def forward(self, x):
            return self.head(torch.cat([self.a(x), self.b(x)], 1) + self.wide(x))

    groups = find_groups(Wide(), torch.randn(2, 3))
    assert {g.name: g.channels for g in groups if not g.fixed} == {"a": 4, "b": 6}
    assert "wide" not in by_name(groups)


@pytest.mark.parametrize("net", ["chain", "residual", "concat", "channels_last_flatten", "tied"])
def test_blocks_of_channels(net):
    model, x = build(net)
    single, double = (by_name(find_groups(model, x, blocks=size)) for size in (1, 2))
    assert list(single) == list(double)
    assert any(group.channels < single[name].channels for name, group in double.items())
    twin = MaskedModel(model, double.values(), x)
    for name, group in double.items():
        if group.fixed:
            continue
        assert group.channels in (single[name].channels, single[name].channels // 2)
        mask = torch.ones(group.channels).index_fill_(0, torch.tensor([0]), 0)
        with torch.no_grad():
            wanted = twin.run({name: mask})
        parameters = sum(p.numel() for p in model.parameters())
        cut = apply(model, Plan.of(model, double.values(), {name: [0]}))
        assert parameters - sum(p.numel() for p in model.parameters()) == group.parameters
        torch.testing.assert_close(outputs(model, x)[0], wanted, rtol=0, atol=1e-5)
        cut.undo()
