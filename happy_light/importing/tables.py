"""The tables of the other servers, and which of our tables and columns they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from happy_light.importing import rows
from happy_light.importing.convert import (
    base64,
    blob,
    boolean,
    ciphertext,
    date,
    integer,
    json_text,
    message_seq,
    some_text,
    status,
    text,
    upper,
    usage_cost,
    usage_tokens,
)
from happy_light.importing.rows import InvalidRow, Row

REQUIRED: Final = object()
CREATED: Final = object()
"""The default is the row's created_at."""


@dataclass(frozen=True)
class Column:
    """Our column `ours` is `convert` of their column `theirs`; `default` where theirs is null or missing.

    A value of an `optional` column that cannot be stored becomes null, instead of costing the row.
    """

    ours: str
    theirs: str | None
    convert: Callable[[Any], Any]
    default: Any = REQUIRED
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """A table of theirs, the table of ours it goes to, and what an operator calls its rows."""

    theirs: str
    ours: str
    shown: str
    columns: tuple[Column, ...]
    order: tuple[str, ...] = ()
    on_conflict: str = "DO NOTHING"

    def row(self, values: tuple[Any, ...]) -> tuple[Row, list[str]]:
        """Return our row for their values in the order of `columns`, and the optional columns that were left out.

        Raises InvalidRow.
        """
        converted: dict[str, Any] = {}
        dropped: list[str] = []
        for column, value in zip(self.columns, values, strict=True):
            if value is None and column.default is REQUIRED:
                raise InvalidRow(f"it has no {column.theirs}")
            if value is None:
                # created_at stands before every column that falls back to it.
                converted[column.ours] = converted["created_at"] if column.default is CREATED else column.default
                continue
            try:
                converted[column.ours] = column.convert(value)
            except InvalidRow:
                if not column.optional:
                    raise
                dropped.append(column.ours)
                converted[column.ours] = None
        try:
            return rows.validate(self.ours, converted), dropped
        except InvalidRow:
            dropped += self._drop_optional(converted)
            return rows.validate(self.ours, converted), dropped

    def _drop_optional(self, converted: dict[str, Any]) -> list[str]:
        """Set the optional columns that make the row invalid to null; return their names."""
        optional = [column.ours for column in self.columns if column.optional and converted[column.ours] is not None]
        without = converted | dict.fromkeys(optional)
        dropped = []
        for name in optional:
            try:
                rows.validate(self.ours, without | {name: converted[name]})
            except InvalidRow:
                dropped.append(name)
        converted |= dict.fromkeys(dropped)
        return dropped

    @property
    def insert(self) -> str:
        """The statement that stores a row of ours."""
        return f"{rows.insert_sql(self.ours)} ON CONFLICT {self.on_conflict}"


_TIMES: Final = (Column("created_at", "createdAt", date), Column("updated_at", "updatedAt", date, CREATED))
_ID: Final = Column("id", "id", text)
_ACCOUNT: Final = Column("account_id", "accountId", text)
_KEY: Final = Column("data_encryption_key", "dataEncryptionKey", base64, None)
_SEQ: Final = Column("seq", "seq", integer, 0)
_AVATAR: Final = (
    Column("avatar_ref", "avatarRef", text, None, optional=True),
    Column("avatar_preview", "avatarPreview", text, None, optional=True),
    Column("avatar_version", "avatarVersion", integer, 0),
)
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
        Column("first_name", "firstName", some_text, None, optional=True),
        Column("last_name", "lastName", some_text, None, optional=True),
        Column("username", "username", some_text, None, optional=True),
        Column("avatar", "avatar", json_text, None, optional=True),
        Column("github_user_id", "githubUserId", text, None, optional=True),
    )),
    _request("TerminalAuthRequest", "terminal", Column("supports_v2", "supportsV2", boolean, 0)),
    _request("AccountAuthRequest", "account"),
    Table("AccountPushToken", "push_tokens", "push tokens", (
        _ID, *_TIMES, _ACCOUNT,
        Column("token", "token", text),
    )),
    Table("Project", "projects", "projects", (
        _ID, *_TIMES, _ACCOUNT, _SEQ, _KEY, *_AVATAR,
        Column("external_id", "externalId", text),
        Column("metadata", "metadata", text),
        Column("metadata_version", "metadataVersion", integer, 1),
    )),
    Table("Session", "sessions", "sessions", (
        _ID, *_TIMES, _ACCOUNT, _SEQ, _KEY, *_ACTIVE, *_AVATAR,
        Column("project_id", "projectId", text, None),
        Column("tag", "tag", text),
        *_versioned("metadata", "metadata"),
        *_versioned("agent_state", "agentState", None),
    )),
    Table("SessionMessage", "messages", "messages", (
        Column("session_id", "sessionId", text),
        Column("seq", "seq", message_seq, 1),
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
        # Theirs may have several reports of one key without a session; the last one counts.
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
"""Known columns that are not imported: no client ever sees them."""

EMPTY: Final = {"GithubOrganization", "GlobalLock", "SimpleCache", "VoiceConversation", "RepeatKey"}
"""Known tables that are not imported: caches and locks."""

ESSENTIAL: Final = {"Account", "Session", "SessionMessage"}
"""Tables that every Happy server's database has."""
