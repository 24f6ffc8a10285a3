"""Import one exported account: it joins the accounts of this server, all of it or nothing.

Nothing in the file is believed. Every row has to be one that a server could have stored (rows.py) for this account,
every file one of its own, and a relationship comes back only if the other side, on this server, agrees. What cannot
be proved are the names and the GitHub profile: they are what the file says, unless they belong to somebody here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any, Final

from happy_light.admin import numbering
from happy_light.auth import devices, master_secret
from happy_light.auth.keys import Keys
from happy_light.blobs import BucketError, InvalidKey, blobs_of, keys
from happy_light.config import Settings
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.importing import account_targets, install, rows
from happy_light.importing.account_export import TABLES
from happy_light.importing.account_targets import AccountTarget
from happy_light.importing.export_file import ExportFile, FileLine, RowLine
from happy_light.importing.relationships import AgreedRelationships
from happy_light.importing.report import ProgressCallback, Report, TableReport
from happy_light.importing.rows import (
    AccountRow,
    DeviceRow,
    GithubUserRow,
    InvalidRow,
    RelationshipRow,
    Row,
    VendorTokenRow,
)
from happy_light.importing.staging import staging_of

FILE_MAX: Final = 10 * 1024 * 1024  # bytes; no server of this kind stores a larger file
_TOGETHER: Final = 64  # rows of a table that are stored together
_LARGE: Final = 100_000  # characters or bytes of a value, with which the rows that wait are stored at once
_DELETE_END: Final = 5.0  # s that the end of the connections to a bucket may take
DEVICES_SCHEMA: Final = 7  # of the first exports that have the account's devices
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
    with (
        contextlib.closing(ExportFile(path)) as file,
        staging_of(settings, elsewhere) as staging,
        account_targets.open_target(settings, staging) as target,
    ):
        check = file.head.secret_check
        if secret is not None and check is not None and Keys(secret).check_value() != check:
            raise OperatorError("The secret given is not that of the server which wrote the export.")
        own = _own_keys(settings, secret, staging, target.is_new)
        master_secret.match_or_record(target.tx, own, settings.secret_file)
        account = _Import(file, staging, own, secret, progress, target)
        deleted = account.run(force)
        numbering.record_imported(target.tx, account.sessions)
        if dry_run:
            return account.report
        target.install(settings, staging, account.report)
    asyncio.run(_delete_attachments(settings, deleted))
    return account.report


def _own_keys(settings: Settings, given: str | None, staging: Path, is_new: bool) -> Keys:
    """Return the keys of this server. The secret of a new one is the other server's if it is given, else a new one."""
    if settings.master_secret or settings.secret_file.exists():
        return Keys(master_secret.find_or_create(settings.master_secret, settings.secret_file))
    if not is_new:
        raise OperatorError(
            f"{settings.postgres or settings.data_dir} has a database and no master secret; put it into "
            f"{settings.secret_file}, or set HANDY_MASTER_SECRET."
        )
    if given is not None:
        (staging / install.SECRET).write_text(given, "utf-8")
        (staging / install.SECRET).chmod(0o600)
    return Keys(master_secret.find_or_create(None, staging / install.SECRET))


async def _delete_attachments(settings: Settings, sessions: set[str]) -> None:
    """Delete what the sessions of a replaced account had. What cannot be deleted is left to `prune`."""
    if not sessions:
        return
    blobs = blobs_of(settings)
    try:
        for session_id in sessions:
            with contextlib.suppress(InvalidKey, BucketError, ServiceUnavailable):
                await blobs.delete_prefix(f"sessions/{session_id}/")
    finally:
        await blobs.close(_DELETE_END)


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, bytes)) else 0


class _Import:
    """One run over the lines of an export."""

    def __init__(
        self,
        file: ExportFile,
        staging: Path,
        own: Keys,
        secret: str | None,
        progress: ProgressCallback,
        target: AccountTarget,
    ) -> None:
        self.file, self.staging, self.own, self.progress = file, staging, own, progress
        self.tx, self.refusals = target.tx, target.refusals
        self.waiting: list[Row] = []
        """Rows of one table that are to be stored together."""
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

    def run(self, force: bool) -> set[str]:
        """Import everything; return the sessions of the account that it replaced which are gone."""
        replaced = self._replace(force)
        for number, line in enumerate(self.file, 1):
            if number % _STEP == 0:
                self.progress("lines", number, 0)
            if isinstance(line, FileLine):
                self._stage(line)
            else:
                self._store(line)
        self._store_waiting()
        self.taken["relationships"] = self.relationships.store(self.tx)
        self._check()
        if self.theirs is self.own and self.file.head.schema < DEVICES_SCHEMA:
            devices.record_unknown(self.tx, "import", self.account)
        if self.theirs is not self.own:
            self.report.notes.append(
                "This server has another master secret: the account's clients have to sign in again"
                + ("." if self.theirs is not None else ", and vendor tokens were left out (give --secret-file).")
            )
        return replaced - self.sessions

    def _replace(self, force: bool) -> set[str]:
        """Delete the account that has the same id or public key; return its sessions. Raises OperatorError."""
        there = self.tx.fetch_all(
            "SELECT id FROM accounts WHERE id = ? OR public_key = ?", (self.account, self.file.head.public_key)
        )
        if there and not force:
            raise OperatorError(
                f"Account {there[0][0]} is already on this server (same id or public key); --force replaces it "
                "with all it has."
            )
        replaced: set[str] = set()
        for (id,) in there:
            if id == self.account:
                self.relationships.remember(self.tx)
            sessions = self.tx.fetch_all("SELECT id FROM sessions WHERE account_id = ?", (id,))
            replaced.update(row[0] for row in sessions)
            self.tx.execute("DELETE FROM accounts WHERE id = ?", (id,))
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
        if self.waiting and self.waiting[0].table != table:
            self._store_waiting()
        if isinstance(row, RelationshipRow):
            self.relationships.add(row)
            return
        if not self._adapt(row):
            return
        self.waiting.append(row)
        self.taken[table] += 1
        if len(self.waiting) == _TOGETHER or max(map(_length, rows.values_of(row))) > _LARGE:
            self._store_waiting()

    def _store_waiting(self) -> None:
        """Store the rows that wait."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        table = waiting[0].table
        try:
            self.tx.executemany(rows.insert_sql(table), [rows.values_of(row) for row in waiting])
        except self.refusals as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise OperatorError(
                f"A row of {table} cannot be stored, and nothing was changed: {': '.join(map(str.strip, lines))}."
            ) from None

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
        one = self.tx.fetch_one
        if isinstance(row, GithubUserRow):
            row.token = self._reseal(["user", self.account, "github", "token"], row.token)
            if one("SELECT 1 FROM accounts WHERE github_user_id = ?", (row.id,)):
                return False
            self.tx.execute("DELETE FROM github_users WHERE id = ?", (row.id,))
        elif isinstance(row, AccountRow):
            if row.github_user_id is not None and not self.taken["github_users"]:
                row.github_user_id = None
                self.report.notes.append("Its GitHub user belongs to another account here; the link was left out.")
            taken = "SELECT 1 FROM accounts WHERE lower(username) = lower(?)"
            if row.username is not None and one(taken, (row.username,)):
                self.report.notes.append(
                    f"Its username {row.username} belongs to another account here; it was left out."
                )
                row.username = None
        elif isinstance(row, DeviceRow):
            return self.theirs is self.own  # else its token is not valid here
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
            which = where.split(" ORDER BY ")[0]
            (count,) = self.tx.fetch_all(
                f"SELECT count(*) FROM {table} WHERE {which.replace(':id', '?')}", (self.account,) * which.count(":id")
            )[0]
            if count != self.taken[table]:
                raise OperatorError(f"The check failed, and nothing was changed: {count} rows in {table}.")
            found = self.file.counts[table]
            counts = self.report.tables[table] = TableReport(table.replace("_", " "), found, self.taken[table])
            if found > self.taken[table]:
                counts.left["not for this server"] = found - self.taken[table]
        behind = self.tx.fetch_one(
            "SELECT id FROM sessions s WHERE account_id = ? AND seq < (SELECT max(seq) FROM messages m "
            "WHERE m.session_id = s.id)", (self.account,)
        )  # fmt: skip
        if behind is not None:
            raise self.file.damaged(f"session {behind[0]} has more messages than its seq says")
        self.report.files = {"taken": self.taken["files"]}
        self.report.checks = {"lines": sum(self.file.counts.values())}
