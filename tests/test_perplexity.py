"""Perplexity of language models: by hand, with padding, with bounds, and as a surrogate."""

from __future__ import annotations

import math

import pytest
import torch
from sequence_nets import decoder
from torch import nn

from pyprune_fast.prune import metrics
from pyprune_fast.prune.metrics import Mean

IDS = torch.randint(0, 40, (6, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return decoder("Llama", 4, 2).eval()


def test_is_what_transformers_calls_the_loss(model) -> None:
    metric = metrics.perplexity(list(IDS.split(4)))
    with torch.no_grad():
        wanted = math.exp(model(input_ids=IDS, labels=IDS).loss)
    found = metric.measured(model)
    assert found.value == pytest.approx(wanted, rel=1e-5)
    assert metric.direction == "min"
    with torch.no_grad():
        assert metric.surrogate(model, IDS).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_not_foretold(model, left) -> None:
    lengths, rows = [12, 5, 1, 8], []
    mask = torch.zeros(4, 12, dtype=torch.int64)
    for row, length in zip(mask, lengths, strict=True):
        row[12 - length if left else 0 : 12 if left else length] = 1
    loss = tokens = 0.0
    with torch.no_grad():
        for ids, own in zip(IDS, mask, strict=False):
            if own.sum() > 1:
                sequence = ids[own.bool()][None]
                loss += float(model(input_ids=sequence, labels=sequence).loss) * (sequence.shape[1] - 1)
                tokens += sequence.shape[1] - 1
    rows = [{"input_ids": IDS[:4], "attention_mask": mask}]
    assert metrics.perplexity(rows).measured(model).value == pytest.approx(math.exp(loss / tokens), rel=1e-4)


def test_bounds_are_those_of_a_ratio(model) -> None:
    """Held against the spread of the estimate over many draws of sequences: what the bounds are there to foretell."""
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(IDS).logits[:, :-1].transpose(1, 2), IDS[:, 1:], reduction="none").sum(1)
    found = metrics.perplexity([IDS], confidence=0.95).estimate(model)
    wanted = Mean.of(losses.double() / 11).bounds(0.95)
    assert found.bounds(0.95) == pytest.approx(tuple(map(math.exp, wanted)), rel=1e-5)
    assert found.bounds(0.95)[0] < found.value < found.bounds(0.95)[1]
    assert Mean(800.0, 1.0, 3, "exponential").value == math.inf
    assert Mean.of([2.0], "exponential").bounds(0.9) is None


def test_a_floor_is_a_ceiling(model) -> None:
    value = metrics.perplexity([IDS]).measured(model).value
    assert metrics.perplexity([IDS], floor=value + 1).measured(model).ok
    assert not metrics.perplexity([IDS], floor=value - 1).measured(model).ok


@pytest.mark.parametrize(
    ("batches", "output", "text"),
    [
        ([IDS[:, :1]], None, "^perplexity: batches: wanted sequences of two tokens or more, got none"),
        (
            [IDS],
            torch.zeros(6, 40),
            r"^perplexity: model: wanted logits \(N, T, V\) for \(6, 12\) tokens, got \(6, 40\)",
        ),
        ([IDS], torch.zeros(6, 11, 40), r"^perplexity: model: wanted logits .* for \(6, 12\) tokens, got \(6, 11, 40\)"),
        ([], None, "^perplexity: batches: wanted at least one example, got none"),
    ],
)
def test_refuses(batches, output, text) -> None:
    class Given(nn.Module):
        def forward(self, ids):
            return torch.zeros(*ids.shape, 40) if output is None else output

    with pytest.raises(ValueError, match=text):
        metrics.perplexity(batches).measured(Given())
