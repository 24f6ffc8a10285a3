"""What the tables of the other servers are called, and which of our tables and columns they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from happy_light.importing.convert import (
    Damaged,
    base64,
    blob,
    boolean,
    ciphertext,
    date,
    integer,
    json_text,
    some_text,
    status,
    text,
    upper,
    usage_cost,
    usage_tokens,
)

REQUIRED: Final = object()
CREATED: Final = object()
"""The row's created_at takes its place."""


@dataclass(frozen=True)
class Column:
    """Our column `ours` is `read(value of theirs)`; `default` where theirs is null or missing."""

    ours: str
    theirs: str | None
    read: Callable[[Any], Any]
    default: Any = REQUIRED


@dataclass(frozen=True)
class Table:
    """A table of theirs, the table of ours it goes to, and what an operator calls its rows."""

    theirs: str
    ours: str
    shown: str
    columns: tuple[Column, ...]
    order: tuple[str, ...] = ()
    on_conflict: str = "DO NOTHING"

    def row(self, values: tuple[Any, ...]) -> list[Any]:
        """Their values in the order of `columns` -> ours. Raises Damaged."""
        made = []
        for column, value in zip(self.columns, values, strict=True):
            if value is not None:
                made.append(column.read(value))
            elif column.default is REQUIRED:
                raise Damaged(f"it has no {column.theirs}")
            else:
                made.append(made[self.created] if column.default is CREATED else column.default)
        return made

    @property
    def created(self) -> int:
        """Where created_at stands; before every column that falls back to it."""
        return next(index for index, column in enumerate(self.columns) if column.ours == "created_at")

    @property
    def insert(self) -> str:
        """The statement that stores a row of ours."""
        names = ", ".join(column.ours for column in self.columns)
        marks = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.ours} ({names}) VALUES ({marks}) ON CONFLICT {self.on_conflict}"


_TIMES: Final = (Column("created_at", "createdAt", date), Column("updated_at", "updatedAt", date, CREATED))
_ID: Final = Column("id", "id", text)
_ACCOUNT: Final = Column("account_id", "accountId", text)
_KEY: Final = Column("data_encryption_key", "dataEncryptionKey", base64, None)
_SEQ: Final = Column("seq", "seq", integer, 0)
_ACTIVE: Final = (Column("active", "active", boolean, 1), Column("active_at", "lastActiveAt", date, CREATED))


def _versioned(ours: str, theirs: str, default: Any = REQUIRED) -> tuple[Column, Column]:
    return Column(ours, theirs, text, default), Column(f"{ours}_version", f"{theirs}Version", integer, 0)


def _request(theirs: str, kind: str, *more: Column) -> Table:
    return Table(theirs, "auth_requests", f"{kind} sign-in requests", (
        _ID, *_TIMES,
        Column("kind", None, text, kind),
        Column("public_key", "publicKey", upper),
        Column("response", "response", text, None),
        Column("account_id", "responseAccountId", text, None),
        *more,
    ))  # fmt: skip


TABLES: Final = (
    Table("GithubUser", "github_users", "GitHub users", (
        _ID, *_TIMES,
        Column("profile", "profile", json_text),
        Column("token", "token", blob, None),
    )),
    Table("Account", "accounts", "accounts", (
        _ID, *_TIMES, _SEQ,
        Column("public_key", "publicKey", upper),
        Column("feed_seq", "feedSeq", integer, 0),
        *_versioned("settings", "settings", None),
        Column("first_name", "firstName", text, None),
        Column("last_name", "lastName", text, None),
        Column("username", "username", text, None),
        Column("avatar", "avatar", json_text, None),
        Column("github_user_id", "githubUserId", text, None),
    )),
    _request("TerminalAuthRequest", "terminal", Column("supports_v2", "supportsV2", boolean, 0)),
    _request("AccountAuthRequest", "account"),
    Table("AccountPushToken", "push_tokens", "push tokens", (
        _ID, *_TIMES, _ACCOUNT,
        Column("token", "token", text),
    )),
    Table("Session", "sessions", "sessions", (
        _ID, *_TIMES, _ACCOUNT, _SEQ, _KEY, *_ACTIVE,
        Column("tag", "tag", text),
        *_versioned("metadata", "metadata"),
        *_versioned("agent_state", "agentState", None),
    )),
    Table("SessionMessage", "messages", "messages", (
        Column("session_id", "sessionId", text),
        Column("seq", "seq", integer, 0),
        _ID, *_TIMES,
        Column("local_id", "localId", some_text, None),
        Column("content", "content", ciphertext),
    ), order=("sessionId", "seq")),
    Table("Machine", "machines", "machines", (
        _ID, *_TIMES, _ACCOUNT, _SEQ, _KEY, *_ACTIVE,
        *_versioned("metadata", "metadata"),
        *_versioned("daemon_state", "daemonState", None),
    )),
    Table("Artifact", "artifacts", "artifacts", (
        _ID, *_TIMES, _ACCOUNT, _SEQ,
        Column("header", "header", blob),
        Column("header_version", "headerVersion", integer, 0),
        Column("body", "body", blob),
        Column("body_version", "bodyVersion", integer, 0),
        Column("data_encryption_key", "dataEncryptionKey", blob),
    )),
    Table("AccessKey", "access_keys", "access keys", (
        *_TIMES, _ACCOUNT,
        Column("machine_id", "machineId", text),
        Column("session_id", "sessionId", text),
        *_versioned("data", "data"),
    )),
    Table("UserKVStore", "kv", "key-value pairs", (
        *_TIMES, _ACCOUNT,
        Column("key", "key", text),
        Column("value", "value", blob, None),
        Column("version", "version", integer, 0),
    )),
    Table("UsageReport", "usage_reports", "usage reports", (
        _ID, *_TIMES, _ACCOUNT,
        Column("session_id", "sessionId", text, None),
        Column("key", "key", text),
        Column("tokens", "data", usage_tokens),
        Column("cost", "data", usage_cost),
    ),
        # Theirs may hold several reports of one key without a session; the last one is the true one.
        on_conflict="(account_id, coalesce(session_id, ''), key) DO UPDATE SET id = excluded.id, "
        "tokens = excluded.tokens, cost = excluded.cost, created_at = excluded.created_at, "
        "updated_at = excluded.updated_at WHERE excluded.updated_at >= updated_at ON CONFLICT DO NOTHING"),
    Table("ServiceAccountToken", "vendor_tokens", "vendor tokens", (
        *_TIMES, _ACCOUNT,
        Column("vendor", "vendor", text),
        Column("token", "token", blob),
    )),
    Table("UploadedFile", "uploaded_files", "uploaded files", (
        _ID, *_TIMES, _ACCOUNT,
        Column("path", "path", text),
        Column("width", "width", integer, None),
        Column("height", "height", integer, None),
        Column("thumbhash", "thumbhash", text, None),
        Column("reuse_key", "reuseKey", text, None),
    )),
    Table("UserRelationship", "relationships", "relationships", (
        *_TIMES,
        Column("from_id", "fromUserId", text),
        Column("to_id", "toUserId", text),
        Column("status", "status", status, "pending"),
        Column("accepted_at", "acceptedAt", date, None),
        Column("last_notified_at", "lastNotifiedAt", date, None),
    )),
    Table("UserFeedItem", "feed_items", "feed items", (
        _ID, *_TIMES,
        Column("account_id", "userId", text),
        Column("counter", "counter", integer),
        Column("repeat_key", "repeatKey", text, None),
        Column("body", "body", json_text),
    )),
)  # fmt: skip
"""Parents before children."""

UNUSED: Final = {
    "ServiceAccountToken": {"id", "metadata", "lastUsedAt"},
    "AccessKey": {"id"},
    "UserKVStore": {"id"},
}
"""Columns that are known and have no place here: no client ever sees them."""

EMPTY: Final = {"GithubOrganization", "GlobalLock", "SimpleCache", "VoiceConversation", "RepeatKey"}
"""Tables that are known and have no place here: caches and locks."""

ESSENTIAL: Final = {"Account", "Session", "SessionMessage"}
"""Tables without which a database is not a Happy server's."""
