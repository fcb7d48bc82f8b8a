"""The README's examples and those of the adapters' pages run, top to bottom, without a warning, and print what stands there.

A page's ```python blocks share one namespace, in a process of its own and an empty folder. Where a plain ``` block follows one,
it is what the block prints.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIRST = ("README.md", *(f"docs/{name}.md" for name in ("index", "concepts", "score", "prune")))
PAGES = [*(ROOT / name for name in FIRST), *sorted((ROOT / "docs" / "adapters").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```\n(.*?)^```$)?", re.S | re.M)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_examples_run_and_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    assert BLOCK.search(page.read_text()), "wanted a page with ```python examples"
    command = [sys.executable, __file__, str(page)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def run(page: Path) -> None:
    """Runs a page's blocks; any error, warning or other output ends it, with the page's own line numbers in the traceback."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        code, expected = block.groups()
        lines_before = text[: block.start(1)].count("\n")
        program = compile("\n" * lines_before + code, str(page), "exec")
        with redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(program, names)
        assert expected is None or printed.getvalue() == expected, f"line {lines_before + 1} printed:\n{printed.getvalue()}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    run(Path(sys.argv[1]))
