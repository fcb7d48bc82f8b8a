"""Magnitudes of groups: the sums they are said to be, whatever a channel is and whatever the dtype."""

from __future__ import annotations

import copy

import pytest
import torch
from architectures import ALL
from test_architectures import found, prunable

from pyprune_fast.graph import Group, Member
from pyprune_fast.prune import group_norms


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_scores_are_the_mean_over_members_of_sums_over_what_a_channel_owns(name, power):
    model, _, groups = found(name)
    scores = group_norms(model, groups, power)
    assert list(scores) == [group.name for group in prunable(name)]
    weights = {key: p.detach().double() for key, p in model.named_parameters() if p.ndim > 1}
    for group in prunable(name):
        members = [member for member in group.members if member.tensor in weights]
        for channel in {0, group.channels - 1}:
            owned = [weights[m.tensor].index_select(m.dim, m.positions([channel])) for m in members]
            wanted = sum(part.abs().pow(power).sum() for part in owned) / len(members)
            torch.testing.assert_close(scores[group.name][channel], wanted, rtol=1e-6, atol=0)


def test_half_precision_is_summed_in_single():
    model, _, groups = found("llama_4_2")
    half = copy.deepcopy(model).bfloat16()
    wanted = group_norms(half.float(), groups)
    got = group_norms(half.bfloat16(), groups)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_groups_of_another_model_and_other_powers():
    model, _, groups = found("autoencoder")
    with pytest.raises(ValueError, match=r"norms: power: wanted 1 or 2, got 3"):
        group_norms(model, groups, 3)
    for member in (
        Member("nowhere.weight", 0, 0, 1, 1),
        Member("encoder.0.weight", 0, 0, 2, 1),
        Member("encoder.0.weight", 2, 0, 1, 1),
    ):
        with pytest.raises(ValueError, match=r"group_norms: group 'a': wanted a group of this model, got Member"):
            group_norms(model, [Group("a", 256, ("a",), (member,))])
