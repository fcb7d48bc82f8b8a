"""Rows of JSON lines that say where they come from. A row is in the file whole, or it is not a row."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from pyprune_fast import build_info

from .definition import Key, Study

Row = dict[str, Any]


def machine() -> Row:
    """What rows were made on, and by: CPU, threads, commit, date and versions.

    The commit is the current folder's, with "+" if files that git knows have changes; "" outside a checkout.
    """
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()

    here = shutil.which("git") is not None
    return {
        "cpu": model or platform.machine(),
        "threads": torch.get_num_threads(),
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "") if here else "",
        "date": date.today().isoformat(),
        **{k: v for k, v in build_info().items() if k in ("pyprune_fast", "torch", "isa")},
    }


def read(file: Path) -> list[Row]:
    """The rows of a file of JSON lines; a line that a kill cut short is no row, and a file that is not there has none."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to the file, with the machine, and has it on the disk when it returns."""
    text = file.read_text() if file.exists() else ""
    torn = text and not text.endswith("\n")  # a run was killed while it wrote: its line stays apart
    with file.open("a") as lines:
        lines.write(("\n" if torn else "") + json.dumps(dict(row) | machine()) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def rows_of(study: Study, file: Path) -> dict[Key, Row]:
    """The rows of a file that are this study's, in its order; those of other studies may stand beside them."""
    found = {(row["seed"], row["remove"], row["criterion"]): row for row in read(file) if row.get("study") == study.digest}
    return {key: found[key] for key in study.wanted() if key in found}
