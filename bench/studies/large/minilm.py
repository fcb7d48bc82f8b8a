"""A trained sentence encoder with fewer heads and neurons: how far its similarities drift, and how much faster it is.

    PYTHONPATH=bench:bench/studies python bench/studies/large/minilm.py [--quick]

Network: all-MiniLM-L6-v2 (6 layers, 12 heads, 1,536 neurons). Text: sentences of Python's own help. One in five is held out;
the cosine similarities of all pairs of those are compared with the dense network's by Spearman's rank correlation, and so are
those of 24 everyday sentences below. Labels, for criteria that need them: the topic, of the twelve with most sentences.

Criteria: SAE-MI (aura information of topic and activations), spatial aura entropy, Fisher information of a contrastive loss by
topic, L2 norms of whole groups, and chance. Each layer loses the same share of its heads and of its neurons.
Time: CPU seconds of a batch of held-out sentences on one thread, dense and cut passes in turn, medians of their ratio.
Fine-tuning: the cut network learns the dense one's vectors (1 - cosine) on the other four fifths, AdamW.

One JSON line a row is added to bench/results/minilm.jsonl; rows that are there already are not computed again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import ROOT, where_and_when
from scipy.stats import spearmanr
from torch import Tensor, nn

from pyprune_fast import AuraEntropy, AuraInformation, Lattice, score_model
from pyprune_fast.baselines import score_fisher
from pyprune_fast.demo import minilm, python_docs
from pyprune_fast.graph import find_groups
from pyprune_fast.observe import eval_mode
from pyprune_fast.prune.allocation import allocate, group_scores
from pyprune_fast.prune.norms import group_norms
from pyprune_fast.slicing import Group, Plan, apply

TOPICS = 12
SCORED = 512  # sentences that criteria look at
PARTS = {"heads": "attention", "neurons": "intermediate"}
CASES = ({"neurons": 0.5}, {"heads": 0.5}, {"heads": 0.5, "neurons": 0.5}, {"neurons": 0.25}, {"heads": 0.25})
CRITERIA = ("sae-mi", "L2", "fisher", "aura entropy", "random")
TUNED = CASES[2]
EVERYDAY = (
    "The cat sleeps on the warm windowsill.", "A kitten is napping by the window.",
    "Stock prices fell sharply on Monday.", "Shares dropped at the start of the week.",
    "She is learning to play the violin.", "He takes cello lessons twice a week.",
    "The recipe needs two eggs and some flour.", "Mix the batter with eggs before baking.",
    "Heavy rain is expected tomorrow.", "The forecast says it will pour all day.",
    "The train to Berlin leaves at noon.", "Our flight to Madrid was delayed.",
    "The team won the match in extra time.", "They scored the winning goal in the last minute.",
    "The doctor told him to rest for a week.", "She caught a cold and stayed in bed.",
    "The new phone has a better camera.", "This laptop's battery lasts all day.",
    "The museum shows paintings from the last century.", "An exhibition of modern art opened today.",
    "Children were playing in the park.", "The kids ran around the playground.",
    "The bridge was closed for repairs.", "Road works caused a long traffic jam.",
)  # fmt: skip


class Data:
    """Sentences as tokens: to learn from, to hold out, and with labels to score on."""

    def __init__(self, quick: bool) -> None:
        found = python_docs.sentences()
        found = found[:: len(found) // 100] if quick else found
        tokens = minilm.Tokens(32 if quick else 64)
        self.held_out = tokens([sentence for _, sentence in found[::5]][: 24 if quick else 128])
        self.everyday = tokens(EVERYDAY)
        rest = [pair for i, pair in enumerate(found) if i % 5]
        self.learning = tokens([sentence for _, sentence in rest])
        largest = [topic for topic, _ in Counter(topic for topic, _ in rest).most_common(TOPICS)]
        labelled = [(sentence, largest.index(topic)) for topic, sentence in rest if topic in largest]
        self.labelled = tokens([sentence for sentence, _ in labelled])
        self.labels = torch.tensor([label for _, label in labelled])
        self.topics = len(largest)

    def scoring(self, batch: int = 64) -> list[tuple[dict[str, Tensor], Tensor]]:
        """Batches in random order, (inputs, topics), without the columns that are all padding."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        return [(rows(self.labelled, part), self.labels[part]) for part in torch.split(order[:SCORED], batch)]


def rows(tokens: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Some sentences, as many columns as their longest has tokens."""
    longest = int(tokens["attention_mask"][index].sum(1).max())
    return {name: x[index, :longest] for name, x in tokens.items()}


def vectors(model: nn.Module, tokens: Mapping[str, Tensor]) -> Tensor:
    """Vectors of all sentences, 64 at a time."""
    with eval_mode(model):
        return torch.cat([model(**rows(tokens, part)) for part in torch.split(torch.arange(len(tokens["input_ids"])), 64)])


def drift(dense: Tensor, cut: Tensor) -> dict[str, float]:
    """Of the similarities of all pairs: rank correlation with the dense ones, and mean absolute difference."""
    pairs = torch.triu_indices(len(dense), len(dense), 1)
    before, after = ((x @ x.T)[pairs[0], pairs[1]] for x in (dense, cut))
    return {
        "spearman": round(float(spearmanr(before.numpy(), after.numpy()).statistic), 4),
        "difference": round(float((before - after).abs().mean()), 4),
    }


def contrast(output: Tensor, labels: Tensor) -> Tensor:
    """How badly sentences of one topic find each other: supervised contrastive loss (Khosla et al., NeurIPS 2020)."""
    apart = (output @ output.T / 0.1).masked_fill(torch.eye(len(labels), dtype=torch.bool), -torch.inf)
    same = (labels[:, None] == labels).fill_diagonal_(False)
    chances = apart.log_softmax(1).masked_fill(~same, 0.0).sum(1) / same.sum(1).clamp(min=1)
    return -chances.sum()


def score(criterion: str, model: nn.Module, groups: Sequence[Group], data: Data) -> dict[str, Tensor]:
    """Scores of heads and neurons, by group name."""
    layers = [layer for group in groups for layer in group.layers]
    batches = data.scoring()
    if criterion == "L2":
        return group_norms(model, groups)
    if criterion == "random":
        generator = torch.Generator().manual_seed(0)
        return {group.name: torch.rand(group.channels, generator=generator).double() for group in groups}
    if criterion == "fisher":
        ids = [(inputs["input_ids"], labels) for inputs, labels in batches]
        return group_scores(groups, score_fisher(model, ids, layers=layers, loss=contrast).layers)
    made = AuraInformation(num_classes=data.topics) if criterion == "sae-mi" else AuraEntropy()
    return group_scores(groups, score_model(model, batches, made, layers=layers, lattice=Lattice(), num_levels=8).layers)


def choose(groups: Sequence[Group], scores: Mapping[str, Tensor], case: Mapping[str, float]) -> dict[str, tuple[int, ...]]:
    """The heads and neurons that go: of each layer its share."""
    chosen: dict[str, tuple[int, ...]] = {}
    for part, ratio in case.items():
        own = [group for group in groups if PARTS[part] in group.name]
        chosen |= allocate(own, {group.name: scores[group.name] for group in own}, ratio=ratio)
    return chosen


def speed(dense: nn.Module, cut: nn.Module, tokens: Mapping[str, Tensor], repeats: int) -> float:
    """How much less CPU time the cut network takes: median ratio of passes that were made in turn."""
    inputs, ratios = rows(tokens, torch.arange(min(32, len(tokens["input_ids"])))), []
    with eval_mode(dense), eval_mode(cut):
        for _ in range(repeats + 1):
            spent = []
            for model in (dense, cut):
                start = time.process_time()
                model(**inputs)
                spent.append(time.process_time() - start)
            ratios.append(spent[0] / spent[1])
    return round(median(ratios[1:]), 3)


def tune(model: nn.Module, targets: Tensor, tokens: Mapping[str, Tensor], steps: int, batch: int = 16) -> None:
    """The cut network learns the dense network's vectors."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-4, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    for _, part in zip(range(steps), endless(len(targets), batch, generator), strict=False):
        loss = (1 - (model(**rows(tokens, part)) * targets[part]).sum(1)).mean()  # without dropout: the model is in eval mode
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def endless(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Whole batches of shuffled numbers, without end."""
    while True:
        for part in torch.split(torch.randperm(count, generator=generator), batch):
            if len(part) == batch or count < batch:
                yield part


def study(path: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """The rows that are not in the file yet."""
    torch.set_num_threads(1)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    data, dense, steps = Data(quick), minilm.network(), 3 if quick else 100
    about = {"machine": where_and_when(), "text": python_docs.fingerprint(), "steps": steps}
    groups = [g for g in find_groups(dense, data.everyday) if not g.fixed and any(p in g.name for p in PARTS.values())]
    before, everyday = vectors(dense, data.held_out), vectors(dense, data.everyday)
    targets, scores = None, dict[str, dict[str, Tensor]]()
    for case, criterion in itertools.product([TUNED] if quick else CASES, CRITERIA):
        if any(row["removed"] == case and row["criterion"] == criterion for row in done):
            continue
        if criterion not in scores:
            scores[criterion] = score(criterion, dense, groups, data)
        model = copy.deepcopy(dense)
        apply(model, Plan.of(model, groups, choose(groups, scores[criterion], case)), undo=False)
        row = {"criterion": criterion, "removed": case, "parameters": sum(p.numel() for p in model.parameters())}
        row |= {"held_out": drift(before, vectors(model, data.held_out))}
        row |= {"everyday": drift(everyday, vectors(model, data.everyday))}
        row |= {"speed": speed(dense, model, data.held_out, 1 if quick else 7)}
        if case == TUNED:
            targets = vectors(dense, data.learning) if targets is None else targets
            tune(model, targets, data.learning, steps)
            row |= {"tuned_held_out": drift(before, vectors(model, data.held_out))}
            row |= {"tuned_everyday": drift(everyday, vectors(model, data.everyday))}
        yield row | about


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description="A sentence encoder, cut.")
    parser.add_argument("--quick", action="store_true", help="few sentences and steps, which say nothing")
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "minilm.jsonl")
    options = parser.parse_args()
    for row in study(options.json, options.quick):
        with options.json.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({key: value for key, value in row.items() if key != "machine"}, flush=True)


if __name__ == "__main__":
    main()
