"""Write one account as JSON Lines, still encrypted: a head, its rows, its files, and an end with a checksum.

{"happyServerLight": 1, "schema": 2, "account": id, "publicKey": hex, "secretCheck": hex, "at": ms}
{"table": "sessions", "row": {"id": …, …}}            bytes as base64
{"file": "attachments/sessions/<sid>/<uuid>.enc", "bytes": base64}
{"end": {"sessions": 3, …, "files": 2}, "sha256": of all lines before}
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, Final

from happy_light.blobs import Blobs, BucketError, InvalidKey, blobs_of, keys
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing.export_file import FORMAT
from happy_light.importing.own_tables import own_tables
from happy_light.store import SCHEMA_VERSION, ReadTransaction, open_for_reading

TABLES: Final = {
    "github_users": "id = (SELECT github_user_id FROM accounts WHERE id = :id)",
    "accounts": "id = :id",
    "devices": "account_id = :id",
    "projects": "account_id = :id ORDER BY id",
    "sessions": "account_id = :id ORDER BY id",
    "messages": "session_id IN (SELECT id FROM sessions WHERE account_id = :id) ORDER BY session_id, seq",
    "machines": "account_id = :id",
    "deleted_machines": "account_id = :id",
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
"""Which rows of which tables belong to an account, parents before children. Sign-in requests are left out."""


def write(settings: Settings, wanted: str, out: IO[bytes]) -> Counter[str]:
    """Write an account as it is at one moment, whether or not a server runs, and return how many of what.

    `wanted` is its id, public key (hex) or username. Raises OperatorError.
    """
    with open_for_reading(settings) as tx:
        try:
            return _write(tx, blobs_of(settings), wanted, out)
        except BucketError as error:
            raise OperatorError(f"{error}; nothing was exported.") from error


def _find(tx: ReadTransaction, wanted: str) -> tuple[str, str]:
    """Return the id and the public key of an account. Raises OperatorError."""
    row = tx.fetch_one(
        "SELECT id, public_key FROM accounts WHERE id = ? OR public_key = ? OR username = ?",
        (wanted, wanted.upper(), wanted),
    )
    if row is None:
        raise OperatorError(f"There is no account {wanted!r}; give its id, its public key (hex) or its username.")
    return row[0], row[1]


def _write(tx: ReadTransaction, blobs: Blobs, wanted: str, out: IO[bytes]) -> Counter[str]:
    account_id, public_key = _find(tx, wanted)
    check = tx.fetch_one("SELECT value FROM meta WHERE key = 'secret_check'")
    digest, counts = hashlib.sha256(), Counter[str]()

    def put(value: Any) -> None:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        digest.update(line)
        out.write(line)

    put({
        "happyServerLight": FORMAT, "schema": SCHEMA_VERSION, "account": account_id, "publicKey": public_key,
        "secretCheck": check and check[0], "at": now_ms(),
    })  # fmt: skip
    columns = {table.name: table.columns for table in own_tables()}
    for table, where in TABLES.items():
        names = columns[table]
        sql = f"SELECT {', '.join(names)} FROM {table} WHERE {where.replace(':id', '?')}"
        for row in tx.stream(sql, (account_id,) * where.count(":id")):
            put({"table": table, "row": dict(zip(names, map(_jsonable, row), strict=True))})
            counts[table] += 1
    for key in _keys(tx, blobs, account_id):
        content = _read(blobs, key)
        if content is not None:
            put({"file": keys.disk_path(key), "bytes": base64.b64encode(content).decode()})
            counts["files"] += 1
    out.write(json.dumps({"end": dict(counts), "sha256": digest.hexdigest()}).encode() + b"\n")
    return counts


def _jsonable(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _keys(tx: ReadTransaction, blobs: Blobs, account_id: str) -> Iterator[str]:
    """Yield the keys of the account's files. A path in the database that is not a file of its own is left out."""
    for (path,) in tx.fetch_all("SELECT path FROM uploaded_files WHERE account_id = ?", (account_id,)):
        if keys.is_public_key_of(account_id, path):
            yield path
    for owner in ("sessions", "projects"):
        for (id,) in tx.fetch_all(f"SELECT id FROM {owner} WHERE account_id = ?", (account_id,)):
            try:
                yield from sorted(blob.key for blob in blobs.walk(f"{owner}/{id}/"))
            except BucketError:
                raise
            except (InvalidKey, OSError):  # not an id of ours; a symbolic link in place of the folder
                continue


def _read(blobs: Blobs, key: str) -> bytes | None:
    """Return a file; None if it was deleted meanwhile, was never uploaded, or lies behind a symbolic link.

    Raises BucketError.
    """
    try:
        file = blobs.open(key)
    except BucketError:
        raise
    except OSError:
        return None
    if file is None:
        return None
    with file:
        return file.read()
