"""What hangs on a group: makers, followers and readers as the trace saw them, in words, in JSON and in DOT."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import torch
from test_told import TIES, by_name, entries, lively
from torch import nn

from pyprune_fast.graph import draw_groups, explain, find_groups, group_table, groups_to_dot
from pyprune_fast.slicing import Group, Plan


def test_the_latent_state_hangs_together_as_the_model_says():
    groups = find_groups(lively(), entries(), ties=TIES)
    found = explain(by_name(groups)["encoder.2"], groups)
    assert found.makers == ("encoder.2", "dynamics.4")
    assert found.readers == ("dynamics.0", "reward.0", "policy.0", "q1.0", "q2.0")
    assert found.feeds == found.readers
    assert found.components == ("encoder", "dynamics", "reward", "policy", "q1", "q2")
    assert "q1.0 and q2.0 would have nothing to read" in str(found)
    assert "takes 3,330 parameters" in str(found)
    assert "At most 50% of them may go" in str(found)
    assert "encoder.2" in explain(by_name(groups)["dynamics.2"], groups).feeds  # the recurrence


def test_norms_and_shortcuts_follow_and_are_no_readers():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.ConvTranspose2d(4, 2, 2)

        def forward(self, x):
            x = self.norm(self.first(x))
            return self.head(x + self.second(x).relu())

    groups = find_groups(Residual(), torch.rand(1, 1, 4, 4))
    found = explain(groups[0], groups)
    assert (found.makers, found.followers, found.readers) == (("first", "second"), ("norm",), ("second", "head"))
    assert found.feeds == ("first", "head")  # what it is added to again, and the output
    assert explain(groups[-1], groups).readers == ()


def test_a_norm_without_tensors_follows_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2))
    assert explain(find_groups(model, torch.zeros(1, 3))[0]).followers == ("1",)


def test_a_table_for_machines_has_all_of_it():
    groups = find_groups(lively(), entries(), ties=TIES)
    rows = {row["id"]: row for row in json.loads(group_table(groups).to_json())}
    assert rows["encoder.0"]["makers"] == ["encoder.0"]
    assert rows["encoder.0"]["readers"] == rows["encoder.0"]["feeds"] == ["encoder.2"]
    assert json.loads(json.dumps(explain(groups[0], groups).plain()))["readers"] == ["encoder.2"]


def test_dot_has_every_group_once_and_an_arrow_for_every_layer_between_two():
    groups = find_groups(lively(), entries(), ties=TIES)
    text = groups_to_dot(groups)
    assert sorted(re.findall(r'^ +"([^"]+)" \[label="[^"]*channel', text, re.M)) == sorted(group.name for group in groups)
    arrows = re.findall(r'"([^"]+)" -> "([^"]+)" \[label="([^"]+)"\]', text)
    assert ("dynamics.2", "encoder.2", "dynamics.4") in arrows
    assert len(arrows) == sum(len(explain(group, groups).feeds) for group in groups)
    assert text.count("{") == text.count("}") == 7  # the graph and six components
    assert text == groups_to_dot(groups)


def test_hostile_names_stay_names():
    name = 'a"]; evil -> "b\\<script>'
    group = Group(name, 2, (), (), components=("c",), makers=(name,), readers=(name,))
    text = groups_to_dot([group])
    assert re.fullmatch(r'"(\\.|[^"\\])*" -> "(\\.|[^"\\])*" \[label="(\\.|[^"\\])*"\];', text.splitlines()[-2].strip())
    assert "<script>" not in draw_groups([group])


def test_plans_keep_makers_and_readers_and_older_ones_have_none():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = Plan.of(model, find_groups(model, torch.zeros(1, 3)), {"0": [1]})
    assert Plan.from_json(plan.to_json()).groups[0].readers == ("2",)
    old = json.loads(plan.to_json())
    del old["groups"][0]["makers"], old["groups"][0]["readers"]
    assert Plan.from_json(json.dumps(old)) == replace(plan, groups=(replace(plan.groups[0], makers=(), readers=()),))
