"""Our scores in torchao's row pruner, as docs/adapters/others.md shows it; where torchao is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import toy

from pyprune_fast import score_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # whatever torchao warns of


def test_rows_go_by_our_scores() -> None:
    pruner = pytest.importorskip("torchao.prototype.sparsity.pruner", reason="torchao is not installed")
    page = (Path(__file__).parents[1] / "docs" / "adapters" / "others.md").read_text()
    code = re.search(r"```text\n(class ByScores.*?)```", page, re.S)
    names: dict[str, Any] = {"BaseStructuredSparsifier": pruner.BaseStructuredSparsifier}
    exec(code.group(1), names)
    model, x = toy.model(), toy.batches(1, 3)[0][0]
    model = torch.nn.Sequential(model[0], model[2], *model[3:])  # its patterns know no BatchNorm here
    scores = score_weights(model, 1).layers
    weight = model[0].weight.detach().clone()
    theirs = names["ByScores"]({"sparsity_level": 0.5}, scores)
    theirs.prepare(model, [{"tensor_fqn": "0.weight"}])
    theirs.step()
    wanted = model(x)
    cut = theirs.prune()
    torch.testing.assert_close(cut(x), wanted)
    kept = scores["0"].argsort()[4:].sort().values
    assert torch.equal(cut.get_submodule("0").weight, weight[kept])
