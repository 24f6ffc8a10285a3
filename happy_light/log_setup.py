"""Logging: lines of text or JSON on stderr or in a file, without tokens."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import deque
from pathlib import Path
from typing import Final, TextIO

log = logging.getLogger(__name__)

LINES_MAX: Final = 200
LINE_MAX: Final = 4_000  # characters of a line that are kept
recent: Final[deque[str]] = deque(maxlen=LINES_MAX)
"""The last lines of the log, as they were written, for the admin page."""

_VERBOSE = ("happy_light.hypercorn",)
_SECRETS = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]+"  # a JWT
    r"|(?i:\bbearer)\s+[^\s'\",}]+"
    r"|ExponentPushToken(?:\[|%5[Bb]).*?(?:\]|%5[Dd])"  # in a path, too
)


def configure(level: str, form: str, quiet: bool = False, file: Path | None = None) -> None:
    """Set up logging. `level` and `form` as in the settings; `quiet` drops everything below a warning.

    The log goes to stderr, or to the end of `file`. Raises OSError if that cannot be written.

    The level applies to this server's own lines. Libraries log from warning up at every level, since at debug they
    write whole packets and headers.
    """
    handler = _KeepingHandler(file)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    chosen = getattr(logging, level.upper())
    logging.getLogger("happy_light").setLevel(max(chosen, logging.WARNING) if quiet else chosen)
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(logging.WARNING)


def reopen() -> None:
    """Open the log file again, if there is one, in case another program has renamed it."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _KeepingHandler):
            handler.reopen()


def without_secrets(text: str) -> str:
    """Return the text without tokens, in case a line contains one that should not."""
    return _SECRETS.sub("[token]", text)


class _KeepingHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr or to the end of a file, and keeps the last lines."""

    def __init__(self, file: Path | None) -> None:
        super().__init__(None if file is None else file.open("a", encoding="utf-8"))
        self._file = file

    def reopen(self) -> None:
        if self._file is None:
            return
        try:
            old = self.setStream(self._file.open("a", encoding="utf-8"))
        except OSError as error:
            log.warning("the log goes on where it was: %s cannot be opened: %s", self._file, error.strerror)
        else:
            if old is not None:
                old.close()

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        recent.append(text[:LINE_MAX])
        return text


class TextFormatter(logging.Formatter):
    """Lines like `2026-01-31 12:00:00 INFO happy_light.server: text`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and its traceback."""
        return without_secrets(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, message, and exception if there is one.

    Fields that a call passes as `extra={"fields": {…}}` are added to them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(entry, ensure_ascii=False, default=str))
