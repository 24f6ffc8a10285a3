"""Checks of the database file that need no more than a look at it, and what is known of its damage.

The file is never opened here: closing it would drop the locks that SQLite holds on it for the whole process, and the
next program that uses the database would take it for unused and delete its write-ahead log.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from happy_light.errors import ServiceUnavailable

log = logging.getLogger(__name__)

SPACE_MIN: Final = 8 * 1024 * 1024  # bytes that must be free on the disk of the database
DAMAGED: Final = "The database is damaged; see doctor, and restore a backup"
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class FileCheck:
    """What is known of the file that a server has opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damaged = False
        about = path.stat()
        self._identity = (about.st_dev, about.st_ino)

    def see(self, error: Exception) -> ServiceUnavailable | None:
        """Return the error for clients if `error` shows that the file is damaged, which is then known."""
        code = getattr(error, "sqlite_errorcode", None)
        if not isinstance(error, sqlite3.DatabaseError) or code is None or code & 0xFF not in _DAMAGE:
            return None
        if not self._damaged:
            log.error("database %s: %s", self._path, error)
        self._damaged = True
        return ServiceUnavailable(DAMAGED)

    def check(self) -> None:
        """Raise ServiceUnavailable with the reason if the file is gone, damaged, or its disk full."""
        try:
            about = self._path.stat()
            free = shutil.disk_usage(self._path.parent).free
        except OSError as error:
            raise ServiceUnavailable("The database file is gone or cannot be read") from error
        if (about.st_dev, about.st_ino) != self._identity:
            raise ServiceUnavailable("The database file was replaced by another; restart the server")
        if self._damaged or not about.st_size:
            raise ServiceUnavailable(DAMAGED)
        if free < SPACE_MIN:
            raise ServiceUnavailable("The disk of the database is full")
