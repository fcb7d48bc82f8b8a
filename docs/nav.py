"""Patterns in the navigation of mkdocs.yml: a new page appears where its name fits, and need not be named.

The chart of the benchmarks is taken from where it was drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

CHART = "cpu-xeon-amx.svg"


def on_files(files: Any, config: Any) -> Any:
    """Puts the pages that match, and are named nowhere, in place of each pattern; sections without pages go."""
    chart = Path(config["config_file_path"]).parent / "bench" / "results" / CHART
    files.append(File.generated(config, f"pictures/{CHART}", abs_src_path=str(chart)))
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(_leaves(config["nav"]))
    free = [page for page in pages if page not in named]
    config["nav"] = _filled(config["nav"], free)
    return files


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
