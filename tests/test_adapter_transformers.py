"""adapters.transformers: a small BERT that is cut while Trainer trains it, and configs that follow."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from pyprune_fast import ChannelInformation, LevelCalibration, observe
from pyprune_fast.adapters.training import Schedule
from pyprune_fast.adapters.transformers import PruningCallback, fit_config
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Metric, Target
from pyprune_fast.slicing import Plan, apply, load_pruned
from pyprune_fast.slicing.fingerprint import fingerprint

EXAMPLE = {"input_ids": torch.zeros(1, 6, dtype=torch.int64), "attention_mask": torch.ones(1, 6, dtype=torch.int64)}
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 20}
FFN = ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.1.intermediate.dense")
BODY = ("bert.embeddings", "bert.encoder.layer.0.attention", "bert.encoder.layer.1.attention", "bert.pooler")


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, max_position_embeddings=8))


def examples(count: int = 48) -> list[dict[str, Any]]:
    """Which of two tokens is more frequent."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(2, 20, (count, 6), generator=generator)
    labels = torch.arange(count) % 2
    rows[:, ::2] = labels[:, None]
    pairs = zip(rows, labels, strict=True)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": int(y)} for row, y in pairs]


def trained(model: Any, path: Path, *callbacks: Any, **options: Any) -> Trainer:
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
    fields = {"per_device_train_batch_size": 8, "num_train_epochs": 3, "learning_rate": 1e-2, "seed": 1, **quiet, **options}
    trainer = Trainer(model, TrainingArguments(str(path), **fields), train_dataset=examples(), callbacks=list(callbacks))
    trainer.train()
    return trainer


def by_information(model: Any, groups: Any) -> dict[str, Tensor]:
    """What the neurons of each feed-forward layer know of the label: scores by data for a model that takes keywords."""
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in examples()]) for name in examples()[0]}
    labels = batch.pop("labels")
    observers = {name: LevelCalibration(8, zero_bin=False) for name in FFN}
    with torch.no_grad(), observe(model, observers):
        model(**batch)
    estimators = {name: ChannelInformation(seen.compute(), num_classes=2) for name, seen in observers.items()}
    with torch.no_grad(), observe(model, estimators, labels=labels):
        model(**batch)
    return {name: estimator.compute() for name, estimator in estimators.items()}


def accuracy(model: Any) -> float:
    batch = {name: torch.stack([torch.as_tensor(row[name]) for row in examples()]) for name in ("input_ids", "labels")}
    training = model.training
    model.eval()
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"]).logits.argmax(1)
    model.train(training)
    return float((found == batch["labels"]).double().mean())


def test_ffn_cut_on_schedule_config_follows_and_reloads(tmp_path: Path) -> None:
    metrics = [Metric("accuracy", accuracy, floor=0.5)]
    schedule = Schedule(EXAMPLE, Target("channels", 0.5), [1, 2], scorer=by_information, metrics=metrics, ignore=BODY)
    callback, model = PruningCallback(schedule), bert()
    trainer = trained(model, tmp_path, callback, save_strategy="epoch")
    assert [event.accepted for event in schedule.events] == [True, True]
    assert callback.misfits == {}
    assert model.config.intermediate_size == model.bert.encoder.layer[0].intermediate.dense.out_features == 12
    optimizer = trainer.optimizer.optimizer
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape and optimizer.state[p]["step"] == 18 for p in model.parameters())
    logged = [row for row in trainer.state.log_history if "pruning/removed" in row]
    assert [row["step"] for row in logged] == [7, 13]
    assert [row["pruning/removed"] for row in logged] == pytest.approx([0.25, 0.5])
    again = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-18")
    assert fingerprint(again) == fingerprint(model)
    assert accuracy(model) > 0.9


def test_heads_are_saved_beside_a_config_that_cannot_say_so(tmp_path: Path) -> None:
    schedule = Schedule(EXAMPLE, Target("parameters", 0.3), [2], unit="step")
    callback, model = PruningCallback(schedule), bert()
    trained(model, tmp_path, callback, max_steps=4, save_strategy="steps", save_steps=4)
    assert model.bert.encoder.layer[0].attention.self.num_attention_heads == 3
    names = dict(model.named_parameters())
    assert callback.misfits
    assert all(f"wanted {tuple(names[name].shape)}, got" in why for name, why in callback.misfits.items())
    assert {name: getattr(model.config, name) for name in SIZES} == SIZES  # what load_pruned starts from
    again = load_pruned(lambda: BertForSequenceClassification(model.config), tmp_path / "checkpoint-4" / "pruned.safetensors")
    assert fingerprint(again) == fingerprint(model)


def test_rejected_cut_leaves_no_trace(tmp_path: Path) -> None:
    never = [Metric("width", lambda model: model.bert.pooler.dense.out_features, floor=16)]
    schedule = Schedule(EXAMPLE, Target("parameters", 0.3), [1, 3], unit="step", metrics=never)
    models = [bert(), bert()]
    for model, callbacks in zip(models, [[PruningCallback(schedule)], []], strict=True):
        trained(model, tmp_path, *callbacks, max_steps=5, gradient_accumulation_steps=2)
    assert [event.accepted for event in schedule.events] == [False, False]
    assert {name: getattr(models[0].config, name) for name in SIZES} == SIZES
    assert fingerprint(models[0]) == fingerprint(models[1])


def test_config_of_a_llama_with_fewer_heads(tmp_path: Path) -> None:
    """It has a head_dim, so that the number of heads is its own."""
    config = LlamaConfig(**SIZES, num_key_value_heads=2, head_dim=4, max_position_embeddings=8)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    ids = EXAMPLE["input_ids"]
    groups = find_groups(model, {"input_ids": ids, "use_cache": False})
    heads = [group.name for group in groups if "k_proj" in " ".join(group.layers) and group.channels == 2]
    assert len(heads) == 2
    apply(model, Plan.of(model, groups, {name: [0] for name in heads}))
    assert fit_config(model) == {}
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.hidden_size) == (2, 1, 4, 16)
    model.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_widths_that_differ_by_layer_are_named() -> None:
    model = bert().eval()
    groups = find_groups(model, EXAMPLE)
    apply(model, Plan.of(model, groups, {FFN[0]: [1, 2]}))
    misfits = fit_config(model)
    assert misfits
    assert all(name.startswith("bert.encoder.layer.") for name in misfits)
    assert model.config.intermediate_size == 24


def test_refuses() -> None:
    with pytest.raises(TypeError, match="fit_config: model: wanted a PreTrainedModel, got"):
        fit_config(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="PruningCallback: schedule: wanted a Schedule, got int 3"):
        PruningCallback(3)
    callback = PruningCallback(Schedule(EXAMPLE, Target("parameters", 0.3), [2]))
    with pytest.raises(ValueError, match="args: wanted one process and one device, got 2"):
        callback.on_train_begin(SimpleNamespace(world_size=2, n_gpu=0), None, None)


def test_an_uncut_model_keeps_its_config() -> None:
    model = BertModel(BertConfig(**SIZES))
    assert fit_config(model) == {}
    assert {name: getattr(model.config, name) for name in SIZES} == SIZES
