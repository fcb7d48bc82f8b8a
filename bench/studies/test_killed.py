"""A study that is killed at random moments, again and again, goes on to the rows of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import ROOT

from pyprune_fast.study import read

STUDY = ROOT / "bench" / "studies" / "components" / "autoencoder.py"
KILLS = 2
CLOCKS = {"seconds"}  # the only figures of a row that may differ from run to run


def started(folder: Path) -> subprocess.Popen[bytes]:
    """The quick study on both networks, its files in this folder."""
    docs = folder / "docs.md"
    if not docs.exists():
        docs.write_text("<!-- autoencoder -->\n<!-- /autoencoder -->\n")
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "bench", ROOT / "bench" / "studies")))
    command = [sys.executable, str(STUDY), "--quick", "--file", str(folder / "rows.jsonl"), "--docs", str(docs)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def rows(folder: Path) -> list[dict[str, Any]]:
    """What the study found, without clocks, in its order."""
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in read(folder / "rows.jsonl")]


def test_rows_of_a_killed_study_are_those_of_an_undisturbed_one(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    calm.mkdir()
    killed.mkdir()
    start = time.monotonic()
    assert started(calm).wait() == 0
    whole = time.monotonic() - start
    moments = random.Random(0)
    for _ in range(KILLS):
        study = started(killed)
        try:
            study.wait(moments.uniform(0, whole))
        except subprocess.TimeoutExpired:
            study.kill()  # SIGKILL: nothing can be tidied up
            study.wait()
    with (killed / "rows.jsonl").open("a") as file:
        file.write('{"seed": 0, "quick": tr')  # and the machine went down in the middle of a row
    assert started(killed).wait() == 0
    assert rows(killed) == rows(calm)
    assert len(rows(calm)) > 4
    assert (killed / "docs.md").read_text().count("|") > 50
