"""Import one exported account: it joins the accounts of this server, all of it or nothing.

Nothing in the file is believed. Every row has to be one that a server could have stored (rows.py) for this account,
every file one of its own, and a relationship comes back only if the other side, on this server, agrees. What cannot
be proved are the names and the GitHub profile: they are what the file says, unless they belong to somebody here.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, Final

from happy_light import store
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.blobs import FolderBlobs, InvalidKey, keys
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import install, rows
from happy_light.importing.account_export import TABLES
from happy_light.importing.export_file import ExportFile, FileLine, RowLine
from happy_light.importing.relationships import AgreedRelationships
from happy_light.importing.report import ProgressCallback, Report, TableReport
from happy_light.importing.rows import AccountRow, GithubUserRow, InvalidRow, RelationshipRow, Row, VendorTokenRow
from happy_light.importing.staging import staging_of
from happy_light.store import Transaction
from happy_light.store.sqlite.dialect import DIALECT

FILE_MAX: Final = 10 * 1024 * 1024  # bytes; no server of this kind stores a larger file
_STEP: Final = 500  # lines between two calls of the progress callback


def import_account(
    path: Path,
    settings: Settings,
    secret: str | None,
    progress: ProgressCallback,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Report:
    """Read an export into the database, in one transaction. Raises OperatorError, and nothing has changed then.

    `secret` is the other server's, for the tokens that it sealed. A dry run is rolled back at the end.
    """
    # A dry run on a folder that exists locks it, too: it writes to the database until it is rolled back.
    elsewhere = dry_run and not settings.data_dir.exists()
    with contextlib.closing(ExportFile(path)) as file, staging_of(settings, elsewhere) as staging:
        check = file.head.secret_check
        if secret is not None and check is not None and Keys(secret).check_value() != check:
            raise OperatorError("The secret given is not that of the server which wrote the export.")
        install.count_accounts(settings.database)
        is_new = not settings.database.exists()
        database = staging / install.DATABASE if is_new else settings.database
        own = _own_keys(settings, secret, staging)
        store.create_or_migrate(database)
        report, deleted = _run(database, settings, _Import(file, staging, own, secret, progress), dry_run, force)
        if is_new and not dry_run:
            install.install(settings, staging, report)
    asyncio.run(_delete_attachments(settings, deleted))
    return report


def _own_keys(settings: Settings, given: str | None, staging: Path) -> Keys:
    """Return the keys of this server. The secret of a new one is the other server's if it is given, else a new one."""
    if settings.master_secret or settings.secret_file.exists():
        return Keys(master_secret.find_or_create(settings.master_secret, settings.secret_file))
    if settings.database.exists():
        raise OperatorError(
            f"{settings.data_dir} has a database and no master secret; put it into {settings.secret_file}, or set "
            "HANDY_MASTER_SECRET."
        )
    if given is not None:
        (staging / install.SECRET).write_text(given, "utf-8")
        (staging / install.SECRET).chmod(0o600)
    return Keys(master_secret.find_or_create(None, staging / install.SECRET))


def _run(database: Path, settings: Settings, account: _Import, dry_run: bool, force: bool) -> tuple[Report, set[str]]:
    """Run the import in one transaction; return its report and the sessions whose files are to be deleted."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "busy_timeout = 5000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN IMMEDIATE")
        master_secret.match_or_record(Transaction(connection, DIALECT, now_ms()), account.own, settings.secret_file)
        deleted = account.run(connection, force)
        if dry_run:
            connection.execute("ROLLBACK")
            return account.report, set()
        if database == settings.database:
            install.install_files(settings, account.staging)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise OperatorError(f"The account cannot be imported, and nothing was changed: {error}.") from error
    finally:
        connection.close()
    return account.report, deleted


async def _delete_attachments(settings: Settings, sessions: set[str]) -> None:
    blobs = FolderBlobs(settings.files, settings.attachments)
    for session_id in sessions:
        with contextlib.suppress(InvalidKey):
            await blobs.delete_prefix(f"sessions/{session_id}/")


class _Import:
    """One run over the lines of an export."""

    def __init__(
        self, file: ExportFile, staging: Path, own: Keys, secret: str | None, progress: ProgressCallback
    ) -> None:
        self.file, self.staging, self.own, self.progress = file, staging, own, progress
        self.report = Report()
        self.account = file.head.account
        self.theirs = self._their_keys(secret)
        self.relationships = AgreedRelationships(self.account)
        self.taken: Counter[str] = Counter()
        self.sessions: set[str] = set()
        self.projects: set[str] = set()

    def _their_keys(self, secret: str | None) -> Keys | None:
        """Return what opens the sealed tokens, `own` itself if the secret is the same, None if it is not known."""
        if self.file.head.secret_check == self.own.check_value():
            return self.own
        return None if secret is None else Keys(secret)

    def run(self, connection: sqlite3.Connection, force: bool) -> set[str]:
        """Import everything; return the sessions of the account that it replaced which are gone."""
        self.connection = connection
        replaced = self._replace(force)
        for number, line in enumerate(self.file, 1):
            if number % _STEP == 0:
                self.progress("lines", number, 0)
            if isinstance(line, FileLine):
                self._stage(line)
            else:
                self._store(line)
        self.taken["relationships"] = self.relationships.store(connection)
        self._check()
        if self.theirs is not self.own:
            self.report.notes.append(
                "This server has another master secret: the account's clients have to sign in again"
                + ("." if self.theirs is not None else ", and vendor tokens were left out (give --secret-file).")
            )
        return replaced - self.sessions

    def _replace(self, force: bool) -> set[str]:
        """Delete the account that has the same id or public key; return its sessions. Raises OperatorError."""
        there = self.connection.execute(
            "SELECT id FROM accounts WHERE id = ? OR public_key = ?", (self.account, self.file.head.public_key)
        ).fetchall()
        if there and not force:
            raise OperatorError(
                f"Account {there[0][0]} is already on this server (same id or public key); --force replaces it "
                "with all it has."
            )
        replaced: set[str] = set()
        for (id,) in there:
            if id == self.account:
                self.relationships.remember(self.connection)
            sessions = self.connection.execute("SELECT id FROM sessions WHERE account_id = ?", (id,)).fetchall()
            replaced.update(row[0] for row in sessions)
            self.connection.execute("DELETE FROM accounts WHERE id = ?", (id,))
            self.report.notes.append(f"Account {id} with its {len(sessions)} sessions was replaced.")
        return replaced

    # -------------------------------------------------------------------------------------- rows
    def _store(self, line: RowLine) -> None:
        table = line.table
        if table not in TABLES or not line.row.keys() <= set(rows.TYPES[table].__struct_fields__):
            raise OperatorError(
                f"{self.file.path} contains something that this version does not know; install a newer one."
            )
        try:
            row = rows.validate(table, line.row)
        except InvalidRow as error:
            raise self.file.damaged(f"a row of {table} is invalid, {error}") from None
        if not self._belongs(row):
            raise self.file.damaged(f"a row of {table} is not of account {self.account}")
        if isinstance(row, RelationshipRow):
            self.relationships.add(row)
            return
        if not self._adapt(row):
            return
        try:
            self.connection.execute(rows.insert_sql(table), rows.values_of(row))
        except (sqlite3.IntegrityError, OverflowError) as error:
            name = line.row.get("id") or line.row.get("key") or ""
            raise OperatorError(f"{table} {name} cannot be stored, and nothing was changed: {error}.") from None
        self.taken[table] += 1

    def _belongs(self, row: Row) -> bool:
        """Return whether a row is one of the exported account, and not of another one."""
        values: dict[str, Any] = {name: getattr(row, name) for name in row.__struct_fields__}
        if isinstance(row, AccountRow):
            return (row.id, row.public_key) == (self.account, self.file.head.public_key)
        if isinstance(row, RelationshipRow):
            return self.account in (row.from_id, row.to_id)
        if row.table == "projects":
            self.projects.add(values["id"])
        elif row.table == "sessions":
            self.sessions.add(values["id"])
            if values["project_id"] not in (*self.projects, None):
                return False
        elif values.get("session_id", self.account) not in (*self.sessions, self.account, None):
            return False
        return bool(values.get("account_id", self.account) == self.account)

    def _adapt(self, row: Row) -> bool:
        """Change what depends on this server; return whether the row is taken at all."""
        one = self.connection.execute
        if isinstance(row, GithubUserRow):
            row.token = self._reseal(["user", self.account, "github", "token"], row.token)
            if one("SELECT 1 FROM accounts WHERE github_user_id = ?", (row.id,)).fetchone():
                return False
            one("DELETE FROM github_users WHERE id = ?", (row.id,))
        elif isinstance(row, AccountRow):
            if row.github_user_id is not None and not self.taken["github_users"]:
                row.github_user_id = None
                self.report.notes.append("Its GitHub user belongs to another account here; the link was left out.")
            taken = "SELECT 1 FROM accounts WHERE lower(username) = lower(?)"
            if row.username is not None and one(taken, (row.username,)).fetchone():
                self.report.notes.append(
                    f"Its username {row.username} belongs to another account here; it was left out."
                )
                row.username = None
        elif isinstance(row, VendorTokenRow):
            sealed = self._reseal(["user", self.account, "vendors", row.vendor, "token"], row.token)
            if sealed is None:
                return False
            row.token = sealed
        return True

    def _reseal(self, path: list[str], sealed: bytes | None) -> bytes | None:
        """Return a token sealed with this server's secret, None if nothing opens it."""
        if sealed is None or self.theirs is self.own:
            return sealed
        plain = None if self.theirs is None else self.theirs.vault.open(path, sealed)
        return None if plain is None else self.own.vault.seal(path, plain)

    # ------------------------------------------------------------------------------------- files
    def _stage(self, line: FileLine) -> None:
        key = keys.key_at(line.file)
        if key is None or not self._owns(key):
            raise self.file.damaged(f"{line.file!r:.100} is not a file of the account")
        if len(line.content) > FILE_MAX:
            raise self.file.damaged(f"{key} is larger than {FILE_MAX} bytes")
        file = self.staging / keys.disk_path(key)
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(line.content)
            file.chmod(0o600)
        except OSError as error:
            raise OperatorError(f"The file {file} cannot be written: {error.strerror}.") from None
        self.taken["files"] += 1

    def _owns(self, key: str) -> bool:
        if keys.is_public_key_of(self.account, key):
            return True
        top, owner, *_ = key.split("/")
        return (top == "sessions" and owner in self.sessions) or (top == "projects" and owner in self.projects)

    # ------------------------------------------------------------------------------------ the end
    def _check(self) -> None:
        """Compare the database with what was stored. Raises OperatorError."""
        if not self.taken["accounts"]:
            raise self.file.damaged("it has no account")
        for table, where in TABLES.items():
            (count,) = self.connection.execute(
                f"SELECT count(*) FROM {table} WHERE {where.split(' ORDER BY ')[0]}", {"id": self.account}
            ).fetchone()
            if count != self.taken[table]:
                raise OperatorError(f"The check failed, and nothing was changed: {count} rows in {table}.")
            found = self.file.counts[table]
            counts = self.report.tables[table] = TableReport(table.replace("_", " "), found, self.taken[table])
            if found > self.taken[table]:
                counts.left["not for this server"] = found - self.taken[table]
        behind = self.connection.execute(
            "SELECT id FROM sessions s WHERE account_id = ? AND seq < (SELECT max(seq) FROM messages m "
            "WHERE m.session_id = s.id)", (self.account,)
        ).fetchone()  # fmt: skip
        if behind is not None:
            raise self.file.damaged(f"session {behind[0]} has more messages than its seq says")
        self.report.files = {"taken": self.taken["files"]}
        self.report.checks = {"lines": sum(self.file.counts.values())}
