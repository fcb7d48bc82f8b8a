"""Patterns in the navigation of mkdocs.yml: a new page appears where its name fits, and need not be named.

The charts of the kernels are taken from where they were drawn. Where a function and its file have one name, as in
pyprune_fast/ops/take.py, mkdocstrings sees only the file: the function's entry is added.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

CHARTS = ("cpu-xeon-amx.svg", "kernel-scaling.svg")


def on_files(files: Any, config: Any) -> Any:
    """Puts the pages that match, and are named nowhere, in place of each pattern; sections without pages go."""
    results = Path(config["config_file_path"]).parent / "bench" / "results"
    for chart in CHARTS:
        files.append(File.generated(config, f"pictures/{chart}", abs_src_path=str(results / chart)))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(_leaves(config["nav"]))
    free = [page for page in pages if page not in named]
    config["nav"] = _filled(config["nav"], free)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Adds the entries that mkdocstrings would miss."""
    root = Path(config["config_file_path"]).parent
    for module in re.findall(r"^::: ([\w.]+)$", markdown, re.M):
        markdown += "".join(
            f"\n::: {module}.{name}.{name}\n"
            f"    options: {{ show_root_heading: true, show_root_toc_entry: true, heading: {name}, toc_label: {name} }}\n"
            for name in _hidden(root / module.replace(".", "/"))
        )
    return markdown


def _hidden(package: Path) -> list[str]:
    """What a package takes from its files of the same name."""
    if not (package / "__init__.py").exists():
        return []
    imports = [node for node in ast.parse((package / "__init__.py").read_text()).body if isinstance(node, ast.ImportFrom)]
    return sorted(node.module for node in imports for name in node.names if node.module and node.module == name.name)


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(part)


def _filled(nav: list[Any], free: list[str]) -> list[Any]:
    filled: list[Any] = []
    for part in nav:
        if isinstance(part, str):
            # A star stays within its folder: "*.md" are not the adapters' pages.
            matching = [page for page in free if fnmatch(page, part) and page.count("/") == part.count("/")]
            filled += matching if "*" in part else [part]
            continue
        ((title, inner),) = part.items()
        section = _filled(inner, free) if isinstance(inner, list) else inner
        filled += [{title: section}] if section else []
    return filled
