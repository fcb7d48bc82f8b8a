"""The command line: output, files, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pyprune_fast import cli
from pyprune_fast.prune import Plan

HERE = Path(__file__).parent


@pytest.fixture
def prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run `prune` on the toy problem, from the folder that holds it."""
    monkeypatch.chdir(HERE)

    def run(*arguments: str, model: str = "toy:model", data: str = "toy:data") -> int:
        own = ["--model", model, "--data", data, "--out", str(tmp_path / "out"), "--no-progress", "--steps", "4"]
        return cli.main(["prune", *own, *arguments])

    return run


def test_writes_report_and_plan_and_prints_tables(prune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune() == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if re.match(r"(dense|default|sae|l1|random) ", line)] == (
        ["dense"] + 2 * ["default", "sae", "l1", "random"]
    )
    assert "Kept widths, -40% MACs" in out
    assert "bit for bit" in out
    plan = Plan.load(tmp_path / "out" / "plan.json")
    assert plan.note["criterion"] == "default"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r'(src|href)="(?!#|data:)', page.replace("xlink:href", "href"))  # nothing is loaded from elsewhere
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["plan.json", "report.html", "report.json", "report.md"]


def test_quick_takes_one_case(prune, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--quick", "--against", "", "--criterion", "l2") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("l2 ")]
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--criterion", "magic"), "wanted one of default, .*'reversed '.* got 'magic'"),
        (("--remove", "1.5"), r"wanted a fraction in \[0, 1\), got 1.5"),
        (("--rounds", "0"), "--rounds: wanted at least 1, got 0"),
        (("--steps", "-1"), "--steps: wanted at least 0, got -1"),
        (("--measure", "joules"), "invalid choice"),
    ],
)
def test_wrong_usage_is_exit_2(prune, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        prune(*arguments)
    assert exit_.value.code == 2
    assert re.search(text, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["toy", "toy:", "nowhere:model", "toy:nothing", "toy:torch"])
def test_wrong_factories_are_exit_2(prune, capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        prune(model=name)
    assert exit_.value.code == 2
    assert "--model: wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "arguments", "text"),
    [
        ("toy:empty", (), "loader: wanted at least one image, got none"),
        ("toy:nan", (), "NaN in layers"),
        ("toy:data", ("--remove", "0.999"), "wanted 0.999 removed, got at most"),
        ("toy:model", (), r"data: wanted an iterable of batches as \.train"),
    ],
)
def test_failures_are_exit_1_and_write_nothing(prune, tmp_path: Path, capsys, data: str, arguments: tuple, text: str) -> None:
    assert prune(*arguments, data=data) == 1
    assert re.search(text, capsys.readouterr().err)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_is_exit_1_and_writes_nothing(prune, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyprune_fast.prune.loop.fine_tune", interrupted)
    assert prune() == 1
    assert "interrupted" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_data_folder_without_files_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("pyprune_fast.demo.cifar10.network", lambda: None)
    assert cli.main(["prune", "--data-folder", str(tmp_path / "missing"), "--out", str(tmp_path / "out")]) == 1
    assert "missing" in capsys.readouterr().err


def test_info_says_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    assert re.search(r"^cpu +built$", capsys.readouterr().out, re.MULTILINE)


def test_plan_is_readable_json(prune, tmp_path: Path) -> None:
    assert prune("--quick") == 0
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["note"]["target"] == "macs"
    assert abs(plan["note"]["reached"] - 0.4) < 0.1
