"""Studies: files that are refused, rows that a kill cannot harm, tables, and paired tests against SciPy and by hand."""

from __future__ import annotations

import csv
import io
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from pyprune_fast.cli import main
from pyprune_fast.study import append, as_csv, as_markdown, compare, interval, load_study, paired, read, run_study, summary
from pyprune_fast.study.laboratory import _Watched
from pyprune_fast.study.plot import plot

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "bench" / "studies" / "toy.toml"
GOOD = TOY.read_text()
CLOCKS = ("clocks", "date")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the toy study, run undisturbed."""
    file = tmp_path_factory.mktemp("calm") / "rows.jsonl"
    assert main(["bench", str(TOY), "--out", str(file), "--no-progress"]) == 0
    return file


def without_clocks(file: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in read(file)]


def test_rows_say_what_they_are_of_and_where_from(calm: Path) -> None:
    study, rows = load_study(TOY), read(calm)
    assert [(row["seed"], row["remove"], row["criterion"]) for row in rows] == list(study.wanted())
    for row in rows:
        assert row["study"] == study.digest
        assert {"cpu", "commit", "torch", "pyprune_fast", "isa"} <= row.keys()
        assert row["threads"] == 1
        assert len(row["weights"]) == len(row["images"]) == len(row["plan"]) == 64
        assert row["best"] >= row["last"]
        assert abs(row["macs"]["pruned"] / row["macs"]["dense"] - (1 - row["remove"])) < 0.05
        assert row["memory"]["pruned"] < row["memory"]["dense"]
    assert len({row["weights"] for row in rows}) == 1
    assert len({row["last"] for row in rows}) > 3


def test_rows_of_a_killed_study_are_those_of_an_undisturbed_one(calm: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "pyprune_fast", "bench", str(TOY), "--out", str(file), "--no-progress"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for wanted in (2, 9):
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(read(file)) < wanted:
            time.sleep(0.01)
        process.kill()  # nothing can be tidied up
        assert process.wait() == -signal.SIGKILL
    assert 9 <= len(read(file)) < 18
    with file.open("a") as rows:
        rows.write('{"study": "')  # and the machine went down in the middle of a row
    assert subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert without_clocks(file) == without_clocks(calm)


OWN = """
import torch
from types import SimpleNamespace
from torch.utils.data import DataLoader, TensorDataset


def model():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(216, 2)
    )


def data():
    images = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % 2)
    shuffled = DataLoader(images, 16, shuffle=True)
    return SimpleNamespace(train=shuffled, calibration=shuffled, test=DataLoader(images, 16))
"""


def test_random_factories_loaders_and_dropout_give_the_same_rows_wherever_a_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random_factories.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    study = replace(
        load_study(TOY),
        model="random_factories:model",
        data="random_factories:data",
        criteria=("taylor", "random"),
        remove=(0.5,),
    )
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    run_study(study, whole, progress=False)
    lines = whole.read_text().splitlines(keepends=True)
    parts.write_text("".join(lines[:3]))  # it ended within the second seed
    run_study(study, parts, progress=False)
    assert without_clocks(parts) == without_clocks(whole)
    assert len({row["images"] for row in read(whole)}) == 3


def test_what_is_there_is_not_run_again_and_more_seeds_add_rows(calm: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(calm.read_text())
    study = load_study(TOY)
    assert len(run_study(study, file, progress=False)) == 18
    assert file.read_text() == calm.read_text()
    longer = replace(study, seeds=(*study.seeds, 3), remove=study.remove[:1])
    assert len(run_study(longer, file, progress=False)) == 12
    assert len(read(file)) == 18 + 3


@pytest.mark.parametrize("name", ["weights", "images"])
def test_another_dense_model_and_other_images_are_refused(name: str, calm: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append(file, read(calm)[0] | {name: "0" * 64})
    with pytest.raises(ValueError, match=rf"run_study: {name}: wanted 0{{16}} as in rows\.jsonl, seed 0, got \w{{16}}"):
        run_study(load_study(TOY), file, progress=False)
    assert len(read(file)) == 1


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("steps =", "stepps =", "got stepps"),
        ("steps = 20", "", "wanted steps, got nothing"),
        ("steps = 20", "steps = 2.5", "steps: wanted an int"),
        ("steps = 20", "steps = ", "wanted TOML"),
        ('"l1"', '"l3"', "criterion: wanted one of .* got 'l3'"),
        ('"l1"', '"fisher"', "criteria: wanted a list of different values"),
        ("[0, 1, 2]", "[]", "seeds: wanted a list"),
        ("[0, 1, 2]", "3", "seeds: wanted a list"),
        ("[0, 1, 2]", "[-1]", "seeds: wanted at least 0"),
        ("0.93", "1.0", "Target: remove: wanted"),
        ("0.93", "0.0", "remove: wanted a finite number above 0"),
        ("0.001", "inf", "learning_rate: wanted a finite number"),
        ("steps = 20", "steps = 20\nmeasure = 'latency'", "measure: wanted"),
        ("steps = 20", "steps = 20\nthreads = 0", "threads: wanted at least 1"),
        ('"pyprune_fast.demo.toy:model"', "1", "model: wanted MODULE:FACTORY"),
        ("toy:model", "toy:nothing", "wanted an importable MODULE:FACTORY"),
        ("toy:model", "toy:data", "model: wanted a factory of a module"),
        ("toy:data", "toy:model", "data: wanted an iterable of batches"),
    ],
)
def test_wrong_files_are_refused_and_leave_nothing(old: str, new: str, text: str, tmp_path: Path, capsys: Any) -> None:
    assert old in GOOD
    study = tmp_path / "study.toml"
    study.write_text(GOOD.replace(old, new))
    assert main(["bench", str(study), "--no-progress"]) == 1
    assert re.search(text, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


def test_the_real_study_files_are_good() -> None:
    rows = {name: len(list(load_study(TOY.with_name(f"criteria-{name}.toml")).wanted())) for name in ("vgg", "resnet20")}
    assert rows == {"vgg": 2 * 3 * 17, "resnet20": 2 * 3 * 17}


def test_intervals_and_paired_tests_are_scipys() -> None:
    numbers = random.Random(0)
    for n in (2, 3, 5, 9):
        a, b = ([numbers.gauss(mean, 1) for _ in range(n)] for mean in (1, 0))
        mean, half = interval(a)
        assert (mean - half, mean + half) == pytest.approx(
            stats.t.interval(0.95, n - 1, loc=mean, scale=stats.sem(a)), rel=1e-9
        )
        found, theirs = paired(a, b), stats.ttest_rel(a, b)
        assert found.t_test == pytest.approx(theirs.pvalue, rel=1e-9)
        bounds = theirs.confidence_interval(0.95)
        assert (found.mean - found.half, found.mean + found.half) == pytest.approx((bounds.low, bounds.high), rel=1e-9)
        flips = stats.permutation_test(
            (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", vectorized=True
        )
        assert found.signs == pytest.approx(flips.pvalue, rel=1e-12)


def test_paired_by_hand() -> None:
    # Differences 0.1, 0.1, -0.1, which differ in their last bits: all patterns have an absolute sum of 0.1 or 0.3.
    assert paired([0.7, 0.4, 0.2], [0.6, 0.3, 0.3]).signs == 1
    # 5 and -1: the sum of ++ and -- is 6, of +- and -+ 4, as seen.
    assert paired([5.0, 0.0], [0.0, 1.0]).signs == 1
    # 1, 2, 3, 4: only two of 16 patterns reach 10.
    assert paired([1.0, 2.0, 3.0, 4.0], [0.0] * 4).signs == 2 / 16
    equal = paired([0.3, 0.7, 0.8], [0.2, 0.6, 0.7])  # no spread: no scale for t, and still an exact test
    assert math.isnan(equal.t_test)
    assert equal.signs == 2 / 8
    assert paired([1.0, 2.0], [1.0, 2.0]).signs == 1
    many = paired([1.0, 2.0] * 11, [0.0] * 22)
    assert math.isnan(many.signs)
    assert many.t_test < 1e-6
    assert math.isnan(interval([1.0])[1])
    with pytest.raises(ValueError, match="at least 2, got 1 and 1"):
        paired([1.0], [1.0])
    with pytest.raises(ValueError, match="wanted at least one, got none"):
        interval([])


def rows(accuracies: dict[tuple[int, float, str], float]) -> dict[tuple[int, float, str], dict[str, Any]]:
    """Rows with these accuracies; half of everything is left."""
    clocks = {"latency": {"dense": {"1": 2.0}, "pruned": {"1": 1.0}}}
    same: dict[str, Any] = {cost: {"dense": 2, "pruned": 1} for cost in ("macs", "parameters", "memory")}
    same |= {"clocks": clocks, "measure": "macs", "dense": 0.9}
    return {key: {"cut": 0.1, "last": value, "best": 0.9} | same for key, value in accuracies.items()}


def test_tables_by_hand() -> None:
    head, lines = summary(rows({(0, 0.5, "l1"): 0.5, (1, 0.5, "l1"): 0.7, (0, 0.5, "l2"): 0.6}))
    assert lines[0][:3] == ["-50 % MACs", "l1", 2]
    # t(0.975; 1) s / sqrt(2), s = 14.142
    assert lines[0][head.index("fine-tuned, last, %")] == pytest.approx((60, 12.7062 * 10), rel=1e-5)
    text = as_markdown(head, lines).splitlines()
    assert text[2].startswith("| -50 % MACs | l1 | 2 | 10.00 ± 0.00 | 60.00 ± 127.06 | 90.00 ± 0.00 | 50.00 ± 0.00 |")
    assert text[3].startswith("| -50 % MACs | l2 | 1 | 10.00 | 60.00 | 90.00 | 50.00 |")
    back = list(csv.DictReader(io.StringIO(as_csv(head, lines))))
    assert float(back[0]["fine-tuned, last, %"]) == pytest.approx(60)
    assert float(back[0]["fine-tuned, last, %, ±"]) == pytest.approx(127.062, rel=1e-5)
    assert back[1]["fine-tuned, last, %, ±"] == ""
    assert as_csv(*summary({})) == "target,criterion,seeds"


def test_compare_pairs_by_seed_and_target_and_refuses_gaps() -> None:
    full = {(s, r, c): 0.5 + 0.01 * (c == "l1") * (s + 1) for s in range(3) for r in (0.4, 0.8) for c in ("l1", "l2")}
    _, lines = compare(rows(full), "l1", "l2")
    assert [line[:2] for line in lines] == [["-40 %", 3], ["-80 %", 3], ["all", 6]]
    assert lines[0][2] == pytest.approx((2, 2.484138), rel=1e-5)
    assert [line[4] for line in lines] == ["0.25", "0.25", f"{2 / 64:.3g}"]
    del full[1, 0.8, "l2"]
    with pytest.raises(ValueError, match=r"compare: l2: wanted a row for each pair, got none for seed 1 at -0\.8"):
        compare(rows(full), "l1", "l2")
    with pytest.raises(ValueError, match=r"wanted criteria that have rows \(l1, l2\), got fpgm"):
        compare(rows(full), "fpgm", "fpgm")
    with pytest.raises(ValueError, match="value: wanted"):
        compare(rows(full), "l1", "l2", "first")


def test_the_command_shows_rows_without_running(calm: Path, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "picture.svg"
    shown = ["bench", str(TOY), "--out", str(calm), "--no-run", "--table", "csv"]
    assert main([*shown, "--compare", "fisher", "l1", "--plot", str(picture)]) == 0
    table, comparison = capsys.readouterr().out.split("\n\n")
    assert len(table.splitlines()) == 7
    assert [line.split(",")[0] for line in comparison.splitlines()] == ["target", "-80 %", "-93 %", "all"]
    svg = picture.read_text()
    assert all(f">{text}<" in svg for text in ("fisher", "l1", "random", "-80 % MACs, after the cut", "-93 % MACs, fine-tuned"))
    plot(dict(zip(load_study(TOY).wanted(), read(calm), strict=True)), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg
    with pytest.raises(ValueError, match=r"wanted rows, and a file \.svg"):
        plot({}, picture)
    for wrong, text in (
        (("--compare", "fisher", "fpgm"), "--compare: wanted criteria of the study, fisher, l1, random, got fpgm"),
        (("--plot", "picture.gif"), "--plot: wanted a file .svg, .png, .pdf, got picture.gif"),
    ):
        with pytest.raises(SystemExit):
            main([*shown, *wrong])
        assert text in capsys.readouterr().err


def test_an_interrupt_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = tmp_path / "rows.jsonl"

    def interrupted(path: Path, row: dict[str, Any]) -> None:
        if path.exists():
            raise KeyboardInterrupt
        append(path, row)

    monkeypatch.setattr("pyprune_fast.study.laboratory.append", interrupted)
    assert main(["bench", str(TOY), "--out", str(file), "--no-progress"]) == 1
    assert "interrupted; the rows that were done are in" in capsys.readouterr().err
    assert [row["criterion"] for row in read(file)] == ["fisher"]


def test_the_digest_is_of_all_that_decides() -> None:
    study = load_study(TOY)
    assert replace(study, seeds=(7,), remove=(0.1,), criteria=("fisher", "l2")).digest == study.digest
    changes: list[dict[str, Any]] = [
        {"steps": 21},
        {"threads": 2},
        {"criteria": ("l1",)},
        {"measure": "channels"},
        {"model": "a:b"},
    ]
    assert len({replace(study, **change).digest for change in changes} | {study.digest}) == len(changes) + 1


def test_looks_are_counted_over_passes_and_come_after_their_step() -> None:
    trained: list[int] = []
    seen: list[int] = []
    watched = _Watched([0, 1, 2], {2, 5}, lambda: seen.append(len(trained)))  # type: ignore[list-item]
    for _ in range(2):
        for batch in watched:
            trained.append(batch)
    assert seen == [2, 5]
