"""Defects of Torch-Pruning 1.6.1 that were measured (W1 to W17), each as a test that ours does right."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import signal
import weakref
from contextlib import contextmanager

import pytest
import torch
from architectures import ALL, enliven
from masked import masked_outputs, outputs
from sequence_nets import decoder
from torch import nn
from torch.nn.utils import parametrizations, prune

from pyprune_fast import ops
from pyprune_fast.baselines import score_fisher
from pyprune_fast.estimators import ChannelInformation
from pyprune_fast.graph import Group, find_groups
from pyprune_fast.prune import allocate, group_norms, group_scores
from pyprune_fast.scoring import score_model, score_weights
from pyprune_fast.slicing import Plan, apply, load_pruned, save_pruned

TOKENS = torch.arange(3, 15).reshape(2, 6)


@contextmanager
def at_most(seconds):
    """An error, and no test that hangs, if the body takes longer."""

    def stop(signum, frame):
        raise TimeoutError(f"wanted an end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def owner(groups, tensor, dim):
    """The prunable group that owns positions of an axis; with none, an error that says what was refused, and why."""
    found = [g for g in groups if not g.fixed and any((m.tensor, m.dim) == (tensor, dim) for m in g.members)]
    assert len(found) == 1, {group.name: group.fixed for group in groups if group.fixed}
    return found[0]


def remove_half(model, inputs, *axes):
    """Removes every second channel of the groups that own these axes, and checks the outputs against masks."""
    groups = find_groups(model, inputs)
    owners = [owner(groups, *axis) for axis in axes]
    remove = {group.name: range(0, group.channels, 2) for group in owners}
    removed = [(m.tensor, m.dim, m.positions(remove[g.name]).tolist()) for g in owners for m in g.members]
    wanted = masked_outputs(model, inputs, removed)
    cut = apply(model, Plan.of(model, groups, remove))
    torch.testing.assert_close(outputs(model, inputs), wanted, rtol=0, atol=1e-5)
    return cut


def lively(model):
    torch.manual_seed(0)
    enliven(model)
    return model.eval()


def mlp():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return lively(model), torch.randn(5, 4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("family", "heads", "kv_heads"), [("Llama", 4, 2), ("Llama", 8, 4), ("Qwen3", 4, 2), ("Qwen3", 16, 8)])
def test_w1_two_heads_to_a_key_come_to_an_end(family, heads, kv_heads, attention):
    model = lively(decoder(family, heads, kv_heads, attn_implementation=attention))
    with at_most(20):
        remove_half(model, TOKENS, ("model.layers.0.mlp.up_proj.weight", 0), ("model.embed_tokens.weight", 1))
    assert model.model.layers[0].mlp.up_proj.weight.shape == (16, 12)
    assert model.model.layers[1].mlp.up_proj.weight.shape == (32, 12)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (8, 2), (8, 8), (12, 2)])
def test_w2_heads_go_with_their_keys(family, heads, kv_heads):
    model = lively(decoder(family, heads, kv_heads))
    remove_half(model, TOKENS, *((f"model.layers.{i}.self_attn.k_proj.weight", 0) for i in range(2)))
    for layer in model.model.layers:
        attention = layer.self_attn
        rows = [getattr(attention, f"{name}_proj").weight.shape[0] for name in "qkv"]
        assert rows == [6 * heads // 2, 6 * kv_heads // 2, 6 * kv_heads // 2]
        assert attention.o_proj.weight.shape == (24, 6 * heads // 2)


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (8, 2), (8, 8)])
def test_w2_rankings_take_heads(family, heads, kv_heads, ranking):
    model = lively(decoder(family, heads, kv_heads))
    groups = [g for g in find_groups(model, TOKENS) if not g.fixed]
    scores = group_norms(model, groups)
    assert scores.keys() == {group.name for group in groups}
    chosen = owner(groups, "model.layers.0.self_attn.k_proj.weight", 0)
    scores[chosen.name][1] = 0  # the head that is to go first
    remove = allocate(groups, scores, ratio=0.5, ranking=ranking)
    assert 1 in remove[chosen.name]
    if ranking == "local":
        assert {name: len(channels) for name, channels in remove.items()} == {g.name: g.channels // 2 for g in groups}
    apply(model, Plan.of(model, groups, remove))
    kept = kv_heads - len(remove[chosen.name])
    assert model.model.layers[0].self_attn.q_proj.weight.shape[0] == 6 * kept * heads // kv_heads
    assert outputs(model, TOKENS)[0].shape == (2, 6, 40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [1, 2])
def test_w3_half_precision_is_summed_in_single(dtype, norm):
    torch.manual_seed(0)
    layer = nn.Linear(2048, 4096, bias=False, dtype=dtype)
    layer.weight.data.normal_(0, 0.02)
    scores = score_weights(nn.Sequential(layer), norm).layers["0"]
    assert len(scores.unique()) >= 4000
    exact = torch.linalg.vector_norm(layer.weight.double(), norm, 1)
    torch.testing.assert_close(scores, exact, rtol=2e-6, atol=0)
    rows, columns = ops.norms(torch.full((3, 2048), 200, dtype=dtype), 2)  # a row's sum is beyond float16
    assert rows.tolist() == [200**2 * 2048] * 3
    assert columns.dtype == torch.float32


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_w4_of_equal_scores_exactly_as_many_go_as_asked(ranking):
    groups = [Group("a", 10, ("a",), ()), Group("b", 6, ("b",), ())]
    for value in (0.0, 1.0):
        remove = allocate(groups, {g.name: torch.full((g.channels,), value) for g in groups}, ratio=0.5, ranking=ranking)
        assert sum(map(len, remove.values())) == 8
    with pytest.raises(ValueError, match="'a'.* NaN"):
        allocate(groups, {"a": torch.full((10,), torch.nan)}, ratio=0.5, ranking=ranking)


def test_w5_gradients_of_every_image_count():
    model, _ = mlp()
    images, labels = torch.randn(9, 4), torch.arange(9) % 3
    whole = score_fisher(model, [(images, labels)]).layers
    split = score_fisher(model, [(images[i : i + 2], labels[i : i + 2]) for i in range(0, 9, 2)]).layers
    last = score_fisher(model, [(images[8:], labels[8:])]).layers
    for name in ("0", "2"):
        torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-9)
        assert not torch.allclose(split[name], last[name], rtol=0.1)


def test_w6_activations_of_every_batch_count_and_outputs_are_seen():
    model, _ = mlp()
    batches = [(torch.randn(16, 4), torch.arange(16) % 3) for _ in range(4)]
    scores = score_model(model, batches, ChannelInformation())
    assert scores.images == 64
    for name, channels in {"0": 8, "2": 6, "4": 3}.items():
        assert scores.layers[name].shape == (channels,)
        assert scores.estimators[name].counts.sum((1, 2)).tolist() == [64] * channels


def test_w7_any_part_of_a_group_can_be_taken_and_scored():
    model, x = ALL["resnet18"]()
    groups = find_groups(model, x)
    group = owner(groups, "fc.weight", 1)
    member = next(name for name in group.layers if isinstance(model.get_submodule(name), nn.Conv2d))
    rows = score_weights(model, layers=[member]).layers
    scores = group_scores(groups, rows)
    assert torch.equal(scores[group.name], rows[member])
    apply(model, Plan.of(model, groups, {group.name: [2, 6, 9]}))
    assert model.fc.weight.shape == (10, 29)
    assert outputs(model, x)[0].shape == (2, 10)


def test_w8_a_plan_is_replayed_as_it_was_made():
    model, x = ALL["resnet18"]()
    fresh = copy.deepcopy(model)
    groups = find_groups(model, x)
    remove = {g.name: [0, g.channels - 1] for g in groups if not g.fixed}
    plan = Plan.of(model, groups, remove)
    first = apply(model, plan)
    again = find_groups(model, x)
    second = apply(model, Plan.of(model, again, {owner(again, "fc.weight", 1).name: [1]}))
    apply(fresh, Plan.from_json(plan.to_json()))
    for module in (*fresh.modules(), *model.modules()):
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels) == module.weight.shape[:2]
    second.undo()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True))
    assert torch.equal(outputs(model, x)[0], outputs(fresh, x)[0])
    first.undo()
    assert model.fc.weight.shape == (10, 32)


def test_w9_flags_ties_and_hooks_survive():
    model, tokens = ALL["tied"]()
    calls = []
    model.gate[0].register_forward_hook(lambda *args: calls.append("forward"))
    model.gate[0].weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    model.up[0].weight.requires_grad_(False)
    remove_half(model, tokens, ("embed.weight", 1), ("gate.0.weight", 0))
    assert model.lm_head.weight is model.embed.weight
    assert model.embed.weight.shape == (20, 8)
    assert [p.requires_grad for p in (model.up[0].weight, model.up[1].weight)] == [False, True]
    calls.clear()
    model(tokens).sum().backward()
    assert calls == ["forward", (12, 8)]


def test_w9_an_optimiser_keeps_every_live_parameter_and_its_state():
    model, x = ALL["resnet18"]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    def moments():
        return {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}

    step()
    groups = find_groups(model, x)
    plan = Plan.of(model, groups, {g.name: range(0, g.channels, 2) for g in groups if not g.fixed})
    before, wanted = moments(), copy.deepcopy(model)
    for name, parameter in wanted.named_parameters():  # the moments, cut as weights are
        parameter.data = before[name]
    apply(wanted, plan)
    cut = apply(model, plan, optimizer=optimizer)
    live = {id(parameter) for parameter in model.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == live == {id(p) for p in optimizer.state}
    now = moments()
    assert all(torch.equal(now[name], parameter) for name, parameter in wanted.named_parameters())
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step()
    assert not any(torch.equal(old[name], parameter) for name, parameter in model.named_parameters())
    cut.undo()
    now = moments()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_w10_computed_weights_are_refused_by_name():
    for spoil in (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), parametrizations.weight_norm):
        model, x = mlp()
        spoil(model[2])
        wanted = outputs(model, x)
        groups = {group.name: group for group in find_groups(model, x)}
        for name in ("0", "2"):  # one is read by the layer, the other made by it
            assert "2.weight" in groups[name].fixed
            with pytest.raises(ValueError, match=f"'{name}'.* fixed"):
                Plan.of(model, groups.values(), {name: [0]})
        assert torch.equal(outputs(model, x)[0], wanted[0])


def test_w11_nothing_keeps_a_model_alive():
    model, x = ALL["resnet18"]()
    groups = find_groups(model, x)
    group = owner(groups, "fc.weight", 1)
    apply(model, Plan.of(model, groups, {group.name: [0]})).undo()
    watched = [weakref.ref(module) for module in model.modules()]
    watched += [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert [reference for reference in watched if reference() is not None] == []


def test_w12_the_layers_of_gpt2_are_pruned():
    model, tokens = ALL["gpt2"]()
    before = sum(p.numel() for p in model.parameters())
    groups = find_groups(model, tokens)
    assert group_norms(model, groups).keys() == {group.name for group in groups if not group.fixed}
    axes = [(f"transformer.h.{i}.{name}.weight", 1) for i in range(2) for name in ("mlp.c_fc", "attn.c_attn")]
    remove_half(model, tokens, *axes, ("transformer.wte.weight", 1))
    for block in model.transformer.h:
        assert (block.mlp.c_fc.weight.shape, block.mlp.c_fc.nf) == ((12, 48), 48)
        assert (block.attn.c_attn.weight.shape, block.attn.c_proj.weight.shape) == ((12, 36), (12, 12))
    assert model.lm_head.weight is model.transformer.wte.weight
    assert sum(p.numel() for p in model.parameters()) < 0.5 * before


@pytest.mark.parametrize("name", ["lstm", "lstm_bidirectional", "gru"])
def test_w13_recurrent_layers_are_pruned_as_root_and_as_reader(name):
    model, tokens = ALL[name]()
    remove_half(model, tokens, ("embed.weight", 1), ("rnn.weight_hh_l0", 1), ("head.0.weight", 0))
    gates = model.rnn.weight_hh_l0.shape[0] // 6
    assert (model.rnn.input_size, model.rnn.hidden_size) == (4, 6)
    assert model.rnn.weight_ih_l0.shape == (gates * 6, 4)


class Free(nn.Module):
    """Parameters that no layer holds: along the last axis, in front of others, and over two axes."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Linear(6, 5), nn.Linear(5, 2)
        self.scale, self.shift = nn.Parameter(torch.ones(6, 1, 1)), nn.Parameter(torch.ones(1, 6))
        self.register_buffer("mean", torch.ones(5))

    def forward(self, x):
        x = (self.first(x) * self.scale).mean((2, 3)) + self.shift
        return self.last((self.second(x) - self.mean).tanh())


def test_w14_free_parameters_follow():
    model, x = lively(Free()), torch.randn(2, 3, 4, 4)
    remove_half(model, x, ("first.weight", 0), ("second.weight", 0))
    assert (model.scale.shape, model.shift.shape, model.mean.shape) == ((3, 1, 1), (1, 3), (2,))


def test_w15_one_instance_can_be_told_from_another():
    model, x = mlp()
    assert {group.name: bool(group.fixed) for group in find_groups(model, x, ignore=["2"])} == {
        "0": False,
        "2": True,
        "4": True,
    }


def test_w16_modes_stay_and_nothing_needs_gradients():
    model, x = ALL["vgg16"]()
    wanted = find_groups(model, x)
    model.requires_grad_(False).train()
    model.features[0].eval()
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        assert find_groups(model, x) == wanted
    with torch.inference_mode():
        assert find_groups(model, x) == wanted
    assert [module.training for module in model.modules()] == modes
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_w17_plans_and_cut_models_are_read_without_pickle(tmp_path, monkeypatch):
    model, tokens = ALL["gpt2"]()
    groups = find_groups(model, tokens)
    plan = Plan.of(model, groups, {owner(groups, "transformer.wte.weight", 1).name: [1, 2]})
    cut = apply(model, plan)
    plan.save(tmp_path / "plan.json")
    save_pruned(model, tmp_path / "model.safetensors", cut)
    monkeypatch.setattr(pickle, "Unpickler", None)
    monkeypatch.setattr(pickle, "loads", None)
    assert list(json.loads((tmp_path / "plan.json").read_text())["remove"].values()) == [[1, 2]]
    assert Plan.load(tmp_path / "plan.json") == plan
    again = load_pruned(lambda: ALL["gpt2"]()[0], tmp_path / "model.safetensors")
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(outputs(again.eval(), tokens)[0], outputs(model, tokens)[0])
