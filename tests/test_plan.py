"""Plans: checked, readable, exact on the way to a file and back."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import build
from torch import nn

from pyprune_fast.graph import Group, Member, find_groups
from pyprune_fast.prune import Plan

MODEL = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
GROUPS = [
    Group("0", 8, ("0",), (Member("0.weight", 0, 0, 1, 1), Member("0.bias", 0, 0, 1, 1), Member("2.weight", 1, 0, 1, 1))),
    Group("2", 6, ("2",), (Member("2.weight", 0, 0, 1, 1), Member("2.bias", 0, 0, 1, 1), Member("4.weight", 1, 0, 1, 1))),
    Group("4", 2, ("4",), (), "the model's output"),
]
PLAN = Plan.of(MODEL, GROUPS, {"2": [5, 0], "0": [3]}, {"criterion": "aura", "ratio": 0.1, "seed": 3})


def test_of_sorts_and_keeps_only_what_is_cut():
    assert [g.name for g in PLAN.groups] == ["0", "2"]
    assert PLAN.remove == {"0": (3,), "2": (0, 5)}
    assert PLAN.extents == {"0.weight": (8, 3), "0.bias": (8,), "2.weight": (6, 8), "2.bias": (6,), "4.weight": (2, 6)}
    assert PLAN.widths() == {"0": (8, 7), "2": (6, 4)}
    assert Plan.of(MODEL, GROUPS, {"0": []}) == Plan((), {}, {})


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, 7), max_size=7),
    st.sets(st.integers(0, 5), max_size=5),
    st.dictionaries(st.text(), st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()),
)
def test_json_round_trip(first, second, note):
    plan = Plan.of(MODEL, GROUPS, {"0": first, "2": second}, note)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert [type(v) for v in again.note.values()] == [type(plan.note[k]) for k in again.note]
    assert again.to_json() == plan.to_json()
    parsed = json.loads(plan.to_json())
    assert plan.to_json().isascii()
    assert list(parsed) == sorted(parsed)


def test_masks_and_fingerprint():
    masks = PLAN.masks()
    assert {name: mask.tolist() for name, mask in masks.items()} == {"0": [1, 1, 1, 0, 1, 1, 1, 1], "2": [0, 1, 1, 1, 1, 0]}
    assert PLAN.masks(MODEL[0].weight.double())["0"].dtype == torch.float64
    again = Plan.from_json(PLAN.to_json())
    assert again.fingerprint() == PLAN.fingerprint()
    assert dataclasses.replace(PLAN, note={}).fingerprint() != PLAN.fingerprint()


def test_json_is_readable_and_versioned():
    text = PLAN.to_json()
    assert '\n    "2": [0, 5]\n' in text
    assert json.loads(text)["version"] == 2
    assert max(map(len, text.splitlines())) < 500


def test_save_and_load(tmp_path):
    model, x = build("concat")
    plan = Plan.of(model, find_groups(model, x), {"a": [1]})
    path = tmp_path / "plan.json"
    path.write_text("old")
    plan.save(path)
    assert Plan.load(path) == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("remove", "text"),
    [
        ({"9": [0]}, r"Plan\.of: remove: wanted groups among \['0', '2', '4'\], got '9'"),
        ({"4": [0]}, "group '4': wanted a prunable group, got a fixed one"),
        ({"0": [8]}, r"group '0': wanted channels in \[0, 8\), got \(8,\)"),
        ({"0": [-1, 2]}, r"group '0': wanted channels in \[0, 8\), got \(-1, 2\)"),
        ({"0": [2, 2]}, r"group '0': wanted channels ascending, each once, at least one, got \(2, 2\)"),
        ({"2": range(6)}, "group '2': wanted at least one of 6 channels to stay, got all"),
    ],
)
def test_wrong_removals(remove, text):
    with pytest.raises(ValueError, match=text):
        Plan.of(MODEL, GROUPS, remove)


def test_wrong_types_notes_and_models():
    with pytest.raises(TypeError, match="wanted channel numbers as int"):
        Plan.of(MODEL, GROUPS, {"0": [1.0]})
    with pytest.raises(TypeError, match="note 'a': wanted str, int or float, got list"):
        Plan.of(MODEL, GROUPS, {"0": [1]}, {"a": []})
    with pytest.raises(ValueError, match="note 'a': wanted a finite number, got nan"):
        Plan.of(MODEL, GROUPS, {"0": [1]}, {"a": float("nan")})
    with pytest.raises(ValueError, match=r"wanted a tensor named '2\.weight', got none"):
        Plan.of(MODEL[:2], GROUPS, {"0": [1]})
    with pytest.raises(ValueError, match="wanted 8 or more positions along dim 0"):
        Plan.of(nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 6)), GROUPS, {"0": [1]})
    with pytest.raises(ValueError, match="wanted one entry for each"):
        dataclasses.replace(PLAN, remove={})


def mangle(**changes):
    return json.dumps({**json.loads(PLAN.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "wanted JSON"),
        ("[1]", "wanted an object with format"),
        (mangle(format="other"), "wanted an object with format"),
        (mangle(version=1), "version: wanted 2, got 1"),
        (mangle(protected={"4": 1}), "mangled"),
        (mangle(remove={"0": [3]}), "wanted one entry for each"),
        (mangle(remove={"0": [3], "2": ["0"]}), "mangled"),
        (mangle(remove={"0": [3], "2": [9]}), r"wanted channels in \[0, 6\)"),
        (mangle(remove=3), "mangled"),
        (mangle(groups=[{"name": "0"}]), "mangled"),
        (mangle(extents={}), "wanted its shape in extents"),
        (mangle(note=None), "mangled"),
        (PLAN.to_json()[:-20], "wanted JSON"),
        (PLAN.to_json().replace('"step": 1', '"step": 0'), "step >= block"),
        (PLAN.to_json().replace('"dim": 0', '"dim": 0.5'), "mangled"),
    ],
)
def test_mangled_files(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Plan.from_json(text)
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"Plan\.load: .*plan\.json"):
        Plan.load(path)


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"Plan\.load"):
        Plan.load(path)


def test_plans_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.groups = ()
