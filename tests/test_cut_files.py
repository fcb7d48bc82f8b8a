"""Cut models and what cuts removed, in files without pickle: exact in another process, and refused where they do not belong."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from nets import NETS, build
from test_cut import backward, snapshot
from test_cut_state import OPTIMIZERS, same_states, states, trained
from torch import Tensor, nn

from pyprune_fast.graph import find_groups
from pyprune_fast.slicing import Plan, apply, load_pruned, save_pruned, undo
from pyprune_fast.slicing.fingerprint import fingerprint
from pyprune_fast.slicing.places import held_tensors

ROOT = Path(__file__).resolve().parents[1]


def halved(model: nn.Module, x: Any, *names: str) -> Plan:
    """Every second channel of the groups of these names, or of all."""
    groups = [g for g in find_groups(model, x) if not g.fixed and (not names or g.name in names)]
    return Plan.of(model, groups, {g.name: range(0, g.channels - 1, 2) for g in groups})


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in held_tensors(model)[0].items()}


def same_values(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    now = held_tensors(model)[0]
    return now.keys() == wanted.keys() and all(torch.equal(t, wanted[name]) for name, t in now.items())


# --- undo --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", sorted(NETS))
def test_saved_and_undone(net: str, tmp_path: Path) -> None:
    """From the file alone, on a model that was built anew and got the cut model's tensors."""
    model, x = build(net)
    before, whole = snapshot(model), values(model)
    cut = apply(model, halved(model, x))
    cut.save(tmp_path / "removed.safetensors")
    other = copy.deepcopy(model)
    backward(model, x)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    cut.save(tmp_path / "later.safetensors")  # what was, not what was made of it
    assert (tmp_path / "later.safetensors").read_bytes() == (tmp_path / "removed.safetensors").read_bytes()
    undo(other, tmp_path / "removed.safetensors")
    assert same_values(other, whole)
    assert snapshot(other)[1:] == before[1:]
    assert len(safetensors.torch.load_file(tmp_path / "removed.safetensors")) > 3


FRESH = """
import sys
sys.path.insert(0, "tests")
import torch
from nets import build
from pyprune_fast.slicing import load_pruned, undo
from pyprune_fast.slicing.fingerprint import fingerprint
model = load_pruned(lambda: build("concat")[0], sys.argv[1] + "/pruned")
print(fingerprint(model))
undo(model, sys.argv[1] + "/removed")
print(fingerprint(model), model.deep.groups, model.head.in_features)
"""


def test_in_a_fresh_process(tmp_path: Path) -> None:
    model, x = build("concat")
    with torch.no_grad():
        model.a.weight.add_(1)  # not what the architecture begins with
    whole = fingerprint(model)
    cut = apply(model, halved(model, x), undo=tmp_path / "removed")
    save_pruned(model, tmp_path / "pruned", cut)
    done = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [fingerprint(model), whole, "10", "40"]


def test_files_of_nested_cuts_are_undone_in_turn(tmp_path: Path) -> None:
    model, x = build("chain")
    whole = values(model)
    apply(model, halved(model, x, "0"), undo=tmp_path / "first")
    between = values(model)
    second = apply(model, halved(model, x, "0", "4"), undo=tmp_path / "second")
    with pytest.raises(ValueError, match=r"undo: tensor '0\.bias': wanted shape \(4,\) as after the cut, got \(2,\)"):
        undo(model, tmp_path / "first")
    second.undo()
    assert same_values(model, between)
    undo(model, tmp_path / "first")
    assert same_values(model, whole)


def copied(model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """With gradients, which deepcopy leaves out."""
    model_too, optimizer_too = copy.deepcopy((model, optimizer))
    for new, old in zip(model_too.parameters(), model.parameters(), strict=True):
        new.grad = old.grad.clone()
    return model_too, optimizer_too


def test_gradients_and_states_only_where_they_are(tmp_path: Path) -> None:
    model, x = build("residual")
    optimizer = trained(model, x, OPTIMIZERS["adam"])
    whole, own = values(model), states(model, optimizer)
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    apply(model, halved(model, x), optimizer=optimizer, undo=tmp_path / "removed")
    same, without, other_grads = (copied(model, optimizer) for _ in range(3))
    other_grads[0].head.bias.grad.add_(1)
    with pytest.raises(ValueError, match=r"wanted the gradients of right after the cut, got others; zero_grad"):
        undo(other_grads[0], tmp_path / "removed")
    other_grads[0].zero_grad()
    undo(other_grads[0], tmp_path / "removed")
    assert same_values(other_grads[0], whole)
    assert all(p.grad is None for p in other_grads[0].parameters())

    undo(same[0], tmp_path / "removed", optimizer=same[1])
    assert same_values(same[0], whole)
    assert same_states(states(*same), own)
    assert all(torch.equal(p.grad, grads[name]) for name, p in same[0].named_parameters())

    next(iter(without[1].state.values()))["exp_avg"].add_(1)
    with pytest.raises(
        ValueError, match=r"wanted the optimizer states of right after the cut, got others; leave the optimizer"
    ):
        undo(without[0], tmp_path / "removed", optimizer=without[1])
    undo(without[0], tmp_path / "removed")
    assert same_values(without[0], whole)


@pytest.mark.parametrize("tensor", ["0.weight", "8.bias", "5.running_mean"])
def test_a_model_that_was_trained_is_refused_untouched(tensor: str, tmp_path: Path) -> None:
    """Also where a tensor changed that was not cut."""
    model, x = build("chain")
    cut = apply(model, halved(model, x, "0"), undo=tmp_path / "removed")
    with torch.no_grad():
        held_tensors(model)[0][tensor].flatten()[0].add_(1e-3)
    before = values(model)
    for attempt in (cut.undo, lambda: undo(model, tmp_path / "removed")):
        with pytest.raises(
            ValueError, match="undo: model: wanted the weights of right after the cut, got others; a model that"
        ):
            attempt()
    assert same_values(model, before)
    assert model[0].out_channels == 4


def test_other_ways_to_go_wrong(tmp_path: Path) -> None:
    model, x = build("chain")
    plan = halved(model, x, "0")
    with pytest.raises(FileNotFoundError, match="undo: path: wanted a file, got none at"):
        undo(model, tmp_path / "none")
    (tmp_path / "text").write_text("text that is no such file at all")
    with pytest.raises(ValueError, match="wanted a safetensors file, got"):
        undo(model, tmp_path / "text")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"wanted format 'pyprune_fast\.undo' version '1', got format None version None"):
        undo(model, tmp_path / "other")
    cut = apply(model, plan, undo=False)
    with pytest.raises(RuntimeError, match=r"Cut\.undo: wanted a cut made with undo=True or a path, got one with undo=False"):
        cut.undo()
    with pytest.raises(RuntimeError, match=r"Cut\.save: wanted a cut made with undo=True that stands"):
        cut.save(tmp_path / "removed")
    model, x = build("chain")
    apply(model, plan, undo=tmp_path / "removed")
    with pytest.raises(ValueError, match=r"undo: model: wanted a tensor named '0\.bias', got none"):
        undo(nn.Sequential(nn.ReLU()), tmp_path / "removed")
    assert {p.name for p in tmp_path.iterdir()} == {"text", "other", "removed"}  # no drafts


@pytest.mark.parametrize("low", [False, True])
def test_an_error_while_writing_leaves_the_old_file(low: bool, tmp_path: Path) -> None:
    model, x = build("chain")
    model.to("meta")
    (tmp_path / "removed").write_text("old")
    with pytest.raises(ValueError, match=r"apply: undo: '0\.bias': wanted a plain tensor to put in a file, got .* on meta"):
        apply(model, halved(build("chain")[0], x, "0"), undo=tmp_path / "removed", low_memory=low)
    assert [p.name for p in tmp_path.iterdir()] == ["removed"]
    assert (tmp_path / "removed").read_text() == "old"
    assert model[0].out_channels == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_dtypes_and_odd_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    """A NaN keeps its payload; a tensor of odd bytes does not shift those behind it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 3))
    bits = torch.randint(0, 256, (6 * 3 * dtype.itemsize,), dtype=torch.uint8)
    model[0].weight = nn.Parameter(bits.view(dtype).reshape(6, 3), requires_grad=False)
    model[0].register_buffer("flags", torch.tensor([True, False, True, True, False]))
    plan = halved_by_hand(model)
    before = model[0].weight.view(torch.uint8).clone()
    apply(model, plan, undo=tmp_path / "removed")
    assert model[0].weight.dtype == dtype
    undo(model, tmp_path / "removed")
    assert torch.equal(model[0].weight.view(torch.uint8), before)


def halved_by_hand(model: nn.Module) -> Plan:
    from pyprune_fast.slicing import Group, Member

    members = (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1), Member("1.weight", 1, 0, 1, 1))
    return Plan.of(model, [Group("0", 6, ("0",), members)], {"0": [1, 2, 5]})


# --- models ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize("net", sorted(NETS))
def test_saved_and_loaded(net: str, where: str, tmp_path: Path) -> None:
    """Two cuts in turn, trained; the architecture is built with other weights or with none."""
    model, x = build(net)
    cuts = [apply(model, halved(model, x)) for _ in range(2)]
    trained(model, x, OPTIMIZERS["plain"])
    model.eval()
    save_pruned(model, tmp_path / "pruned", cuts)

    def factory() -> nn.Module:
        with torch.device(where):
            return NETS[net]()[0].eval()

    again = load_pruned(factory, tmp_path / "pruned")
    assert same_values(again, values(model))
    assert snapshot(again)[1:] == snapshot(model)[1:]
    with torch.no_grad():
        got, wanted = again(x), model(x)
    assert all(
        torch.equal(a, b) for a, b in zip(*(o.values() if isinstance(o, dict) else [o] for o in (got, wanted)), strict=True)
    )
    backward(again, x)


def test_ties_flags_and_buffers_that_are_not_persistent(tmp_path: Path) -> None:
    def factory() -> Any:
        model, _ = build("tied")
        model.embed.weight.requires_grad_(False)
        model.register_buffer("passing", torch.full((3,), float(torch.initial_seed() % 97)), persistent=False)
        return model

    model = factory()
    model.passing.fill_(0.5)
    cut = apply(model, halved(model, build("tied")[1]))
    save_pruned(model, tmp_path / "pruned", cut.plan)
    again = load_pruned(factory, tmp_path / "pruned")
    assert again.out.weight is again.embed.weight
    assert not again.embed.weight.requires_grad
    assert again.passing.tolist() == [0.5] * 3
    assert "passing" not in again.state_dict()
    metadata = safetensors.safe_open(tmp_path / "pruned", "pt").metadata()
    assert json.loads(metadata["ties"]) == {"out.weight": "embed.weight"}
    assert "out.weight" not in safetensors.torch.load_file(tmp_path / "pruned")  # once, and without pickle


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    model, x = build("chain")
    whole = copy.deepcopy(model)
    plan = halved(model, x, "0", "4")
    cut = apply(model, plan)
    path = tmp_path / "pruned"
    with pytest.raises(ValueError, match=r"save_pruned: tensor '0\.bias': wanted \(4,\) as after these cuts, got \(8,\)"):
        save_pruned(whole, path, plan)
    with pytest.raises(TypeError, match="save_pruned: cuts: wanted plans or cuts, got str 'x'"):
        save_pruned(model, path, ["x"])
    with pytest.raises(ValueError, match=r"save_pruned: tensor '0\.weight': wanted a plain tensor with values, got .* on meta"):
        save_pruned(copy.deepcopy(model).to("meta"), path, cut)
    save_pruned(model, path, cut)
    factories = {
        r"load_pruned: cut 1: apply: model: wanted a tensor named '0\.bias', got none": lambda: nn.Sequential(
            nn.ReLU(), *whole[1:]
        ),
        r"load_pruned: cut 1: apply: tensor '0\.bias': wanted shape \(8,\), got \(9,\)": lambda: nn.Sequential(
            nn.Conv2d(3, 9, 3), *whole[1:]
        ),
        r"load_pruned: path: wanted a tensor for each of the model's, got none for \['11\.bias'": lambda: nn.Sequential(
            *whole, nn.Linear(2, 2)
        ),
        r"load_pruned: model_factory: wanted a model with the tensors \['10\.bias', '10\.weight'\]": lambda: whole[:10],
        r"load_pruned: tensor '10\.bias': wanted \(2,\) as in the file, got \(3,\) in the model": lambda: nn.Sequential(
            *whole[:10], nn.Linear(7, 3)
        ),
        "load_pruned: model_factory: wanted one that returns a module, got NoneType None": lambda: None,
    }
    for text, factory in factories.items():
        with pytest.raises((TypeError, ValueError), match=f"^{text}"):
            load_pruned(lambda factory=factory: copy.deepcopy(factory()), path)
    tied, x = build("tied")
    save_pruned(tied, path, [])
    with pytest.raises(ValueError, match=r"wanted 'out\.weight' tied to 'embed\.weight', got two tensors"):
        load_pruned(lambda: untied(), path)


def untied() -> nn.Module:
    model, _ = build("tied")
    model.out.weight = nn.Parameter(model.out.weight.detach().clone())
    return model
