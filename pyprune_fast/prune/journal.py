"""A log of experiments: JSON lines that are only appended to, so that a run that was killed goes on where it was.

An entry is {"key", "arguments", "value", "seconds"}; its key is the SHA-256 of the arguments. It is written with one call and
flushed to the disk before its value is used, so a line is whole or, after a crash, torn; a torn line is no entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A log of experiments in a file.

    Several processes may write into one file (of a local file system); what one of them adds, the others do not see before
    they open it anew.

    Args:
        path: the file; made with its first entry.
        context: arguments that belong to every entry, such as {"data": "2026-05", "commit": "12e6656"}: entries of another
            context are not found.

    Raises:
        ValueError: a context that is not JSON.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     first = Journal(Path(folder) / "log.jsonl")
        ...     computed = first.run({"rho": 0.5}, lambda: 21.5)
        ...     again = Journal(Path(folder) / "log.jsonl").run({"rho": 0.5}, lambda: 1 / 0)
        >>> computed, again
        (21.5, 21.5)
    """

    def __init__(self, path: str | os.PathLike[str], context: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.context = dict(context or {})
        self._canonical(self.context)
        self._values: dict[str, Any] = {}
        for entry in self.entries():
            self._values[entry["key"]] = entry["value"]

    def entries(self) -> Iterator[dict[str, Any]]:
        """All whole entries of the file, in order, whatever their context."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for line in file:
                entry = _entry(line)
                if entry is not None:
                    yield entry

    def __contains__(self, arguments: Mapping[str, Any]) -> bool:
        return self.key(arguments) in self._values

    def __len__(self) -> int:
        return len(self._values)

    def key(self, arguments: Mapping[str, Any]) -> str:
        """SHA-256 of arguments and context: 64 hexadecimal digits; the order of names does not matter."""
        return hashlib.sha256(self._canonical({**self.context, **arguments}).encode()).hexdigest()

    def run(self, arguments: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The value of an experiment: from the log where it is there, computed and added otherwise.

        Args:
            arguments: all that the value depends on, as JSON takes it.
            compute: gives the value, which JSON must take, too.

        Returns:
            The value as JSON gives it back (tuples become lists), whether it was computed or found.

        Raises:
            ValueError: arguments or a value that JSON does not take. Nothing is written then, nor if `compute` raises.
        """
        key = self.key(arguments)
        if key not in self._values:
            start = time.perf_counter()
            value = compute()
            text = self._canonical(value)
            entry = {
                "key": key, "arguments": {**self.context, **arguments}, "value": json.loads(text),
                "seconds": round(time.perf_counter() - start, 6),
            }  # fmt: skip
            self._append(json.dumps(entry, sort_keys=True))
            self._values[key] = entry["value"]
        return json.loads(json.dumps(self._values[key]))  # what the caller changes, the log keeps

    def _append(self, line: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            data = (b"\n" if torn else b"") + line.encode() + b"\n"
            if os.write(handle, data) != len(data):
                raise OSError(f"Journal: {self.path}: wanted to write {len(data)} bytes, could write fewer")
            os.fsync(handle)
        finally:
            os.close(handle)

    def _canonical(self, value: Any) -> str:
        try:
            return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise ValueError(f"Journal: wanted values that JSON takes, got {value!r} ({error})") from error


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None for a torn one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and entry.keys() >= {"key", "value"} else None
