"""One account as JSON Lines, still encrypted: a head, its rows, its files, and an end that proves it is whole.

{"happyServerLight": 1, "schema": 1, "account": id, "publicKey": hex, "secretCheck": hex, "at": ms}
{"table": "sessions", "row": {"id": …, …}}            bytes as base64
{"file": "attachments/sessions/<sid>/<uuid>.enc", "bytes": base64}
{"end": {"sessions": 3, …, "files": 2}, "sha256": of all lines before}
"""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from happy_light import store
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing.install import home

FORMAT: Final = 1
LINE_MAX: Final = 512 * 1024 * 1024  # bytes; a message may have 100 MB, and JSON and base64 add to that

TABLES: Final = {
    "github_users": "id = (SELECT github_user_id FROM accounts WHERE id = :id)",
    "accounts": "id = :id",
    "sessions": "account_id = :id ORDER BY id",
    "messages": "session_id IN (SELECT id FROM sessions WHERE account_id = :id) ORDER BY session_id, seq",
    "machines": "account_id = :id",
    "artifacts": "account_id = :id",
    "access_keys": "account_id = :id",
    "kv": "account_id = :id",
    "usage_reports": "account_id = :id",
    "push_tokens": "account_id = :id",
    "vendor_tokens": "account_id = :id",
    "uploaded_files": "account_id = :id",
    "relationships": "from_id = :id OR to_id = :id",
    "feed_items": "account_id = :id ORDER BY counter",
    "voice_sessions": "account_id = :id",
}
"""What belongs to an account, parents before children. Sign-in requests are of the moment and stay."""


def find(connection: sqlite3.Connection, wanted: str) -> tuple[str, str]:
    """An account by id, public key (hex) or username -> (id, public key). Raises StartError."""
    row = connection.execute(
        "SELECT id, public_key FROM accounts WHERE id = ? OR public_key = ? OR username = ?",
        (wanted, wanted.upper(), wanted),
    ).fetchone()
    if row is None:
        raise OperatorError(f"There is no account {wanted!r}; give its id, its public key (hex) or its username.")
    return row[0], row[1]


def write(settings: Settings, wanted: str, out: IO[bytes]) -> Counter[str]:
    """Writes an account, as it is in one moment, while a server may run. -> how many of what."""
    if not settings.database.exists():
        raise OperatorError(f"There is no database in {settings.data_dir}; choose the folder with --data-dir.")
    connection = sqlite3.connect(f"{settings.database.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("BEGIN")
        return _write(connection, settings, wanted, out)
    except sqlite3.Error as error:
        raise OperatorError(f"The database {settings.database} cannot be read: {error}.") from error
    finally:
        connection.close()


def _write(connection: sqlite3.Connection, settings: Settings, wanted: str, out: IO[bytes]) -> Counter[str]:
    account_id, public_key = find(connection, wanted)
    (schema,) = connection.execute("PRAGMA user_version").fetchone()
    check = connection.execute("SELECT value FROM meta WHERE key = 'secret_check'").fetchone()
    digest, counts = hashlib.sha256(), Counter[str]()

    def put(value: Any) -> None:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        digest.update(line)
        out.write(line)

    put({
        "happyServerLight": FORMAT, "schema": schema, "account": account_id, "publicKey": public_key,
        "secretCheck": check and check[0], "at": now_ms(),
    })  # fmt: skip
    for table, where in TABLES.items():
        cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}", {"id": account_id})
        names = [column[0] for column in cursor.description]
        for row in cursor:
            put({"table": table, "row": dict(zip(names, map(_plain, row), strict=True))})
            counts[table] += 1
    for place in _files(connection, settings, account_id):
        try:
            content = home(settings, place).read_bytes()
        except FileNotFoundError:
            continue  # deleted since, or never uploaded
        put({"file": str(place), "bytes": base64.b64encode(content).decode()})
        counts["files"] += 1
    out.write(json.dumps({"end": dict(counts), "sha256": digest.hexdigest()}).encode() + b"\n")
    return counts


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _files(connection: sqlite3.Connection, settings: Settings, account_id: str) -> Iterator[Path]:
    for (path,) in connection.execute("SELECT path FROM uploaded_files WHERE account_id = ?", (account_id,)):
        yield Path("files") / path
    for (session_id,) in connection.execute("SELECT id FROM sessions WHERE account_id = ?", (account_id,)):
        place = Path("attachments") / "sessions" / session_id
        if (folder := home(settings, place)).is_dir():
            yield from (place / file.name for file in sorted(folder.glob("*.enc")))


# ------------------------------------------------------------------------------------------ reading
class Lines:
    """An export, line by line. Iterating proves the whole: it raises StartError at the first damage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise OperatorError(f"{path} cannot be read: {error.strerror}.") from error
        self._digest = hashlib.sha256()
        self._number = 0
        self.counts: Counter[str] = Counter()
        """What the end says there is."""
        self.head: dict[str, Any] = self._next()
        wanted = {"happyServerLight": int, "schema": int, "account": str, "publicKey": str}
        if not all(isinstance(self.head.get(name), kind) for name, kind in wanted.items()):
            raise OperatorError(f"{path} is neither a SQLite database nor an account's export.")
        if self.head["happyServerLight"] > FORMAT or self.head["schema"] > store.SCHEMA_VERSION:
            raise OperatorError(f"{path} was written by a newer happy-server-light; install that version to read it.")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The lines between head and end."""
        found: Counter[str] = Counter()
        while True:
            before = self._digest.hexdigest()
            line = self._next()
            if "end" in line:
                if line.get("sha256") != before or line["end"] != dict(found):
                    raise OperatorError(f"{self.path} is damaged: its checksum is not the one at its end.")
                self.counts = found
                return
            found["files" if "file" in line else str(line.get("table"))] += 1
            yield line

    def _next(self) -> dict[str, Any]:
        self._number += 1
        text = self._file.readline(LINE_MAX)
        if not text:
            raise OperatorError(f"{self.path} is cut off: line {self._number} is missing.")
        self._digest.update(text)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            if self._number == 1:
                raise OperatorError(f"{self.path} is neither a SQLite database nor an account's export.")
            raise OperatorError(f"{self.path} is damaged in line {self._number}.")
        return value

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
