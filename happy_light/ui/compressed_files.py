"""Compressed copies of the web app's files, made in the background and kept in the data folder.

A copy is named after the place, inode, size and change time of its original, so that a file that is replaced has none
until the next run has made it. Copies of files that are gone are deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from happy_light import compression, content_types

log = logging.getLogger(__name__)

_MAX: Final = 64 * 1024 * 1024  # bytes of a file that is compressed
_FILES_MAX: Final = 20_000  # files of one build that are compressed
_GAIN: Final = 0.95  # a copy that is not smaller than this part of its original is not used


class CompressedFiles:
    """The copies, in the folder `copies`, of files in the folder `build`."""

    def __init__(self, build: Path, copies: Path) -> None:
        self._build = build
        self._copies = copies
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._seen: set[str] = set()
        """Names of all files that a run has found, those whose copies were not worth keeping included."""

    def find(self, file: Path, status: os.stat_result, coding: str) -> Path | None:
        """Return the copy of a file in a coding; None if there is none, and then a run begins if the file is new."""
        name = _name(file, status)
        copy = self._copies / f"{name}{compression.SUFFIXES[coding]}"
        if copy.is_file():
            return copy
        if name not in self._seen:
            self.start()
        return None

    def start(self) -> None:
        """Begin a run on a thread of its own, unless one is under way."""
        with self._lock:
            if not self._stopping.is_set() and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="compress", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the run. It blocks for as long as a piece of a file takes, at most 2 s."""
        with self._lock:
            self._stopping.set()
        if self._thread is not None:
            self._thread.join(2)

    def _run(self) -> None:
        if sys.platform == "linux":  # where threads have priorities of their own: requests come first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            self._copies.mkdir(mode=0o700, exist_ok=True)
            files = {_name(file, status): (file, status.st_size) for file, status in self._files()}
            self._delete_others(files.keys())
            # Every client takes gzip, and it is made quickly; the largest file is what a first visit waits for.
            for coding in reversed(compression.SUFFIXES):
                for name, (file, _) in sorted(files.items(), key=lambda item: -item[1][1]):
                    self._compress(file, self._copies / f"{name}{compression.SUFFIXES[coding]}", coding)
            self._seen = set(files)
        except _StoppedError:
            pass
        except OSError as error:
            self._stopping.set()
            log.warning("the web app is served without compression: %s: %s", error.filename, error.strerror)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        """Yield the files that are worth compressing."""
        found = 0
        for folder, _, names in os.walk(os.path.realpath(self._build)):
            for name in names:
                file = Path(folder, name)
                if not compression.is_compressible(content_types.content_type(name)):
                    continue
                with contextlib.suppress(OSError):
                    status = file.lstat()
                    if stat.S_ISREG(status.st_mode) and compression.MIN <= status.st_size <= _MAX:
                        yield file, status
                        found += 1
            if found >= _FILES_MAX or self._stopping.is_set():
                return

    def _delete_others(self, names: Collection[str]) -> None:
        """Delete the copies of other files, and what a killed run has left."""
        kept = {f"{name}{suffix}" for name in names for suffix in compression.SUFFIXES.values()}
        for copy in self._copies.iterdir():
            if copy.name not in kept:
                copy.unlink(missing_ok=True)

    def _compress(self, file: Path, copy: Path, coding: str) -> None:
        """Make one copy, unless it is there. Raises _StoppedError."""
        if copy.exists():
            return
        try:
            content = file.read_bytes()
        except OSError:
            return  # it was deleted, or may not be read
        packed = bytearray()
        for piece in compression.pieces(coding, content):
            packed += piece
            if self._stopping.is_set():
                raise _StoppedError
        if len(packed) < len(content) * _GAIN:
            unfinished = copy.with_name(f".{copy.name}.{os.getpid()}")
            unfinished.write_bytes(packed)
            unfinished.replace(copy)


class _StoppedError(Exception):
    """The run has to end, since the server stops."""


def _name(file: Path, status: os.stat_result) -> str:
    place = hashlib.sha256(os.fsencode(file)).hexdigest()[:24]
    return f"{place}-{status.st_ino:x}-{status.st_size:x}-{status.st_ctime_ns:x}"
