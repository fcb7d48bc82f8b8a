"""The log of experiments: what is in it is not computed again, whenever and however the run ended."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from pyprune_fast.prune import Journal, Metric, evaluate


def test_a_finished_entry_is_not_computed_again(tmp_path: Path) -> None:
    path, calls = tmp_path / "folder" / "log.jsonl", []

    def compute() -> dict:
        calls.append(1)
        return {"psnr": 20.5, "pair": (1, 2)}

    first = Journal(path).run({"rho": 0.5, "seed": 1}, compute)
    again = Journal(path).run({"seed": 1, "rho": 0.5}, compute)  # the order of names does not matter
    assert first == again == {"psnr": 20.5, "pair": [1, 2]}
    assert len(calls) == 1
    other = Journal(path)
    other.run({"rho": 0.7, "seed": 1}, compute)
    assert (len(calls), len(other), {"rho": 0.7, "seed": 1} in other) == (2, 2, True)
    assert [entry["arguments"]["rho"] for entry in other.entries()] == [0.5, 0.7]


def test_what_the_caller_changes_the_log_keeps(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.run({"a": 1}, lambda: [1]).append(2)
    assert journal.run({"a": 1}, lambda: None) == [1]


def test_other_contexts_are_other_entries(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert Journal(path, {"data": "may"}).run({"a": 1}, lambda: "old") == "old"
    assert Journal(path, {"data": "june"}).run({"a": 1}, lambda: "new") == "new"
    assert Journal(path, {"data": "may"}).run({"a": 1}, lambda: "newer") == "old"


def test_failures_leave_no_entry(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    with pytest.raises(ZeroDivisionError):
        journal.run({"a": 1}, lambda: 1 / 0)
    for value in (math.nan, object(), {1: {2}}):
        with pytest.raises(ValueError, match="Journal: wanted values that JSON takes"):
            journal.run({"a": 1}, lambda value=value: value)
    with pytest.raises(ValueError, match="wanted values that JSON takes"):
        journal.run({"a": math.inf}, lambda: 1)
    with pytest.raises(ValueError, match="wanted values that JSON takes"):
        Journal(tmp_path / "log.jsonl", {"data": object()})
    assert not journal.path.exists()


KILLED = """
import os, signal, sys
from pyprune_fast.prune import Journal

def compute(i):
    print(i, flush=True)
    if i == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return i * i

journal = Journal(sys.argv[1])
print([journal.run({"i": i}, lambda i=i: compute(i)) for i in range(5)])
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def run(killed_at: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED, str(path), str(killed_at)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])

    first = run(3)
    assert first.returncode < 0, first.stderr
    assert first.stdout.split() == ["0", "1", "2", "3"]
    assert len(list(Journal(path).entries())) == 3
    with path.open("ab") as file:  # and the machine went down in the middle of the fourth line
        file.write(b'{"arguments": {"i": 3}, "key": "12ab')
    second = run(-1)
    assert second.stdout.split("\n")[:2] == ["3", "4"]
    assert second.stdout.split("\n")[2] == "[0, 1, 4, 9, 16]"
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 7  # three entries, the torn line, two entries, and what follows the last end of line
    assert [json.loads(line)["arguments"]["i"] for line in (*lines[:3], *lines[4:6])] == [0, 1, 2, 3, 4]


def test_every_torn_line_is_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Journal(path).run({"a": 1}, lambda: {"deep": [1, 2]})
    whole = path.read_bytes()
    for cut in range(len(whole) - 1):
        path.write_bytes(whole[:cut])
        journal = Journal(path)
        assert len(journal) == 0
        journal.run({"a": 2}, lambda: 1)
        assert len(Journal(path)) == 1


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
    journal = Journal(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="could write fewer"):
        journal.run({"a": 1}, lambda: 1)
    assert {"a": 1} not in journal
    assert len(Journal(tmp_path / "log.jsonl")) == 0


def test_a_table_is_judged_again_from_the_log_under_other_floors(tmp_path: Path) -> None:
    path, calls = tmp_path / "log.jsonl", []

    def measure(model: nn.Module) -> float:
        calls.append(1)
        return 3.0

    model = nn.Linear(2, 2)
    assert evaluate(model, [Metric("m", measure, floor=2.0)], journal=Journal(path)).ok
    assert not evaluate(model, [Metric("m", measure, floor=4.0)], journal=Journal(path)).ok
    assert len(calls) == 1
    evaluate(model, [Metric("m", measure, seed=1)], journal=Journal(path))
    assert len(calls) == 2
    nn.init.zeros_(model.bias)  # other weights
    evaluate(model, [Metric("m", measure)], journal=Journal(path))
    assert len(calls) == 3
