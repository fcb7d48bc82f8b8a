"""Files of tensors: replaced in one step, told apart by their format, and read without executing anything in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


def save_tensors(data: dict[str, Any], path: str | os.PathLike[str], form: str) -> None:
    """Writes data, tensors among it, to a file; a crash leaves the old file."""
    target = Path(path)
    draft = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        torch.save({**data, "format": form}, draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def load_tensors(path: str | os.PathLike[str], form: str, op: str) -> dict[str, Any]:
    """What save_tensors wrote in this format, on the CPU; ValueError for any other file."""
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{op}: {os.fspath(path)}: wanted a file of format {form}, got another ({error})") from error
    if not isinstance(data, dict) or data.get("format") != form:
        raise ValueError(f"{op}: {os.fspath(path)}: wanted a file of format {form}, got another")
    return data
