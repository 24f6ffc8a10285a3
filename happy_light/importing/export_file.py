"""Read the export of an account (see account_export.py), and prove that the file is complete."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from happy_light import store
from happy_light.errors import OperatorError
from happy_light.importing.row_checks import Id, PublicKey

FORMAT: Final = 1
LINE_MAX: Final = 512 * 1024 * 1024  # bytes; a message may have 100 MB, and JSON and base64 add to that


class Head(msgspec.Struct, rename="camel"):
    """The first line: who is in the file, and which server wrote it (`at`: ms)."""

    happy_server_light: int
    schema: int
    account: Id
    public_key: PublicKey
    secret_check: str | None = None
    at: int | None = None


class RowLine(msgspec.Struct, forbid_unknown_fields=True):
    """A row of a table, its values by column; bytes are base64."""

    table: str
    row: dict[str, Any]


class FileLine(msgspec.Struct, forbid_unknown_fields=True):
    """A file: its path as in the data folder, and its content."""

    file: str
    content: bytes = msgspec.field(name="bytes")


class _End(msgspec.Struct, forbid_unknown_fields=True):
    """The last line: how many lines of which kind there are, and the SHA-256 of all lines before it."""

    end: dict[str, int]
    sha256: str


class ExportFile:
    """The lines of an export. Iterating over all of them proves that the file is complete and unchanged."""

    def __init__(self, path: Path) -> None:
        """Open the file and read its first line. Raises OperatorError."""
        self.path = path
        self._digest = hashlib.sha256()
        self._number = 0
        self.counts: Counter[str] = Counter()
        """How many lines of which kind were read, complete after the last one."""
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error
        try:
            self.head = self._read_head()
        except BaseException:
            self._file.close()
            raise

    def _read_head(self) -> Head:
        line = self._next()
        version = line.get("happyServerLight")
        if not isinstance(version, int):
            raise OperatorError(f"{self.path} is neither a SQLite database nor an account's export.")
        schema = line.get("schema")
        if version > FORMAT or (isinstance(schema, int) and schema > store.SCHEMA_VERSION):
            raise OperatorError(f"{self.path} was written by a newer happy-server-light; install that version.")
        head: Head = self._convert(line, Head)
        return head

    def __iter__(self) -> Iterator[RowLine | FileLine]:
        """Yield the lines between head and end. Raises OperatorError at the first damage."""
        while True:
            before = self._digest.hexdigest()
            line = self._next()
            if "end" in line:
                end = self._convert(line, _End)
                if end.sha256 != before or end.end != dict(self.counts):
                    raise OperatorError(f"{self.path} is damaged: its checksum is not the one at its end.")
                return
            if "file" in line:
                self.counts["files"] += 1
                yield self._convert(line, FileLine)
            else:
                row = self._convert(line, RowLine)
                self.counts[row.table] += 1
                yield row

    def _convert(self, line: dict[str, Any], kind: type[Any]) -> Any:
        try:
            return msgspec.convert(line, kind)
        except msgspec.ValidationError as error:
            raise self.damaged(f"line {self._number}: {error}") from None

    def _next(self) -> dict[str, Any]:
        self._number += 1
        text = self._file.readline(LINE_MAX)
        if not text:
            raise OperatorError(f"{self.path} is cut off: line {self._number} is missing.")
        self._digest.update(text)
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
        if self._number == 1:
            raise OperatorError(f"{self.path} is neither a SQLite database nor an account's export.")
        raise self.damaged(f"line {self._number} is not JSON")

    def damaged(self, what: str) -> OperatorError:
        """Return the error for content that no server would have written."""
        return OperatorError(f"{self.path} is damaged or forged, and nothing was changed: {what}.")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
