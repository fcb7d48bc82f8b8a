"""Our importances in fasterai's pruner and in its callback, as docs/adapters/torch-pruning.md shows; where it is installed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from pyprune_fast.adapters.torch_pruning import AuraInformationImportance
from pyprune_fast.demo.toy import data, model

pytestmark = pytest.mark.filterwarnings("ignore")  # whatever fastai warns of


@pytest.fixture(scope="module", autouse=True)
def _operations_of_torchvision() -> Any:
    """fastai imports torchvision, whose builds for CUDA ask for operations that they lack beside a torch without it."""
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pytest.skip("torchvision is not installed")
    except RuntimeError:  # "operator torchvision::nms does not exist"; nothing here calls them
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        yield library
    else:
        yield


def fitted() -> tuple[nn.Module, AuraInformationImportance, Any]:
    torch.manual_seed(0)
    network, batches = model(), data().calibration
    return network, AuraInformationImportance().fit(network, batches), batches


def test_its_pruner_cuts_by_our_scores() -> None:
    found = pytest.importorskip("fasterai.prune.pruner", reason="fasterai is not installed")
    criteria = pytest.importorskip("fasterai.core.criteria")
    network, importance, batches = fitted()
    plain, other = copy.deepcopy(network), copy.deepcopy(network)
    example = batches[0][0][:1]
    theirs = found.Pruner(network, 0.5, "local", criteria.large_final, example_inputs=example)
    theirs.pruner.importance = importance
    theirs.prune_model()
    ours = AuraInformationImportance().fit(other, batches)
    tp.pruner.MetaPruner(other, example, ours, pruning_ratio=0.5, ignored_layers=[other[-1]]).step()
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    found.Pruner(plain, 0.5, "local", criteria.large_final, example_inputs=example).prune_model()
    assert not torch.equal(plain[0].weight, network[0].weight)  # its own criterion keeps others


def test_its_callback_cuts_by_our_scores_while_it_trains() -> None:
    callbacks = pytest.importorskip("fasterai.prune.prune_callback", reason="fasterai is not installed")
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Learner
    from fasterai.core.criteria import large_final
    from fasterai.core.schedule import agp

    network, importance, batches = fitted()
    calls = []

    class ByScores(callbacks.PruneCallback):
        def before_fit(self) -> None:
            super().before_fit()
            self.pruner.pruner.importance = lambda group: calls.append(group) or importance(group)

    pairs = [pair for batch in batches for pair in zip(*batch, strict=True)]
    loaders = DataLoaders(*(DataLoader(pairs, bs=64, num_workers=0) for _ in range(2)))
    cut = ByScores(0.5, agp, "local", large_final, example_inputs=batches[0][0][:1])
    learner = Learner(loaders, network, loss_func=nn.CrossEntropyLoss())
    with learner.no_bar(), learner.no_logging():
        learner.fit(2, cbs=cut)
    assert network[0].out_channels == network[3].out_channels == 4
    assert len(calls) > 2  # in more than one step, each after what the last one cut
    assert all(parameter.isfinite().all() for parameter in network.parameters())
