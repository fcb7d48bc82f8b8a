"""The README's example prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_example_prints_its_output() -> None:
    readme = (ROOT / "README.md").read_text()
    code, expected = re.search(
        r"<!-- example -->\n```python\n(.*?)```\n\n```\n(.*?)```\n<!-- /example -->", readme, re.S
    ).groups()
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == expected
