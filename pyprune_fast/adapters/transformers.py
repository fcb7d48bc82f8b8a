"""transformers: a callback that cuts a model while `Trainer` trains it, and its config brought in line with the cut.

from pyprune_fast.adapters.transformers import PruningCallback, fit_config
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pyprune_fast._checks import describe
from pyprune_fast.slicing import save_pruned

from .training import Schedule

# Config fields that say how wide the tensors are, and those that attentions repeat.
_SIZES = (
    "hidden_size", "intermediate_size", "embedding_size", "d_model", "d_ff", "d_kv", "dim", "hidden_dim", "n_embd", "n_inner",
    "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "word_embed_proj_dim",
)  # fmt: skip
_HEADS = ("num_attention_heads", "num_key_value_heads", "num_heads", "n_head", "n_heads", "head_dim")


def fit_config(model: PreTrainedModel) -> dict[str, str]:
    """Changes a cut model's config to one that builds it, where there is one.

    Widths and numbers of heads are read off the tensors and the attentions; whether the config then builds this model is
    tried, on the meta device: every tensor must have its shape. If so, the model's config is changed (in place, since its
    layers share it), and `save_pretrained` and `from_pretrained` work as ever.

    Not representable are, for example, layers of different widths (one `intermediate_size` serves them all), and fewer heads
    in models that divide the hidden size by their number (BERT, GPT-2: they have no head_dim). Such a model keeps its old
    config, and is kept by `slicing.save_pruned` and `load_pruned`.

    Args:
        model: any PreTrainedModel; only its config is changed.

    Returns:
        Nothing where the config now builds the model; else, by tensor, why not.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
        >>> model = BertModel(BertConfig(hidden_size=8, intermediate_size=6, **sizes))
        >>> fit_config(model)
        {}
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"fit_config: model: wanted a PreTrainedModel, got {describe(model)}")
    shapes = _shapes(model)
    fields = _fields(model, _shapes(_built(type(model), model.config)), shapes)
    best: dict[str, str] = {}
    for values in itertools.product(*fields.values()):
        chosen = dict(zip(fields, values, strict=True))
        misfits = _misfits(model, chosen, shapes)
        if not misfits:
            for name, value in chosen.items():
                setattr(model.config, name, value)
            return {}
        best = min(best or misfits, misfits, key=lambda found: ("" in found, len(found)))
    return best


class PruningCallback(TrainerCallback):
    """Carries out a `Schedule` before its epochs or steps (`TrainerState.global_step`), counted from 0.

    The optimiser holds the cut parameters afterwards, with their states; a cut that the gate rejects is undone and training
    goes on. The config follows where it can, see `fit_config`; where it cannot, it is that of before the first cut, and each
    checkpoint also gets the model as pruned.safetensors, for `slicing.load_pruned`. Logged as pruning/removed, /parameters,
    /macs, /accepted and pruning/<metric>. In one process on one device: wrappers for several are refused when training starts.

    Args:
        schedule: when and how; its plans and events tell what was done.

    Attributes:
        misfits: what `fit_config` said after the last cut.

    Raises:
        TypeError: no Schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"PruningCallback: schedule: wanted a Schedule, got {describe(schedule)}")
        self.schedule = schedule
        self.misfits: dict[str, str] = {}
        self._config: dict[str, Any] = {}
        self._unlogged: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Refuses several processes or devices, whose wrappers would go on with the uncut parameters."""
        if (several := max(args.world_size, args.n_gpu)) > 1:
            raise ValueError(f"PruningCallback: args: wanted one process and one device, got {several}")

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """A cut, where the schedule has one before this epoch."""
        if self.schedule.unit == "epoch":
            self._cut_if_due(round(state.epoch or 0), **given)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """A cut, where the schedule has one before this step."""
        if self.schedule.unit == "step":
            self._cut_if_due(state.global_step, **given)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> TrainerControl | None:
        """Has what the last cut did logged."""
        control.should_log = control.should_log or bool(self._unlogged)
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Adds what the last cut did."""
        for row in (given["logs"], *state.log_history[-1:]):
            row.update(self._unlogged)
        self._unlogged = {}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Puts the model beside its checkpoint, where its config does not build it."""
        if self.misfits:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            save_pruned(given["model"], folder / "pruned.safetensors", self.schedule.plans)

    def _cut_if_due(self, now: int, model: Any, optimizer: Any, **given: Any) -> None:
        if self.schedule.due(now):
            if isinstance(model, PreTrainedModel) and not self._config:
                self._config = copy.deepcopy(model.config.to_dict())
            own = getattr(optimizer, "optimizer", optimizer)  # inside of accelerate's
            event = self.schedule.cut(model, now, [] if own is None else [own])
            if event.accepted and isinstance(model, PreTrainedModel):
                self.misfits = fit_config(model)
                for name in (*_SIZES, *_HEADS) if self.misfits else ():  # what load_pruned starts from, as before all cuts
                    if name in self._config:
                        setattr(model.config, name, self._config[name])
            self._unlogged = event.logs()


def _built(kind: type[PreTrainedModel], config: PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return kind(copy.deepcopy(config))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def _misfits(model: PreTrainedModel, fields: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The tensors that a config with these fields would make otherwise."""
    config = copy.deepcopy(model.config)
    for name, value in fields.items():
        setattr(config, name, value)
    shown = ", ".join(f"{name} {value}" for name, value in fields.items())
    try:
        got = _shapes(_built(type(model), config))
    except (ValueError, RuntimeError) as error:  # sizes that the model's own code refuses
        return {"": f"wanted a model with {shown}, got {error}"}
    return {
        name: f"wanted {shape}, got {got.get(name)} from a config with {shown}"
        for name, shape in shapes.items()
        if got.get(name) != shape
    }


def _fields(
    model: PreTrainedModel, dense: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, list[int]]:
    """The fields that may have changed, with the values that are found in the model, the commonest first."""
    fields: dict[str, Counter[int]] = {}
    size = getattr(model.config, "head_dim", None) or _head_size(model.config)
    pairs = [pair for name, old in dense.items() if name in shapes for pair in zip(old, shapes[name], strict=True)]
    for name in _SIZES:
        value = getattr(model.config, name, None)
        fields[name] = Counter(new for old, new in pairs if old == value)
    for name in _HEADS:
        if isinstance(value := getattr(model.config, name, None), int):
            fields[name] = Counter(n for module in model.modules() if type(n := vars(module).get(name)) is int)
            if name != "head_dim":  # attentions that do not count their heads: told by the rows of their projections
                rows = value * size
                fields[name] += Counter(new // size for old, new in pairs if old == rows and new % size == 0)
    return {
        name: [value for value, _ in found.most_common()]
        for name, found in fields.items()
        if found and set(found) != {getattr(model.config, name)}
    }


def _head_size(config: PretrainedConfig) -> int:
    """The width of a head, where the config has no field for it."""
    return max(1, int(getattr(config, "hidden_size", 1)) // int(getattr(config, "num_attention_heads", 1)))
