"""One exported account joins the accounts of this server, in one transaction."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, Final

from happy_light import store
from happy_light.auth import master_secret
from happy_light.auth.keys import Keys
from happy_light.clock import now_ms
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import install
from happy_light.importing.account_export import TABLES, Lines
from happy_light.importing.copy_tables import Moved, Progress, Report
from happy_light.importing.server_import import staging_of
from happy_light.store import Transaction
from happy_light.store.sqlite.dialect import DIALECT

_ID: Final = re.compile(r"[\w-]+", re.ASCII)
_ATTACHMENT: Final = re.compile(r"attachments/sessions/([\w-]+)/[0-9a-fA-F-]{36}\.enc", re.ASCII)
_STEP: Final = 500


def adopt(
    path: Path,
    settings: Settings,
    secret: str | None,
    progress: Progress,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Report:
    """Reads an export into the database. `secret` is the other server's, for the tokens it sealed.

    A dry run takes everything back at the end. Raises StartError, and nothing has changed then.
    """
    # A dry run writes too, for a while: never into a database that a server uses.
    elsewhere = dry_run and not settings.data_dir.exists()
    with contextlib.closing(Lines(path)) as lines, staging_of(settings, elsewhere) as staging:
        check = lines.head.get("secretCheck")
        if secret is not None and check is not None and Keys(secret).check_value() != check:
            raise OperatorError("The secret given is not that of the server which wrote the export.")
        database = settings.database
        if dry_run and not database.exists():
            database = staging / "database"
        elif not settings.master_secret and not settings.secret_file.exists() and secret and not dry_run:
            install.write_secret(settings.secret_file, secret)  # a new server: its first account stays signed in
        install.accounts_in(database)
        store.create_or_migrate(database)
        own = _own_secret(settings, secret, dry_run)
        connection = sqlite3.connect(database, isolation_level=None)
        try:
            for pragma in ("foreign_keys = ON", "synchronous = FULL", "busy_timeout = 5000"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            master_secret.match_or_record(Transaction(connection, DIALECT, now_ms()), own, settings.secret_file)
            report, gone = _Adoption(connection, lines, staging, own, secret, progress).run(force)
            if dry_run:
                connection.execute("ROLLBACK")
                return report
            install.put_files(settings, staging)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise OperatorError(f"The account cannot be taken over, and nothing was changed: {error}.") from error
        finally:
            connection.close()
        for session_id in gone:
            shutil.rmtree(settings.attachments_of(session_id), ignore_errors=True)
    return report


def _own_secret(settings: Settings, given: str | None, dry_run: bool) -> Keys:
    if dry_run and not settings.master_secret and not settings.secret_file.exists():
        return Keys(given or "a secret that is yet to be made")
    return Keys(master_secret.find_or_create(settings.master_secret, settings.secret_file))


class _Adoption:
    """One run over the lines, inside the caller's transaction."""

    def __init__(
        self, connection: sqlite3.Connection, lines: Lines, staging: Path, own: Keys, secret: str | None,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.connection, self.lines, self.staging, self.progress = connection, lines, staging, progress
        self.report = Report()
        self.account: str = lines.head["account"]
        self.columns = {
            table: {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")} for table in TABLES
        }
        self.own, self.theirs = own, self._their_keys(own, secret)
        self.found: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.sessions: set[str] = set()

    def _their_keys(self, own: Keys, secret: str | None) -> Keys | None:
        """What opens the sealed tokens; None: nothing does. The same secret as ours is `own` itself."""
        check = self.lines.head.get("secretCheck")
        if check == own.check_value():
            return own
        return None if secret is None else Keys(secret)

    def run(self, force: bool) -> tuple[Report, set[str]]:
        """-> the report, and the sessions of the account it replaced that are no more."""
        gone = self._make_room(force)
        for number, line in enumerate(self.lines, 1):
            if number % _STEP == 0:
                self.progress("lines", number, 0)
            if "file" in line:
                self._file(line)
            else:
                self._row(line)
        self._check()
        if self.theirs is not self.own:
            self.report.notes.append(
                "This server has another master secret: the account's clients have to sign in again"
                + ("." if self.theirs is not None else ", and vendor tokens were left out (give --secret-file).")
            )
        return self.report, gone - self.sessions

    def _make_room(self, force: bool) -> set[str]:
        there = self.connection.execute(
            "SELECT id FROM accounts WHERE id = ? OR public_key = ?", (self.account, self.lines.head["publicKey"])
        ).fetchall()
        if there and not force:
            raise OperatorError(
                f"Account {there[0][0]} is already on this server (same id or public key); --force replaces it "
                "with all it has."
            )
        gone: set[str] = set()
        for (id,) in there:
            gone.update(
                row[0] for row in self.connection.execute("SELECT id FROM sessions WHERE account_id = ?", (id,))
            )
            self.connection.execute("DELETE FROM accounts WHERE id = ?", (id,))
            self.report.notes.append(f"Account {id} with its {len(gone)} sessions was replaced.")
        return gone

    # ------------------------------------------------------------------------------------- one line
    def _row(self, line: dict[str, Any]) -> None:
        table, row = line.get("table"), line.get("row")
        if table not in TABLES or not isinstance(row, dict) or not row.keys() <= self.columns[table].keys():
            raise OperatorError(
                f"{self.lines.path} holds something that this version does not know; install a newer one."
            )
        self.found[table] += 1
        try:
            values = {name: self._value(table, name, value) for name, value in row.items()}
        except ValueError:
            raise OperatorError(f"{self.lines.path} is damaged: a value of {table} has the wrong kind.") from None
        self._belongs(table, values)
        if not self._fit(table, values):
            return
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        try:
            self.connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))
        except (sqlite3.IntegrityError, OverflowError, UnicodeEncodeError) as error:
            raise OperatorError(
                f"{table} {row.get('id') or row.get('key') or ''} cannot be stored, and nothing was changed: {error}."
            ) from None
        self.taken[table] += 1

    def _value(self, table: str, name: str, value: Any) -> Any:
        if self.columns[table][name] == "BLOB" and isinstance(value, str):
            return base64.b64decode(value, validate=True)
        if value is not None and not isinstance(value, str | int):
            raise ValueError(value)
        return value

    def _belongs(self, table: str, values: dict[str, Any]) -> None:
        """An export speaks of its own account only."""
        owner = values.get("account_id", self.account)
        if table == "accounts":
            owner = values.get("id")
        elif table == "sessions":
            self.sessions.add(str(values.get("id")))
            if not _ID.fullmatch(str(values.get("id"))):
                owner = None  # it names a folder
        elif table == "relationships" and self.account not in (values.get("from_id"), values.get("to_id")):
            owner = None
        session_id = values.get("session_id")
        if session_id not in self.sessions and (session_id is not None or table == "messages"):
            owner = None
        if owner != self.account:
            raise OperatorError(f"{self.lines.path} is damaged: a row of {table} is not of account {self.account}.")

    def _fit(self, table: str, values: dict[str, Any]) -> bool:
        """Adjusts what depends on this server. -> whether the row is taken at all."""
        one = self.connection.execute
        if table == "github_users":
            values["token"] = self._reseal(["user", self.account, "github", "token"], values.get("token"))
            if one("SELECT 1 FROM accounts WHERE github_user_id = ?", (values["id"],)).fetchone():
                return False
            one("DELETE FROM github_users WHERE id = ?", (values["id"],))
        elif table == "accounts":
            linked = values.get("github_user_id")
            if linked is not None and not self.taken["github_users"]:
                values["github_user_id"] = None
                self.report.notes.append("Its GitHub user belongs to another account here; the link was left out.")
            name = values.get("username")
            if name is not None and one("SELECT 1 FROM accounts WHERE username = ?", (name,)).fetchone():
                values["username"] = None
                self.report.notes.append(f"Its username {name} belongs to another account here and was left out.")
        elif table == "vendor_tokens":
            sealed = self._reseal(["user", self.account, "vendors", values["vendor"], "token"], values["token"])
            values["token"] = sealed
            return sealed is not None
        elif table == "relationships":
            other = values["to_id"] if values["from_id"] == self.account else values["from_id"]
            return one("SELECT 1 FROM accounts WHERE id = ?", (other,)).fetchone() is not None
        return True

    def _reseal(self, path: list[str], sealed: bytes | None) -> bytes | None:
        """Sealed with their secret -> with ours; as it is under one secret; None if nothing opens it."""
        if sealed is None or self.theirs is self.own:
            return sealed
        plain = None if self.theirs is None else self.theirs.vault.open(path, sealed)
        return None if plain is None else self.own.vault.seal(path, plain)

    def _file(self, line: dict[str, Any]) -> None:
        path, content = line["file"], line.get("bytes")
        if not isinstance(path, str) or not isinstance(content, str) or not self._is_own(path):
            raise OperatorError(f"{self.lines.path} is damaged: {path!r:.100} is no file of the account.")
        self.found["files"] += 1
        place = self.staging / path
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            place.write_bytes(base64.b64decode(content, validate=True))
        except (OSError, ValueError) as error:
            raise OperatorError(f"The file {path} cannot be written: {error}.") from None
        place.chmod(0o600)
        self.taken["files"] += 1

    def _is_own(self, path: str) -> bool:
        """Whether a path lies in the folders of this account, so that nobody else's file is replaced."""
        if found := _ATTACHMENT.fullmatch(path):
            return found[1] in self.sessions
        parts = PurePosixPath(path).parts
        return parts[:4] == ("files", "public", "users", self.account) and ".." not in parts and "\0" not in path

    # --------------------------------------------------------------------------------------- the end
    def _check(self) -> None:
        """What the database now says of the account is what was read."""
        if not self.taken["accounts"]:
            raise OperatorError(f"{self.lines.path} is damaged: it has no account.")
        for table, where in TABLES.items():
            (count,) = self.connection.execute(
                f"SELECT count(*) FROM {table} WHERE {where.split(' ORDER BY ')[0]}", {"id": self.account}
            ).fetchone()
            if count != self.taken[table]:
                raise OperatorError(f"The check failed, and nothing was changed: {count} rows in {table}.")
            moved = self.report.tables[table] = Moved(table.replace("_", " "), self.found[table], self.taken[table])
            if moved.found > moved.taken:
                moved.left["not for this server"] = moved.found - moved.taken
        behind = self.connection.execute(
            "SELECT id FROM sessions s WHERE account_id = ? AND seq < (SELECT max(seq) FROM messages m "
            "WHERE m.session_id = s.id)", (self.account,)
        ).fetchone()  # fmt: skip
        if behind is not None:
            raise OperatorError(
                f"{self.lines.path} is damaged: session {behind[0]} has more messages than its seq says."
            )
        self.report.files = {"taken": self.taken["files"]}
        self.report.checks = {"lines": sum(self.lines.counts.values())}
