"""Lightning: a callback that scores, cuts and judges a network on schedule while it is trained.

from pyprune_fast.adapters.lightning import PruningCallback
"""

from __future__ import annotations

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from pyprune_fast._checks import describe

from .training import Schedule, recut


class PruningCallback(Callback):
    """Carries out a `Schedule` before its epochs (`Trainer.current_epoch`) or steps (`Trainer.global_step`).

    The optimisers of the trainer hold the cut parameters afterwards, with their states; a cut that the gate rejects is undone
    and training goes on. Each cut is logged as pruning/removed, /parameters, /macs, /accepted and pruning/<metric>. Checkpoints
    carry the plans; `prepare` makes a dense network fit one. On one device: a wrapper for several processes (DDP, FSDP) is
    refused before training starts, since it would go on with the uncut parameters.

    Args:
        schedule: when and how; its plans and events tell what was done.
        network: name of the part of the LightningModule that is cut, as "net"; "": all of it.

    Raises:
        TypeError: no Schedule.

    Example:
        >>> import torch
        >>> from pyprune_fast.prune import Target
        >>> schedule = Schedule(torch.zeros(1, 8), Target("parameters", 0.5), at=[1, 2])
        >>> PruningCallback(schedule, "net").state_dict()
        {'dense': 0.0, 'done': [], 'plans': []}
    """

    def __init__(self, schedule: Schedule, network: str = "") -> None:
        if not isinstance(schedule, Schedule):
            raise TypeError(f"PruningCallback: schedule: wanted a Schedule, got {describe(schedule)}")
        self.schedule = schedule
        self.network = network

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses what cannot be cut: several processes, or a network of another name."""
        if trainer.world_size > 1:
            raise ValueError(f"PruningCallback: trainer: wanted one process, got {trainer.world_size}")
        if self.network not in dict(pl_module.named_modules()):
            raise ValueError(f"PruningCallback: network: wanted the name of a part of the module, got {self.network!r}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A cut, where the schedule has one before this epoch."""
        if self.schedule.unit == "epoch":
            self._cut_if_due(trainer, pl_module, trainer.current_epoch)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A cut, where the schedule has one before this step."""
        if self.schedule.unit == "step":
            self._cut_if_due(trainer, pl_module, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The plans, for checkpoints."""
        return self.schedule.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The plans, from a checkpoint."""
        self.schedule.restore(state_dict)

    def prepare(self, network: nn.Module, checkpoint: str | os.PathLike[str]) -> None:
        """Cuts a dense network as that of a checkpoint was, before `Trainer.fit(..., ckpt_path=checkpoint)` or loading it.

        Args:
            network: of the architecture of before the first cut, with any weights.
            checkpoint: a file that Lightning wrote with such a callback; read with weights_only=True.

        Raises:
            ValueError: a checkpoint without this callback, or another architecture.
        """
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True).get("callbacks", {})
        if self.state_key not in saved:
            raise ValueError(f"PruningCallback.prepare: checkpoint: wanted one with a {self.state_key}, got {sorted(saved)}")
        recut(network, saved[self.state_key])

    def _cut_if_due(self, trainer: Trainer, pl_module: LightningModule, now: int) -> None:
        if self.schedule.due(now):
            event = self.schedule.cut(pl_module.get_submodule(self.network), now, trainer.optimizers)
            pl_module.log_dict(event.logs())
