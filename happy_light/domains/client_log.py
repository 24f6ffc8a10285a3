"""The file with the log entries of clients. Anyone may append, so its size is bounded."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from happy_light import json_codec

FILE_MAX: Final = 10 * 1024 * 1024  # bytes after which the file is renamed to `<name>.1` and a new one begins


class ClientLog:
    """A file with one line of JSON for each entry; at most one older file is kept beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, entry: msgspec.Struct) -> None:
        """Append an entry and the time at which it was received. Runs on any thread. Raises OSError."""
        received = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json_codec.encode({"received": received, **msgspec.to_builtins(entry)}) + b"\n"
        with self._lock:
            if self.path.exists() and self.path.stat().st_size + len(line) > FILE_MAX:
                self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(handle, "ab") as file:
                file.write(line)
