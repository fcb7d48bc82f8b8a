"""Perplexity of a small language model before and after a cut of its neurons and key-value groups, and after training goes on.

    PYTHONPATH=bench:bench/studies python bench/studies/large/language_model.py [--quick]

No usable language model ships in a package, so one is trained here, in minutes: a Llama of 4 blocks, 128 wide, with 8 heads
that share 4 sets of keys and values, on the bytes of Python's own help; the last tenth of the text is held out. A quarter of
the neurons and of the key-value groups of each block goes, by spatial aura entropy, by L2 norms of whole groups, and by chance.
One seed. Results: bench/results/language-model.json.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from record import ROOT, where_and_when
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pyprune_fast import AuraEntropy, Lattice, score_model
from pyprune_fast.demo import python_docs
from pyprune_fast.graph import find_groups
from pyprune_fast.prune.allocation import allocate, group_scores
from pyprune_fast.prune.metrics import perplexity
from pyprune_fast.prune.norms import group_norms
from pyprune_fast.slicing import Group, Plan, apply

TOKENS, BATCH, REMOVE = 128, 16, 0.25
CRITERIA = ("aura entropy", "L2", "random")


def network(quick: bool) -> nn.Module:
    """An untrained Llama of 256 tokens, one a byte."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    width = 32 if quick else 128
    config: Any = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=2 if quick else 4,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=TOKENS, use_cache=False,
    )  # fmt: skip
    return cast(nn.Module, LlamaForCausalLM(config)).eval()


def texts(quick: bool) -> tuple[Tensor, Tensor]:
    """Sequences of bytes to learn from and to hold out, (N, T) int64."""
    data = torch.tensor(list(python_docs.text().encode()))
    rows = data[: len(data) // TOKENS * TOKENS].view(-1, TOKENS)
    if quick:
        rows = rows[:80]
    held_out = len(rows) // 10
    return rows[:-held_out], rows[-held_out:]


def train(model: nn.Module, rows: Tensor, steps: int, rate: float, seed: int) -> None:
    """Learns to foretell the next byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        loss: Any = cross_entropy(model(part).logits[:, :-1].transpose(1, 2), part[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def scored(criterion: str, model: nn.Module, groups: list[Group], rows: Tensor) -> dict[str, Tensor]:
    """Scores of neurons and key-value groups."""
    if criterion == "L2":
        return group_norms(model, groups)
    if criterion == "random":
        generator = torch.Generator().manual_seed(0)
        return {group.name: torch.rand(group.channels, generator=generator).double() for group in groups}
    layers = [layer for group in groups for layer in group.layers]
    batches = [{"input_ids": part} for part in torch.split(rows[:256], BATCH)]
    return group_scores(groups, score_model(model, batches, AuraEntropy(), layers=layers, lattice=Lattice()).layers)


def study(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for the trained model, and one for each criterion."""
    torch.set_num_threads(1)
    learning, held_out = texts(quick)
    steps, more = (20, 5) if quick else (600, 100)
    model = network(quick)
    metric = perplexity(list(torch.split(held_out, BATCH)), confidence=0.95)

    def measured(model: nn.Module) -> list[float]:
        found = metric.estimate(model)
        bounds = found.bounds(0.95)
        assert bounds is not None
        return [round(number, 3) for number in (found.value, *bounds)]

    untrained = measured(model)
    train(model, learning, steps, 3e-3, 0)
    dense = {"parameters": sum(p.numel() for p in model.parameters()), "perplexity": measured(model)}
    yield {"criterion": "dense", "untrained": untrained, "steps": steps} | dense
    groups = [group for group in find_groups(model, learning[:1]) if not group.fixed and group.kind == "intra"]
    for criterion in CRITERIA:
        cut = copy.deepcopy(model)
        chosen = allocate(groups, scored(criterion, model, groups, learning), ratio=REMOVE)
        apply(cut, Plan.of(cut, groups, chosen), undo=False)
        row: dict[str, Any] = {"criterion": criterion, "parameters": sum(p.numel() for p in cut.parameters())}
        row["perplexity"] = measured(cut)
        train(cut, learning, more, 1e-3, 1)
        yield row | {"steps": more, "tuned": measured(cut)}


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description="Perplexity before and after a cut.")
    parser.add_argument("--quick", action="store_true", help="a run of seconds, whose results say nothing")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "language-model.json")
    options = parser.parse_args()
    rows = []
    for row in study(options.quick):
        rows.append(row)
        print(row, flush=True)
    about = {"machine": where_and_when(), "text": python_docs.fingerprint(), "tokens": TOKENS, "remove": REMOVE}
    options.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
