"""adapters.lightning: a network that is cut while Lightning trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyprune_fast.adapters.lightning import PruningCallback
from pyprune_fast.adapters.training import Schedule, by_criterion
from pyprune_fast.prune import Metric, Target, accuracy, count_cost
from pyprune_fast.slicing import load_pruned, save_pruned
from pyprune_fast.slicing.fingerprint import fingerprint

EXAMPLE = torch.zeros(1, 1, 8, 8)
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),  # batches that are in memory
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),  # Lightning's own
]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
    )


class Classifier(LightningModule):
    """Its network lies in a child, as is usual."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.seen = net, []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.seen.append(self.net[0].out_channels)
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.net.parameters(), 1e-2)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(toy.batches(8, 0), batch_size=None)


def trainer(path: Path, *callbacks: Any, epochs: int = 4, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "log_every_n_steps": 1}
    quiet |= {"enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks)}
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), default_root_dir=path, **{"logger": False, **quiet, **options})


def schedule(**changed: Any) -> Schedule:
    fields = {"example": EXAMPLE, "target": Target("macs", 0.6), "at": [2, 3]}
    return Schedule(**{**fields, **changed})


def test_cut_on_schedule_with_optimiser_gate_and_logs(tmp_path: Path) -> None:
    net, scorer = network(), by_criterion("sae", toy.batches(8, 1))
    metrics = [Metric("accuracy", lambda model: accuracy(model, toy.batches(4, 2)), floor=0.6)]
    callback = PruningCallback(schedule(scorer=scorer, metrics=metrics), "net")
    module, logger = Classifier(net), CSVLogger(tmp_path)
    dense = count_cost(net, EXAMPLE)
    own = trainer(tmp_path, callback, logger=logger)
    own.fit(module)
    events = callback.schedule.events
    assert [event.at for event in events] == [2, 3]
    assert [event.verdict.reasons for event in events] == [(), ()]
    assert [event.removed for event in events] == pytest.approx([0.3, 0.6], abs=0.1)  # of 8 channels, it moves in steps
    assert count_cost(net, EXAMPLE) == events[-1].cost
    assert 1 - events[-1].cost.macs / dense.macs == pytest.approx(events[-1].removed)
    assert module.seen[:16] == [8] * 16  # whole in two epochs of 8 steps, then narrower and narrower
    assert 8 > module.seen[16] > module.seen[24] == net[0].out_channels
    (optimizer,) = own.optimizers
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(held, net.parameters(), strict=True))
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape and optimizer.state[p]["step"] == 32 for p in held)
    assert accuracy(net, toy.batches(4, 2)) > 0.95
    header = Path(logger.log_dir, "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"pruning/removed", "pruning/macs", "pruning/parameters", "pruning/accepted", "pruning/accuracy"} <= set(header)
    save_pruned(net, tmp_path / "pruned", callback.schedule.plans)
    again = load_pruned(network, tmp_path / "pruned")
    assert fingerprint(again) == fingerprint(net)


def test_rejected_cut_leaves_no_trace(tmp_path: Path) -> None:
    """The training ends where it ends without the callback, bit for bit."""
    nets = [network(), network()]
    never = Metric("width", lambda model: model[0].out_channels, floor=8)
    callback = PruningCallback(schedule(metrics=[never], at=[3, 9], unit="step"), "net")
    for net, callbacks in zip(nets, [[callback], []], strict=True):
        torch.manual_seed(1)
        trainer(tmp_path, *callbacks, epochs=2).fit(Classifier(net))
    assert [event.accepted for event in callback.schedule.events] == [False, False]
    assert "width: " in callback.schedule.events[0].verdict.reasons[0]
    assert callback.schedule.plans == []
    assert fingerprint(nets[0]) == fingerprint(nets[1])


def test_steps_and_accumulated_gradients(tmp_path: Path) -> None:
    """Once a step, although several batches belong to it; the gradients gathered so far are cut with their weights."""
    callback = PruningCallback(schedule(at=[1], unit="step"), "net")
    module = Classifier(network())
    trainer(tmp_path, callback, epochs=1, accumulate_grad_batches=4).fit(module)
    assert [event.at for event in callback.schedule.events] == [1]
    assert module.seen[:4] == [8] * 4
    assert set(module.seen[4:]) == {module.net[0].out_channels} != {8}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_checkpoint_of_a_cut_network_is_resumed(tmp_path: Path) -> None:
    whole, resumed = network(), network()
    first, second = (PruningCallback(schedule(), "net") for _ in range(2))
    files = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1) for _ in range(2)]
    trainer(tmp_path, first, files[0]).fit(Classifier(whole))
    checkpoint = tmp_path / "epoch=2.ckpt"  # after the first cut
    second.prepare(resumed, checkpoint)
    trainer(tmp_path, second, files[1]).fit(Classifier(resumed), ckpt_path=checkpoint)
    assert fingerprint(resumed) == fingerprint(whole)
    assert second.schedule.plans == first.schedule.plans
    assert [event.at for event in second.schedule.events] == [3]
    trainer(tmp_path / "without", ModelCheckpoint(tmp_path / "without"), epochs=1).fit(Classifier(network()))
    with pytest.raises(ValueError, match="checkpoint: wanted one with a PruningCallback"):
        second.prepare(network(), next((tmp_path / "without").glob("*.ckpt")))


@pytest.mark.parametrize(
    ("changed", "error", "text"),
    [
        ({"at": []}, ValueError, "Schedule: at: wanted at least one epoch, ascending, each once"),
        ({"at": [2, 1]}, ValueError, "Schedule: at: wanted at least one epoch, ascending, each once"),
        ({"at": [-1]}, ValueError, "Schedule: at: wanted at least 0, got -1"),
        ({"unit": "day"}, ValueError, "Schedule: unit: wanted 'epoch' or 'step'"),
        ({"target": 0.5}, TypeError, "Schedule: target: wanted a Target, got float 0.5"),
    ],
)
def test_schedules_refuse(changed: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        schedule(**changed)


def test_callback_refuses(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="schedule: wanted a Schedule, got int 3"):
        PruningCallback(3)
    with pytest.raises(ValueError, match="network: wanted the name of a part of the module, got 'body'"):
        trainer(tmp_path, PruningCallback(schedule(), "body")).fit(Classifier(network()))
    several = PruningCallback(schedule(), "net")
    own = trainer(tmp_path, several)
    own.strategy.__class__ = type("Two", (type(own.strategy),), {"world_size": 2})
    own.__class__ = type("Several", (Trainer,), {"world_size": 2})
    with pytest.raises(ValueError, match="trainer: wanted one process, got 2"):
        several.setup(own, Classifier(network()), "fit")
