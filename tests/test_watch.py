"""`gate` and `monitor` on the command line, and spec files: the templates of docs/metrics.md run as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyprune_fast import cli
from pyprune_fast.demo import toy
from pyprune_fast.graph import find_groups
from pyprune_fast.prune import Plan, load_accepted
from pyprune_fast.prune.spec import load_spec

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```(python|json)\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text(), re.S)
TEMPLATE = next(text for kind, text in BLOCKS if kind == "python" and "def model" in text)
JSON_TEMPLATE = next(text for kind, text in BLOCKS if kind == "json")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with both templates, a mild plan and a ruinous one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.py").write_text(TEMPLATE)
    (tmp_path / "spec.json").write_text(JSON_TEMPLATE)
    model = toy.model()
    groups = find_groups(model, torch.zeros(1, 1, 8, 8))
    strength = model[3].weight.abs().sum((1, 2, 3))
    weak, strong = strength.argsort().tolist()[:2], strength.argsort().tolist()[1:]
    Plan.of(model, groups, {"3": weak}).save(tmp_path / "mild.json")
    Plan.of(model, groups, {"0": range(7), "3": strong}).save(tmp_path / "ruinous.json")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict], str]:
    """Exit code, lines of JSON, and what else was said."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


@pytest.mark.parametrize("stages", ["1", "2", "components"])
@pytest.mark.parametrize("spec", ["spec.py", "spec.json"])
def test_a_mild_cut_is_accepted(folder: Path, capsys, spec: str, stages: str) -> None:
    code, (verdict,), _ = run(
        capsys, "gate", spec, "--plan", "mild.json", "--stages", stages, "--release", "accepted.safetensors"
    )
    assert (code, verdict["accepted"], verdict["reasons"]) == (0, True, [])
    assert len(verdict["stages"]) == (2 if stages == "2" else 1)
    assert len(verdict["stages"][0]["verdict"]["metrics"]) >= 3
    model, _ = load_accepted(toy.model, "accepted.safetensors")
    assert model[3].out_channels == 6


def test_a_ruinous_cut_is_rejected_with_reasons(folder: Path, capsys) -> None:
    code, (verdict,), _ = run(capsys, "gate", "spec.json", "--plan", "ruinous.json", "--release", "accepted.safetensors")
    assert (code, verdict["accepted"]) == (1, False)
    assert verdict["weights"] == verdict["weights_after"]
    assert any(reason.startswith("accuracy: ") for reason in verdict["reasons"])
    (stage,) = verdict["stages"]
    assert stage["verdict"] is None  # 64 examples were enough to turn it away
    judged = stage["quick"]
    assert judged["binding"] in {metric["name"] for metric in judged["metrics"] if not metric["ok"]}
    assert judged["slack"] < 0
    assert not Path("accepted.safetensors").exists()


def test_a_model_is_judged_without_a_plan_and_not_measured_twice(folder: Path, capsys) -> None:
    code, (verdict,), _ = run(capsys, "gate", "spec.py", "--journal", "log.jsonl")
    assert (code, verdict["accepted"], verdict["rolled_back"]) == (0, True, False)
    written = Path("log.jsonl").read_bytes()
    assert len(written.splitlines()) == 3
    assert run(capsys, "gate", "spec.py", "--journal", "log.jsonl")[0] == 0
    assert Path("log.jsonl").read_bytes() == written


BROKEN = "\n\ndef tune(model):\n    print('tuning')\n    return {}['missing']\n"


@pytest.mark.parametrize(
    ("name", "text", "arguments", "said"),
    [
        ("none.py", None, [], "No such file"),
        ("spec.yaml", "", [], "wanted a .py or .json file, got spec.yaml"),
        ("bad.json", "{", [], "bad.json: wanted JSON"),
        ("bad.json", "[]", [], "wanted an object with model, data"),
        ("bad.json", '{"modle": ""}', [], "got modle"),
        ("bad.json", '{"model": "json:loads"}', [], "wanted data, metrics in it, got none"),
        ("bad.json", '{"model": "toy", "data": "json:loads", "metrics": []}', [], "model: wanted MODULE:FACTORY, got 'toy'"),
        ("bad.json", JSON_TEMPLATE.replace('"accuracy"', '"f1"'), [], "wanted accuracy, recall"),
        ("bad.json", JSON_TEMPLATE.replace('"of"', '"off"'), [], "recall: .*unexpected keyword argument 'off'"),
        ("bad.json", JSON_TEMPLATE.replace('"accuracy"', '"json:dumps"'), [], "metrics: json:dumps: "),
        ("bad.py", "model = 3\n", [], "wanted a function model, got int 3"),
        ("bad.py", TEMPLATE, ["--plan", "mild.json", "--stages", "0"], "--stages: wanted a number of at least 1"),
        ("bad.py", TEMPLATE, ["--plan", "nowhere.json"], "nowhere.json"),
        ("bad.py", TEMPLATE + BROKEN, ["--plan", "mild.json"], "tuning"),
    ],
)
def test_what_cannot_be_judged_is_exit_2(folder: Path, capsys, name: str, text, arguments: list, said: str) -> None:
    if text is not None:
        Path(name).write_text(text)
    code, lines, err = run(capsys, "gate", name, *arguments)
    assert (code, lines) == (2, [])
    assert re.search(said, err)


def test_an_interrupt_is_no_verdict(folder: Path, capsys) -> None:
    Path("bad.py").write_text(TEMPLATE + "\n\ndef tune(model):\n    raise KeyboardInterrupt\n")
    code, lines, err = run(capsys, "gate", "bad.py", "--plan", "mild.json")
    assert (code, lines) == (2, [])
    assert "not judged" in err


def test_exit_codes_of_the_program_itself(folder: Path) -> None:
    command = [sys.executable, "-m", "pyprune_fast", "gate", "spec.json", "--plan", "ruinous.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["accepted"] is False


def test_the_template_is_that_of_the_docs_and_runs(folder: Path, capsys) -> None:
    assert cli.main(["template"]) == 0
    text = capsys.readouterr().out
    assert text == TEMPLATE
    Path("mine.py").write_text(text)
    assert run(capsys, "gate", "mine.py")[0] == 0


# --- replan --------------------------------------------------------------------------------------------------------------

FREE = TEMPLATE.replace("size(floor=20_000)", "size(floor=4_000)")  # the dense model has 3,824 bytes
UPDATED = FREE.replace("return toy.model()", "model = toy.model()\n    model[3].bias.data += 0.01\n    return model")


@pytest.fixture
def planned(folder: Path, capsys) -> Path:
    """A stored plan that was planned."""
    Path("spec.py").write_text(FREE)
    assert run(capsys, "replan", "spec.py", "--plan", "mild.json", "--remove", "0.3", "--search", "uniform",
               "--measure", "parameters", "--tolerance", "0.05", "--out", "stored.json")[0] == 0  # fmt: skip
    return folder


@pytest.mark.parametrize("search", ["spsa", "gradient", "global", "uniform"])
def test_replan_starts_from_the_stored_plan(planned: Path, capsys, search: str) -> None:
    steps = ["--steps", "3"] if search in ("spsa", "gradient") else []
    code, (found,), _ = run(
        capsys,
        "replan",
        "spec.py",
        "--plan",
        "stored.json",
        "--search",
        search,
        "--tolerance",
        "0.05",
        "--out",
        "new.json",
        *steps,
    )
    assert (code, found["accepted"], found["stale"], found["method"]) == (0, True, False, search)
    assert (found["target"], found["wanted"]) == ("parameters", 0.3)  # the stored plan's
    stored, new = (found["metrics"][which][0]["value"] for which in ("stored", "new"))
    assert new >= stored
    assert Plan.load("new.json").note["weights"] == found["weights"]


def test_replan_tells_of_updated_weights_and_gate_revalidates(planned: Path, capsys) -> None:
    Path("updated.py").write_text(UPDATED)
    code, lines, err = run(capsys, "gate", "updated.py", "--plan", "stored.json")
    assert (code, lines) == (2, [])
    assert "must be validated anew" in err
    code, (verdict,), _ = run(capsys, "gate", "updated.py", "--plan", "stored.json", "--revalidate")
    assert (code, verdict["accepted"]) == (0, True)
    more = ("--plan", "stored.json", "--tolerance", "0.05", "--search", "uniform", "--remove", "0.45", "--out", "new.json")
    code, (found,), _ = run(capsys, "replan", "updated.py", *more)
    assert (code, found["stale"], found["difference"]["reweighted"]) == (0, True, True)
    assert sum(len(change["cut"]) for change in found["difference"]["groups"]) > 0
    assert run(capsys, "gate", "updated.py", "--plan", "new.json")[0] == 0
    assert cli.main(["replan", "updated.py", *more, "--table"]) == 0
    assert re.search(r"^3 +0\.\d+ -> 0\.\d+  ", capsys.readouterr().out, re.M)


def test_replan_without_a_feasible_plan_is_exit_1_and_writes_nothing(planned: Path, capsys) -> None:
    Path("strict.py").write_text(FREE.replace("agreement(batches, dense, floor=0.8", "agreement(batches, dense, floor=0.9999"))
    code, (found,), _ = run(capsys, "replan", "strict.py", "--plan", "stored.json", "--search", "uniform", "--out", "new.json")
    assert (code, found["accepted"], found["binding"]) == (1, False, "agreement with the dense model")
    assert not Path("new.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "mild.json"], "--remove: wanted a fraction, for the stored plan has no target"),
        (["--plan", "stored.json", "--remove", "0.95"], "bounds, budgets, min_channels and round_to allow"),
        (["--plan", "nowhere.json"], "nowhere.json"),
        (["--plan", "stored.json", "--search", "spsa", "--steps", "0"], "spsa: steps: wanted at least 1, got 0"),
    ],
)
def test_what_cannot_be_planned_is_exit_2(planned: Path, capsys, arguments: list, said: str) -> None:
    code, lines, err = run(capsys, "replan", "spec.py", *arguments)
    assert (code, lines) == (2, [])
    assert re.search(said, err)


def test_importance_of_the_specs_own(planned: Path, capsys) -> None:
    own = "\n\ndef importance(dense, groups):\n    return {'3': dense[3].weight.sum((1, 2, 3))}\n"
    Path("own.py").write_text(FREE + own)
    code, (found,), _ = run(
        capsys, "replan", "own.py", "--plan", "stored.json", "--search", "uniform", "--remove", "0.3", "--tolerance", "0.05"
    )
    assert code == 0
    assert [change["group"] for change in found["difference"]["groups"] if change["after"]] == ["3"]


# --- monitor -------------------------------------------------------------------------------------------------------------

DRIFTED = TEMPLATE.replace("return DATA.calibration", "return [(inputs + 1, labels) for inputs, labels in DATA.calibration]")


@pytest.fixture
def released(folder: Path, capsys) -> Path:
    assert run(capsys, "gate", "spec.py", "--plan", "mild.json", "--release", "accepted.safetensors")[0] == 0
    take = ("monitor", "spec.py", "--baseline", "baseline.safetensors", "--release", "accepted.safetensors", "--take")
    assert run(capsys, *take)[:2] == (0, [])
    (folder / "drifted.py").write_text(DRIFTED)
    return folder


WATCH = ("--baseline", "baseline.safetensors", "--release", "accepted.safetensors")


def test_a_quiet_stream_is_exit_0_and_a_drifted_one_exit_1(released: Path, capsys) -> None:
    assert run(capsys, "monitor", "spec.py", *WATCH, "--metrics")[:2] == (0, [])
    code, alerts, _ = run(capsys, "monitor", "drifted.py", *WATCH, "--window", "128")
    assert code == 1
    assert {alert["kind"] for alert in alerts} >= {"input"}
    assert {alert["examples"] for alert in alerts} == {128}  # two windows of 256 examples
    assert sum(alert["name"] == "feature 0" and alert["statistic"] == "KS" for alert in alerts) == 2


def test_an_unfinished_window_goes_on_with_the_next_run(released: Path, capsys) -> None:
    arguments = ("monitor", "drifted.py", *WATCH, "--window", "400", "--state", "window.safetensors")
    assert run(capsys, *arguments)[:2] == (0, [])  # 256 examples so far
    code, alerts, _ = run(capsys, *arguments)
    assert (code, {alert["examples"] for alert in alerts}) == (1, {416})


def test_other_weights_are_exit_2(released: Path, capsys) -> None:
    code, lines, err = run(capsys, "monitor", "spec.py", "--baseline", "baseline.safetensors")
    assert (code, lines) == (2, [])
    assert "agreement: wanted --release" in err
    Path("dense.py").write_text(TEMPLATE.replace('FLOORS = {"accuracy": 0.8, "agreement": 0.8}', ""))
    code, lines, err = run(capsys, "monitor", "dense.py", "--baseline", "baseline.safetensors")
    assert (code, lines) == (2, [])
    assert "wanted the weights that the baseline was taken for" in err


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (
            ("return DATA.calibration", "return [x for x, _ in DATA.calibration]"),
            [],
            "for the floor of accuracy, got inputs alone",
        ),
        (("def stream", "def other"), [], r"wanted stream\(\) in it, got none"),
        (("def stream", "def stream"), ["--window", "0"], "--window: wanted at least 1, got 0"),
        (("def stream", "def stream"), ["--release", "spec.py"], "wanted a safetensors file"),
    ],
)
def test_a_stream_that_cannot_be_watched_is_exit_2(released: Path, capsys, change, arguments: list, said: str) -> None:
    Path("bad.py").write_text(TEMPLATE.replace(*change))
    code, lines, err = run(capsys, "monitor", "bad.py", *WATCH, *arguments)
    assert (code, lines) == (2, [])
    assert re.search(said, err)


def test_a_spec_finds_modules_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_spec.py").write_text("from pyprune_fast.demo.toy import model\n")
    (tmp_path / "spec.py").write_text("from beside_the_spec import model\n\ndef metrics(dense):\n    return []\n")
    before = list(sys.path)
    assert load_spec(tmp_path / "spec.py").model is toy.model
    assert sys.path == before
