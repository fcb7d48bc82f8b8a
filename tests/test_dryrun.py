"""The dry run against real runs: bytes that ranks hold and move, counted; and what it says of large models without weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pyprune_fast import AuraEntropy, AuraInformation, ChannelInformation, Lattice, cli, score_model
from pyprune_fast.distributed import DIMS
from pyprune_fast.dryrun import Cluster, Share, all_reduce_seconds, as_rows, dry_run
from pyprune_fast.fingerprint import fingerprint_tensors
from pyprune_fast.large import weightless
from pyprune_fast.report.scores import fingerprint_all

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "bench" / "studies" / "large"
IMAGE = torch.zeros(1, 3, 10, 10)
SHAPES = 6 * 8 * (1 + DIMS)  # of the six layers' counts: told before these are merged


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(216, 5))


@pytest.fixture(scope="module")
def cluster():
    sys.path.insert(0, str(STUDY))
    try:
        import cluster
    finally:
        sys.path.remove(str(STUDY))
    return cluster


@pytest.fixture(scope="module")
def real() -> dict[str, dict]:
    """What two ranks of gloo held and moved, by kind of model."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(STUDY / "cluster.py"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "ddp", "fsdp", "tensor"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["kind"]: row for row in rows}


def foretold(cluster, sharding: str, ranks: int = 2) -> Share:
    example = {"input_ids": cluster.batches()[0]["input_ids"][:1]}
    model = weightless(cluster.network)
    given = {"layers": cluster.LAYERS, "images": 12, "batch": 2, "tensor": 2, "sharding": sharding, **cluster.OPTIONS}
    return dry_run(model, example, AuraEntropy(), ranks=[ranks], **given)[0]


def test_ranks_give_what_one_process_gives(cluster, real) -> None:
    scores = score_model(cluster.network(), cluster.batches(), AuraEntropy(), layers=cluster.LAYERS, **cluster.OPTIONS)
    assert real["ddp"]["sha256"] == real["fsdp"]["sha256"] == fingerprint_all(scores)
    assert real["tensor"]["first"] == fingerprint_tensors({"": scores.estimators[cluster.LAYERS[0]].counts})
    for name, row in scores.layers.items():
        assert torch.allclose(torch.tensor(real["tensor"]["scores"][name]).double(), row, atol=0.1)


def test_bytes_of_replicated_weights(cluster, real) -> None:
    share, found = foretold(cluster, "replicated"), real["ddp"]
    assert (share.weights, share.passes_bytes) == (found["weights"], 0)
    assert (share.counts + SHAPES, share.sample) == (found["all_reduce int64"], found["all_reduce float32"])
    assert share.merging_bytes == share.counts + share.sample  # 2 (W - 1) / W = 1


def test_bytes_of_sharded_weights(cluster, real) -> None:
    share, found = foretold(cluster, "fsdp"), real["fsdp"]
    assert share.weights == found["weights"]
    assert share.passes_bytes == found["all_gather"] // 2  # a rank has its own half already
    assert (share.counts + SHAPES, share.sample) == (found["all_reduce int64"], found["all_reduce float32"])


def test_bytes_of_divided_layers(cluster, real) -> None:
    share = foretold(cluster, "tensor")
    assert share.weights == real["tensor"]["weights"]
    assert (share.merging_bytes, share.seconds["merging"]) == (0, 0)  # both ranks see the same data
    widths = 32 + 16 + 56  # of the scored layers of one block, all of them divided by their outputs
    assert share.passes_bytes == (4 + 6) * (2 * widths * 4 * 10 * 2) // 2


@pytest.mark.parametrize("criterion", [AuraEntropy(), AuraInformation(num_classes=5), ChannelInformation(num_classes=5)])
def test_counts_are_those_of_a_pass(criterion) -> None:
    model, labels = net(), torch.arange(4) % 5
    scores = score_model(model, [(torch.rand(4, 3, 10, 10), labels)], criterion)
    state = [part for estimator in scores.estimators.values() for part in estimator.state_dict().items()]
    wanted = sum(tensor.nbytes for key, tensor in state if key != "edges")
    share = dry_run(model, IMAGE, criterion, ranks=[1], images=4)[0]
    assert share.counts == wanted
    assert share.merging_bytes == share.passes_bytes == share.gathered == 0
    assert share.activation == 8 * 8 * 64 * 4
    assert share.memory == share.weights + max(share.activation + wanted + share.sample, 3 * wanted)


def test_seconds_are_the_formulas() -> None:
    cluster = Cluster(flops=1e9, counting=1e6, copying=1e7, node=2, inside=(0.5, 100.0), between=(2.0, 10.0))
    one, two, four = dry_run(net(), IMAGE, ranks=[1, 2, 4], images=64, batch=8, calibration_images=16, cluster=cluster)
    macs = 8 * 27 * 64 + 6 * 72 * 36 + 5 * 216
    assert one.seconds == pytest.approx({
        "calibration": 2 * 8 * 2 * macs / 1e9, "forward": 64 * 2 * macs / 1e9, "counting": 64 * 4 * (512 + 216) / 1e6,
        "merging": 0,
    })  # fmt: skip
    merging = [
        5 * two.counts / 1e7 + all_reduce_seconds(W, 1, two.counts, *link) for W, link in ((2, (0.5, 100)), (4, (2, 10)))
    ]
    assert [two.seconds["merging"], four.seconds["merging"]] == pytest.approx(merging)
    assert four.seconds["forward"] == pytest.approx(one.seconds["forward"] / 4)
    assert four.total == sum(four.seconds.values())
    assert all_reduce_seconds(4, 3, 100.0, 2.0, 10.0) == 2 * 3 * 2 * 2.0 + 1.5 * 100 / 10


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ranks": [0]}, ValueError, "^dry_run: ranks: wanted at least 1, got 0$"),
        ({"ranks": [12], "sharding": "tensor"}, ValueError, "^dry_run: ranks: wanted multiples of tensor = 8, got 12$"),
        ({"sharding": "zero"}, ValueError, "^dry_run: sharding: wanted 'replicated', 'fsdp' or 'tensor', got 'zero'$"),
        ({"criterion": AuraInformation()}, ValueError, "^dry_run: criterion: wanted its num_classes, got None$"),
        ({"criterion": "sae"}, TypeError, "^dry_run: criterion: wanted an Estimator, got str 'sae'$"),
        ({"example": IMAGE.expand(2, -1, -1, -1)}, ValueError, "^dry_run: example: wanted one image, got 2$"),
        ({"batch": 0}, ValueError, "^dry_run: batch: wanted at least 1, got 0$"),
        ({"layers": ["7"]}, ValueError, "^layers: wanted names of convolutions or linear layers, got "),
    ],
)
def test_refuses(options, error, text) -> None:
    with pytest.raises(error, match=text):
        dry_run(net(), options.pop("example", IMAGE), **options)


def test_a_large_model_takes_no_memory(tmp_path, capsys) -> None:
    """Llama 3 70B: its weights alone would be 141 GB."""
    sizes = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    sizes |= {"num_key_value_heads": 8, "vocab_size": 128256, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    command = ["dry-run", "--config", str(tmp_path / "config.json"), "--tokens", "2048", "--sharding", "fsdp"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "70,553,706,496 parameters in bfloat16, fsdp" in out
    assert "times are not measured" in out
    rows = [line.split() for line in out.splitlines() if line.split()[:1] in (["8"], ["64"], ["512"])]
    assert [row[:3] for row in rows] == [["8", "17.6", "GB"], ["64", "2.2", "GB"], ["512", "276", "MB"]]


def test_command_for_images(monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT / "tests")
    model = ["--model", "test_dryrun:net", "--shape", "3x10x10", "--dtype", "float32"]
    assert cli.main(["dry-run", *model, "--criterion", "sae", "--classes", "5", "--ranks", "2"]) == 0
    share = dry_run(net(), IMAGE, AuraInformation(num_classes=5), ranks=[2], images=4096)[0]
    assert as_rows([share])[1][0][4] in capsys.readouterr().out
    assert cli.main(["dry-run", *model, "--criterion", "sae", "--ranks", "2"]) == 1
    assert "wanted its num_classes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["dry-run", *model, "--ranks", "two"])


def test_lattices_reach_the_counts(cluster) -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    line = dry_run(model, torch.zeros(1, 7, 4), ranks=[1], lattice=Lattice())[0]
    patches = dry_run(model, torch.zeros(1, 7, 4), ranks=[1], lattice=Lattice((2, 3), skip=1))[0]
    assert patches.counts - 48 == 2 * (line.counts - 48) == 2 * 8 * 6 * 16 * 16
