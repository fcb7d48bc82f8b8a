"""The page about the report runs as it is written, and names every part that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyprune_fast.report import Report
from pyprune_fast.report.sections import sections

PAGE = (Path(__file__).parents[1] / "docs" / "report.md").read_text()


def test_docs_run_and_their_report_has_the_parts_they_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    found = Report.from_json((tmp_path / "report.json").read_text())
    assert found == names["page"]
    titles = {section.title for section in sections(found)}
    promised = set(re.findall(r"^\| ([^|]+?) \|", PAGE, re.M)) - {"part", "---"}
    assert titles == promised - {"Comparison", "Rollout"}
    assert (tmp_path / "report.html").stat().st_size > 50_000
