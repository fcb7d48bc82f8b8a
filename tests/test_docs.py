"""The site builds with warnings as errors, has an entry for every public name, and asks nothing of other hosts; its tables are
those of the committed results; and what docs/security.md says of the code holds."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import FunctionType

import benchmark_page
import pytest
from record import between

ROOT = Path(__file__).parents[1]
PAGES = {
    f"{page}.html": module
    for page, module in {
        "pyprune_fast": "pyprune_fast",
        "baselines": "pyprune_fast.baselines",
        "graph": "pyprune_fast.graph",
        "metrics": "pyprune_fast.prune.metrics",
        "ops": "pyprune_fast.ops",
        "prune": "pyprune_fast.prune",
        "report": "pyprune_fast.report",
        "slicing": "pyprune_fast.slicing",
        "study": "pyprune_fast.study",
    }.items()
}


class Asked(HTMLParser):
    """What a browser fetches for a page, and the anchors that the page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        if tag in ("img", "script", "iframe", "source"):
            self.urls.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.urls.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_pages_ask_nothing_of_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        urls = Asked(page.read_text()).urls
        assert urls
        assert not [url for url in urls if re.match(r"(\w+:)?//", url)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(https?:)?//|@import", style.read_text()), style.name


def test_navigation_takes_new_pages(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        built = page.relative_to(ROOT / "docs").with_name(page.name.replace("README", "index")).with_suffix(".html")
        assert f'href="{built.as_posix()}"' in home, page.name


@pytest.mark.parametrize("page", PAGES)
def test_every_public_name_has_its_entry(site: Path, page: str) -> None:
    module = importlib.import_module(PAGES[page])
    anchors = Asked((site / "api" / page).read_text()).anchors
    documented = {anchor.rpartition(".")[2] for anchor in anchors if anchor.startswith("pyprune_fast")}
    # Modules have pages of their own; constants and aliases have no docstring.
    wanted = {name for name in module.__all__ if isinstance(getattr(module, name), type | FunctionType)}
    assert not wanted - documented


def test_tables_are_those_of_the_results() -> None:
    for page, marker, table in benchmark_page.tables():
        text = (ROOT / "docs" / page).read_text()
        assert between(text, marker, table) == text, f"python bench/studies/benchmark_page.py was not run: {page}, {marker}"


def test_nothing_else_unpickles() -> None:
    """As docs/security.md says."""
    found = []
    for path in sorted((ROOT / "pyprune_fast").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.fullmatch(r"torch\.(jit\.)?load|pickle\.\w*loads?|\w*\.?Unpickler|joblib\.load|np\.load|eval|exec", name):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                found.append((path.name, name, keywords.get("weights_only")))
    arrays = [("cifar10.py", "np.load", None), ("cifar10.py", "_ArrayUnpickler", None)]  # NumPy reads no pickle unless told to
    weights = [(name, "torch.load", "True") for name in ("lightning.py", "mnist.py")]
    assert sorted(found, key=str) == sorted([*arrays, *weights], key=str)
    imports = [
        path.name
        for path in (ROOT / "pyprune_fast").rglob("*.py")
        if re.search(r"^\s*(import|from) pickle", path.read_text(), re.M)
    ]
    assert imports == ["cifar10.py"]
