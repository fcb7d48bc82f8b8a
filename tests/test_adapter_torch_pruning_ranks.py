"""Two ranks that hold different images prune the same channels, those that one process with all images prunes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ranks import batches, convolutions
from torch_pruning_nets import pruner

from pyprune_fast.adapters.torch_pruning import AuraInformationImportance, step


def history(part: slice, group: dist.ProcessGroup | None) -> list[object]:
    model, images = convolutions(), batches()
    importance = AuraInformationImportance().fit(model, images[part], process_group=group)
    cutter = pruner(model, images[0][0][:2], importance, global_pruning=True)
    step(cutter)
    return cutter.pruning_history()


def test_all_ranks_prune_the_same(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [subprocess.Popen([*command, str(rank)], env=env, stderr=subprocess.PIPE, text=True) for rank in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in started]  # of all, so that none is left running
    assert [process.returncode for process in started] == [0, 0], errors
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1] == history(slice(None), None)


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps(history(slice(rank, None, 2), dist.group.WORLD)))
    dist.destroy_process_group()
