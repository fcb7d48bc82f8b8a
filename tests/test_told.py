"""A model of six components around one latent state (`told`): what plain dependency graphs get wrong there, F1 to F5."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import told
import torch
from told import LATENT, TIES, TOLD, Widths

from pyprune_fast.graph import EntryPoint, MaskedModel, Tie, UntiedWarning, draw_groups, find_groups, group_table
from pyprune_fast.prune.cost import count_cost
from pyprune_fast.slicing import Plan, apply


def entries(actions=1):
    return told.entries(Widths(action=actions))


def lively(actions=1):
    torch.manual_seed(0)
    return TOLD(Widths(action=actions)).eval()


def by_name(groups):
    return {group.name: group for group in groups}


@pytest.mark.parametrize("actions", [1, 2, 6])
def test_twelve_groups_of_six_components(actions):
    """F3 among them: an action that is concatenated to the latent state is no part of it, however wide."""
    groups = find_groups(lively(actions), entries(actions), ties=TIES)
    free = [group for group in groups if not group.fixed]
    assert len(free) == 12
    assert [group.kind for group in free].count("intra") == 11
    (latent,) = (group for group in free if group.kind == "coupling")
    assert (latent.name, latent.channels, latent.subtype, latent.bound) == ("encoder.2", 50, "tied", 0.5)
    assert latent.components == ("encoder", "dynamics", "reward", "policy", "q1", "q2")
    assert latent.layers == ("encoder.2", "dynamics.4")
    assert {group.name: group.channels for group in free if group.name.startswith("q1")} == {"q1.0": 512, "q1.3": 512}
    assert {group.name for group in groups if group.fixed} == {"reward.4", "policy.4", "q1.5", "q2.5"}


def test_one_trace_that_feeds_the_state_back_needs_no_tie():
    groups = find_groups(lively(), torch.randn(3, 5))
    assert len([group for group in groups if not group.fixed]) == 12
    assert by_name(groups)["encoder.2"].layers == ("encoder.2", "dynamics.4")


def test_a_component_that_no_entry_point_runs_is_an_error():
    """F1: traced along the policy alone, the latent state looks like the business of two components."""
    path = {"policy": EntryPoint(lambda model, x: model.act(model.encode(x)), torch.randn(3, 5))}
    with pytest.raises(ValueError, match=r"every module with parameters.*'dynamics\.0'.*'q2\.5'"):
        find_groups(lively(), path)
    others = ["dynamics", "reward", "q1", "q2"]
    assert by_name(find_groups(lively(), path, ignore=others))["encoder.2"].components == ("encoder", "policy")


def test_an_untied_recurrence_is_warned_of_and_a_tie_joins_it():
    """F2: without the tie, the state's successor looks like a matter of its own."""
    with pytest.warns(UntiedWarning, match=r"output 0 of entry point 'next' has 50 channels.*'dynamics'"):
        groups = by_name(find_groups(lively(), entries(), ties=LATENT))
    assert groups["dynamics.4"].fixed == "an output of 'next'"
    step = EntryPoint(lambda model, x, a: model.next(model.encode(x), a), (torch.randn(3, 5), torch.randn(3, 1)))
    with pytest.warns(UntiedWarning):
        find_groups(lively(), {"step": step}, ignore=["policy", "q1", "q2"])
    assert "dynamics.4" not in by_name(find_groups(lively(), entries(), ties=TIES))


def test_counted_parameters_are_exact():
    """F4: a ratio of channels is no ratio of parameters. F5: a latent channel is worth six times an inner one."""
    model = lively()
    groups = find_groups(model, entries(), ties=TIES)
    assert sum(p.numel() for p in model.parameters()) == 1_490_024
    assert {g.name: g.parameters for g in groups if not g.fixed} == {
        "encoder.0": 56, "encoder.2": 3330, "dynamics.0": 564, "dynamics.2": 563, "reward.0": 564, "reward.2": 514,
        "policy.0": 563, "policy.2": 514, "q1.0": 566, "q1.3": 514, "q2.0": 566, "q2.3": 514,
    }  # fmt: skip
    for group in groups:
        if not group.fixed:
            apply(cut := lively(), Plan.of(cut, groups, {group.name: [3]}))
            assert 1_490_024 - sum(p.numel() for p in cut.parameters()) == group.parameters
    halves = {group.name: range(0, group.channels, 2) for group in groups if not group.fixed}
    apply(model, Plan.of(model, groups, halves))
    assert sum(p.numel() for p in model.parameters()) == 375_734


def test_counted_work_is_exact():
    model, inputs = lively(), torch.randn(3, 5)
    groups = find_groups(model, inputs)
    dense = count_cost(model, inputs).macs
    for group in groups:
        if not group.fixed:
            apply(cut := lively(), Plan.of(cut, groups, {group.name: [3]}))
            assert dense - count_cost(cut, inputs).macs == group.macs


@torch.no_grad()
def test_every_group_cut_equals_masked():
    model, points = lively(), entries()
    groups = find_groups(model, points, ties=TIES)
    twin = MaskedModel(model, groups, points, ties=TIES)
    observation = points["encode"].inputs
    for group in groups:
        if group.fixed:
            continue
        gone = list(range(0, group.channels, 3))
        mask = {group.name: torch.ones(group.channels).index_fill_(0, torch.tensor(gone), 0)}
        z = twin.run(mask, "encode")
        action = twin.run(mask, "act", ((z,), {}))
        z, reward = twin.run(mask, "next", ((z, action), {}))
        wanted = [reward, *twin.run(mask, "value", ((z, action), {}))]
        apply(cut := lively(), Plan.of(cut, groups, {group.name: gone}))
        z = cut.encode(observation)
        action = cut.act(z)
        z, reward = cut.next(z, action)
        for got, want in zip([reward, *cut.value(z, action)], wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_protection_and_policies_reach_plan_and_table():
    model = lively()
    reasons = {"reward": "certified", "encoder.0": "retrained next week"}
    groups = find_groups(
        model, entries(), ties=TIES, protect=reasons, policies={"policy.0": 0.25, "q1.0": "frozen", "policy.2": "joint"}
    )
    found = by_name(groups)
    assert {name for name, group in found.items() if group.protected} == {"encoder.0", "encoder.2", "reward.0", "reward.2"}
    assert found["reward.2"].fixed == "certified"
    assert (found["policy.0"].policy, found["policy.0"].bound) == ("bounded", 0.25)
    assert (found["q1.0"].bound, found["q1.0"].fixed) == (0.0, "frozen by its policy")
    plan = Plan.of(model, groups, {"policy.0": [0]})
    assert plan.protected["encoder.0"] == "retrained next week"
    assert Plan.from_json(plan.to_json()) == plan
    assert "protected: certified" in str(group_table(groups))
    with pytest.raises(ValueError, match="protect: wanted names of groups, layers or components"):
        find_groups(model, entries(), ties=TIES, protect={"nowhere": ""})
    with pytest.raises(ValueError, match="policies: wanted names of groups"):
        find_groups(model, entries(), ties=TIES, policies={"nowhere": "joint"})
    with pytest.raises(ValueError, match="policies: 'q1.0': wanted 'joint', 'frozen' or a fraction"):
        find_groups(model, entries(), ties=TIES, policies={"q1.0": 2})


def test_the_drawing_shows_components_and_groups():
    groups = find_groups(lively(), entries(), ties=TIES, components={"<world>": ["encoder", "dynamics"]})
    image = ElementTree.fromstring(draw_groups(groups))
    texts = [text.text for text in image.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["<world>", "root", *(f"{g.name}: {g.channels} x {g.parameters:,} parameters" for g in groups)]
    assert len(list(image.iter("{http://www.w3.org/2000/svg}path"))) == sum(len(group.components) for group in groups)
    assert any("an output of 'next'" in title.text for title in image.iter("{http://www.w3.org/2000/svg}title"))


def test_components_by_prefix():
    parts = {"world": ["encoder", "dynamics", "reward"], "agent": ["policy", "q1"]}
    latent = by_name(find_groups(lively(), entries(), ties=TIES, components=parts))["encoder.2"]
    assert (latent.components, latent.subtype) == (("world", "agent", "root"), "fan-out")
    with pytest.raises(ValueError, match="components: 'world': wanted names of the model's modules, got 'nowhere'"):
        find_groups(lively(), entries(), components={"world": ["nowhere"]})
    with pytest.raises(ValueError, match="components: wanted each module in one, got 'q1' in two"):
        find_groups(lively(), entries(), components={"world": ["q1"], "agent": ["q1"]})


def test_entry_points_and_ties_that_do_not_fit():
    model = lively()
    with pytest.raises(ValueError, match="entry point 'a': wanted a method of the model, got 'fly'"):
        find_groups(model, {"a": EntryPoint("fly", torch.zeros(1, 5))})
    with pytest.raises(ValueError, match="wanted entry points of different names"):
        find_groups(model, [entries()["act"], entries()["act"]])
    with pytest.raises(ValueError, match="ties: wanted"):
        find_groups(model, entries(), ties=[Tie(("encode", "output", 1), ("next", "input", 0))])
    with pytest.raises(ValueError, match=r"ties: .*wanted tensors of one shape, got \(3, 50\) and \(3, 1\)"):
        find_groups(model, entries(), ties=[Tie(("encode", "output", 0), ("next", "input", 1))])
