"""The rows that an import may store: a struct for each table, whose types are those of the wire.

An import believes nothing: whatever it reads becomes one of these structs before it is stored. `validate` raises
InvalidRow for a value that no server of this kind would have stored; nothing else in the import decides that.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from happy_light.auth import devices
from happy_light.blobs import keys
from happy_light.domains import feed
from happy_light.domains.artifacts.commands import Uuid
from happy_light.domains.connect import VENDORS
from happy_light.domains.people import Status
from happy_light.importing.row_checks import (
    Avatar,
    DeviceId,
    Flag,
    GithubProfile,
    Id,
    Name,
    Pixels,
    Positive,
    PublicKey,
    Time,
    check_base64,
    check_json,
    check_public_key,
    check_unicode,
)
from happy_light.wire import NonEmptyStr, Version


class InvalidRow(ValueError):
    """A row that cannot be stored; the text says which column is wrong, or how."""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row of `table`. The fields are its columns."""

    table: ClassVar[str]


class GithubUserRow(Row):
    """A GitHub user."""

    table: ClassVar[str] = "github_users"
    id: Id
    profile: str
    token: bytes | None
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_json("profile", self.profile, GithubProfile)


class AccountRow(Row):
    """An account; `tokens_since` in s."""

    table: ClassVar[str] = "accounts"
    id: Id
    public_key: PublicKey
    seq: Version
    feed_seq: Version
    settings: str | None
    settings_version: Version
    first_name: Name | None
    last_name: Name | None
    username: Name | None
    avatar: str | None
    github_user_id: Id | None
    created_at: Time
    updated_at: Time
    tokens_since: Version = 0
    token_generation: Version = 0
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    device_sign_outs: Version = 0

    def __post_init__(self) -> None:
        if self.label is not None and not self.label.isprintable():
            raise InvalidRow("label: it has characters that cannot be printed")
        if self.avatar is not None:
            avatar: Avatar = check_json("avatar", self.avatar, Avatar)
            check_public_key("avatar", self.id, avatar.path)


class AuthRequestRow(Row):
    """A sign-in request of a terminal or of a second device."""

    table: ClassVar[str] = "auth_requests"
    id: Id
    kind: Literal["terminal", "account"]
    public_key: PublicKey
    response: str | None
    account_id: Id | None
    created_at: Time
    updated_at: Time
    supports_v2: Flag = 0
    picked_up_at: Time | None = None
    approved_by: str | None = None
    device_id: str | None = None


class DeviceRow(Row):
    """A device that is signed in to the account."""

    table: ClassVar[str] = "devices"
    account_id: Id
    id: DeviceId
    kind: devices.Kind
    approved_by: DeviceId | None
    client: Annotated[str, msgspec.Meta(min_length=1, max_length=devices.CLIENT_MAX)] | None
    address: Annotated[str, msgspec.Meta(min_length=1, max_length=45)] | None
    created_at: Time
    last_seen_at: Time


class ProjectRow(Row):
    """A project."""

    table: ClassVar[str] = "projects"
    id: Id
    account_id: Id
    external_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    metadata: NonEmptyStr
    metadata_version: Version
    data_encryption_key: str | None
    avatar_ref: str | None
    avatar_preview: str | None
    avatar_version: Version
    seq: Version
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_base64("data_encryption_key", self.data_encryption_key)
        _drop_foreign_avatar(self, f"projects/{self.id}/avatar/")


class DeletedMachineRow(Row):
    """A machine that was deleted, so that it is not registered again by itself."""

    table: ClassVar[str] = "deleted_machines"
    account_id: Id
    machine_id: NonEmptyStr
    deleted_at: Time


class SessionRow(Row):
    """A session. What has a default is missing in the exports of older versions."""

    table: ClassVar[str] = "sessions"
    id: Id
    account_id: Id
    tag: str
    seq: Version
    metadata: str
    metadata_version: Version
    agent_state: str | None
    agent_state_version: Version
    data_encryption_key: str | None
    active: Flag
    active_at: Time
    created_at: Time
    updated_at: Time
    project_id: Id | None = None
    machine_id: str | None = None
    avatar_ref: str | None = None
    avatar_preview: str | None = None
    avatar_version: Version = 0

    def __post_init__(self) -> None:
        check_base64("data_encryption_key", self.data_encryption_key)
        _drop_foreign_avatar(self, f"sessions/{self.id}/avatar/")


class MessageRow(Row):
    """A message of a session."""

    table: ClassVar[str] = "messages"
    id: Id
    session_id: Id
    seq: Positive
    local_id: NonEmptyStr | None
    content: str
    created_at: Time
    updated_at: Time


class MachineRow(Row):
    """A machine."""

    table: ClassVar[str] = "machines"
    account_id: Id
    id: NonEmptyStr
    metadata: str
    metadata_version: Version
    daemon_state: str | None
    daemon_state_version: Version
    data_encryption_key: str | None
    seq: Version
    active: Flag
    active_at: Time
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_base64("data_encryption_key", self.data_encryption_key)


class ArtifactRow(Row):
    """An artifact."""

    table: ClassVar[str] = "artifacts"
    id: Uuid
    account_id: Id
    header: bytes
    header_version: Version
    body: bytes
    body_version: Version
    data_encryption_key: bytes
    seq: Version
    created_at: Time
    updated_at: Time
    session_id: Id | None = None


class AccessKeyRow(Row):
    """An access key of a machine for a session."""

    table: ClassVar[str] = "access_keys"
    account_id: Id
    session_id: Id
    machine_id: NonEmptyStr
    data: str
    data_version: Version
    created_at: Time
    updated_at: Time


class KeyValueRow(Row):
    """A value of the key-value store; null for a deleted one."""

    table: ClassVar[str] = "kv"
    account_id: Id
    key: str
    value: bytes | None
    version: Version
    created_at: Time
    updated_at: Time


class UsageReportRow(Row):
    """A usage report; tokens and cost are JSON objects of numbers."""

    table: ClassVar[str] = "usage_reports"
    id: Id
    account_id: Id
    session_id: Id | None
    key: NonEmptyStr
    tokens: str
    cost: str
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_json("tokens", self.tokens, dict[str, float])
        check_json("cost", self.cost, dict[str, float])


class PushTokenRow(Row):
    """A push token of Expo."""

    table: ClassVar[str] = "push_tokens"
    id: Id
    account_id: Id
    token: NonEmptyStr
    created_at: Time
    updated_at: Time


class VendorTokenRow(Row):
    """A sealed token of a vendor."""

    table: ClassVar[str] = "vendor_tokens"
    account_id: Id
    vendor: str
    token: bytes
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        if self.vendor not in VENDORS:
            raise ValueError(f"vendor: {self.vendor!r:.40} is unknown")


class UploadedFileRow(Row):
    """A public file."""

    table: ClassVar[str] = "uploaded_files"
    id: Id
    account_id: Id
    path: str
    width: Pixels | None
    height: Pixels | None
    thumbhash: str | None
    reuse_key: str | None
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_public_key("path", self.account_id, self.path)


class RelationshipRow(Row):
    """One side of a relationship."""

    table: ClassVar[str] = "relationships"
    from_id: Id
    to_id: Id
    status: Status
    accepted_at: Time | None
    last_notified_at: Time | None
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        if self.from_id == self.to_id:
            raise ValueError("to_id: an account has no relationship with itself")


class FeedItemRow(Row):
    """A post of an account's feed."""

    table: ClassVar[str] = "feed_items"
    id: Id
    account_id: Id
    counter: Positive
    repeat_key: str | None
    body: str
    created_at: Time
    updated_at: Time

    def __post_init__(self) -> None:
        check_json("body", self.body, feed.Body)


class VoiceSessionRow(Row):
    """A voice session."""

    table: ClassVar[str] = "voice_sessions"
    id: Id
    account_id: Id
    room: str
    created_at: Time


TYPES: Final[dict[str, type[Row]]] = {
    kind.table: kind
    for kind in (
        GithubUserRow, AccountRow, AuthRequestRow, DeviceRow, ProjectRow, DeletedMachineRow, SessionRow, MessageRow,
        MachineRow, ArtifactRow, AccessKeyRow, KeyValueRow, UsageReportRow, PushTokenRow, VendorTokenRow,
        UploadedFileRow, RelationshipRow, FeedItemRow, VoiceSessionRow,
    )
}  # fmt: skip
"""The struct of each table, by the table's name."""


def validate(table: str, values: dict[str, Any]) -> Row:
    """Return the row with these values by column; bytes may be base64, as JSON has them. Raises InvalidRow."""
    try:
        row = msgspec.convert(values, TYPES[table])
        check_unicode(values_of(row))
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidRow(str(error)) from None
    return row


def insert_sql(table: str) -> str:
    """Return the statement that stores a row; its values are those of `values_of`."""
    columns = TYPES[table].__struct_fields__
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


values_of = msgspec.structs.astuple
"""Return the values of a row in the order of `insert_sql`."""


def _drop_foreign_avatar(row: ProjectRow | SessionRow, prefix: str) -> None:
    """Leave out a picture that is not one of the row's own, or has no preview."""
    ref = row.avatar_ref
    if ref is None or row.avatar_preview is None or not ref.startswith(prefix) or not keys.is_key(ref):
        row.avatar_ref = row.avatar_preview = None
