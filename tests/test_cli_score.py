"""`pyprune-fast score` on one process, on two under torchrun, and on two hosts: what it prints and writes is the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ranks
import torch

from pyprune_fast import cli, score_model
from pyprune_fast.fingerprint import fingerprint_tensors

HERE = Path(__file__).parent
OWN = ["score", "--model", "ranks:convolutions", "--data", "ranks:data", "--no-progress"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
LAUNCH_SECONDS = 200  # a launch takes some ten seconds on an idle machine


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "PYTHONPATH": str(HERE.parent)} | more


def test_says_what_score_model_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*OWN, "--out", str(tmp_path / "scores.json")]) == 0
    written = json.loads((tmp_path / "scores.json").read_text())
    scores = score_model(ranks.convolutions(), ranks.batches())
    counts = {layer: estimator.counts for layer, estimator in scores.estimators.items()}
    assert (written["criterion"], written["images"]) == ("AuraInformation", scores.images)
    assert written["sha256"] == fingerprint_tensors(counts)
    assert {layer: one["scores"] for layer, one in written["layers"].items()} == {
        layer: values.tolist() for layer, values in scores.layers.items()
    }
    out = capsys.readouterr().out
    for layer, values in scores.layers.items():
        digits = fingerprint_tensors({layer: counts[layer]})
        assert written["layers"][layer]["sha256"] == digits
        row = next(line.split() for line in out.splitlines() if line.startswith(f"{layer} "))
        middle = torch.quantile(values, 0.5)
        assert row == [layer, digits[:16], str(len(values)), *(f"{x:.6f}" for x in (values.min(), middle, values.max())), "22"]
    assert f"22 images; sha256 of all counts {fingerprint_tensors(counts)}" in out


def test_options_reach_the_scores(tmp_path: Path) -> None:
    options = ["--criterion", "channel", "--levels", "5", "--images", "9", "--out", str(tmp_path / "scores.json")]
    assert cli.main([*OWN, *options]) == 0
    first = [(x[:n], y[:n]) for (x, y), n in zip(ranks.batches(3), (1, 6, 2), strict=True)]
    assert sum(len(x) for x, _ in first) == 9
    scores = score_model(ranks.convolutions(), first, cli.ESTIMATORS["channel"](), num_levels=5)
    counts = {layer: estimator.counts for layer, estimator in scores.estimators.items()}
    assert json.loads((tmp_path / "scores.json").read_text())["sha256"] == fingerprint_tensors(counts)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--levels", "1"], "--levels: wanted 2..256, got 1"),
        (["--images", "0"], "--images: wanted at least 1, got 0"),
        (["--timeout", "0"], "--timeout: wanted at least 1, got 0"),
        (["--criterion", "l1"], "invalid choice"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main([*OWN, *arguments])
    assert exit_.value.code == 2
    assert text in capsys.readouterr().err


def test_model_without_data_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(OWN[:3])
    assert exit_.value.code == 2
    assert "--model, --data: wanted both or neither, got one" in capsys.readouterr().err


def test_two_ranks_say_what_one_process_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", "-m", "pyprune_fast"]
    path = tmp_path / "scores.json"
    done = subprocess.run(
        [*program, *OWN, "--out", str(path)], env=environment(), capture_output=True, text=True, timeout=LAUNCH_SECONDS
    )
    assert done.returncode == 0, done.stderr
    written = path.read_text()
    assert cli.main([*OWN, "--out", str(path)]) == 0
    assert done.stdout == capsys.readouterr().out
    assert written == path.read_text()


# --- two hosts -----------------------------------------------------------------------------------------------------------


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, str]]]:
    """Two hosts that are network namespaces, joined by a cable: name and network interface of each."""
    names = [f"ppf-{os.getpid()}-{i}" for i in range(2)]
    ends = [f"ppf{os.getpid() % 10**8}{i}" for i in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "address", "add", f"10.77.0.{1 + i}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in made:
            ip("netns", "delete", name)
        pytest.skip(f"needs network namespaces, which root makes with `ip netns`: {error}")
    yield list(zip(names, ends, strict=True))
    for name in made:
        ip("netns", "delete", name)


def test_two_hosts_say_what_one_process_says(
    hosts: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(2)]
    running = []
    for i, (name, interface) in enumerate(hosts):
        place = ["--nnodes", "2", "--node-rank", str(i), "--nproc-per-node", "1", "--master-addr", "10.77.0.1"]
        program = [*TORCHRUN, *place, "--master-port", "29500", "-m", "pyprune_fast", *OWN, "--out", str(paths[i])]
        # Without the interface's name gloo tells the other host to call 127.0.0.1.
        running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *program],
                env=environment(GLOO_SOCKET_IFNAME=interface),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=LAUNCH_SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    assert [out for out, _ in said][1] == ""
    assert not paths[1].exists()
    written = paths[0].read_text()
    assert cli.main([*OWN, "--out", str(paths[0])]) == 0
    assert said[0][0] == capsys.readouterr().out
    assert re.search(r'"images": 22\b', written)
    assert written == paths[0].read_text()
