"""Changing artifacts: create, update, delete."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec

from happy_light import json_codec
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions, versioned
from happy_light.domains.artifacts.queries import Artifact, ArtifactAck, ArtifactId, find, make_ack, read
from happy_light.domains.versioned import CompareAndSet, VersionMismatch, Write
from happy_light.errors import (
    ARTIFACT_NOT_FOUND,
    ARTIFACT_OF_ANOTHER,
    SESSION_NOT_FOUND,
    ApiError,
    BadRequest,
    ErrorResponse,
)
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import Transaction
from happy_light.wire import Id, Incoming, Outgoing, SafeInt, Success, Version

# max_length as well, because `$` in the pattern also matches before a final line feed.
Uuid = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", max_length=36)]


# -------------------------------------------------------------------------------------------- wire
class NewArtifact(Incoming):
    """A new artifact; its id is a uuid that the client chose."""

    id: Uuid
    header: bytes
    body: bytes
    data_encryption_key: bytes


class ArtifactChange(Incoming):
    """The body of POST /v1/artifacts/:id: header, body or both, each with the version that it replaces."""

    header: bytes | msgspec.UnsetType = msgspec.UNSET
    expected_header_version: Version | msgspec.UnsetType = msgspec.UNSET
    body: bytes | msgspec.UnsetType = msgspec.UNSET
    expected_body_version: Version | msgspec.UnsetType = msgspec.UNSET


class StoredParts(Outgoing):
    """The new versions of the parts that were given."""

    header_version: int | msgspec.UnsetType = msgspec.UNSET
    body_version: int | msgspec.UnsetType = msgspec.UNSET
    success: Literal[True] = True


class ArtifactMismatch(VersionMismatch, kw_only=True):
    """Nothing was stored; the current state of the parts whose expected version is not the current one."""

    current_header_version: int | msgspec.UnsetType
    current_header: bytes | msgspec.UnsetType
    current_body_version: int | msgspec.UnsetType
    current_body: bytes | msgspec.UnsetType


class NewPart(Incoming):
    """A header or body and the version that it replaces."""

    data: bytes
    expected_version: SafeInt


class SocketArtifactChange(Incoming):
    """The payload of `artifact-update`: header, body or both."""

    artifact_id: Id
    header: NewPart | None = None
    body: NewPart | None = None


class StoredPart(Outgoing):
    """A header or body as it was stored, with its new version."""

    version: int
    data: bytes


class StoredPartsAck(Outgoing):
    """The ack of `artifact-update`: the parts that were given, with their new versions."""

    header: StoredPart | msgspec.UnsetType
    body: StoredPart | msgspec.UnsetType
    result: Literal["success"] = "success"


class CurrentPart(Outgoing):
    """A header or body with its current version."""

    current_version: int
    current_data: bytes


class ArtifactMismatchAck(Outgoing):
    """The ack of `artifact-update` that stored nothing: the parts whose expected version is not the current one."""

    header: CurrentPart | msgspec.UnsetType
    body: CurrentPart | msgspec.UnsetType
    result: Literal["version-mismatch"] = "version-mismatch"


class DeletedAck(Outgoing):
    """The ack of `artifact-delete`."""

    result: Literal["success"] = "success"


class VersionedPart(Outgoing):
    """A header or body with its version, as updates carry it."""

    value: bytes
    version: int


class NewArtifactUpdate(Outgoing, tag_field="t", tag="new-artifact"):
    """Sent to user-scoped sockets: an artifact was created. Times in ms."""

    artifact_id: str
    seq: int
    header: bytes
    header_version: int
    body: bytes
    body_version: int
    data_encryption_key: bytes
    created_at: int
    updated_at: int


class ArtifactUpdate(Outgoing, tag_field="t", tag="update-artifact"):
    """Sent to user-scoped sockets: what changed of an artifact."""

    artifact_id: str
    header: VersionedPart | msgspec.UnsetType = msgspec.UNSET
    body: VersionedPart | msgspec.UnsetType = msgspec.UNSET


class DeleteArtifactUpdate(Outgoing, tag_field="t", tag="delete-artifact"):
    """Sent to user-scoped sockets: an artifact was deleted."""

    artifact_id: str


# -------------------------------------------------------------------------------------- operations
PartWrite = Write[bytes] | None
"""A write of a header or body; None leaves it as it is."""


def get_or_create(tx: Transaction, account_id: str, new: NewArtifact, session_id: str | None = None) -> Artifact:
    """Return the account's artifact of that id unchanged, or create and announce it.

    Raises ApiError ARTIFACT_OF_ANOTHER if another account has an artifact of that id, and SESSION_NOT_FOUND if
    the account does not own the session.
    """
    if session_id is not None:
        sessions.require_owned(tx, account_id, session_id)
    existing = find(tx, account_id, new.id)
    if existing is not None:
        return existing
    if not tx.execute(
        "INSERT INTO artifacts (id, account_id, session_id, header, body, data_encryption_key, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (new.id, account_id, session_id, new.header, new.body, new.data_encryption_key, tx.now, tx.now),
    ):
        raise ApiError(ARTIFACT_OF_ANOTHER)
    tx.publish(
        Update(
            Audience(account_id),
            NewArtifactUpdate(new.id, 0, new.header, 1, new.body, 1, new.data_encryption_key, tx.now, tx.now),
        )
    )
    return Artifact(new.id, new.header, 1, new.body, 1, 0, tx.now, tx.now, new.data_encryption_key)


def update(
    tx: Transaction, account_id: str, artifact_id: str, header: PartWrite, body: PartWrite
) -> tuple[CompareAndSet[bytes], CompareAndSet[bytes]]:
    """Store and announce the writes unless one of them is stale; return what became of header and body.

    Raises ApiError ARTIFACT_NOT_FOUND.
    """
    artifact = read(tx, account_id, artifact_id)
    changes = (
        CompareAndSet(artifact.header, artifact.header_version, header),
        CompareAndSet(artifact.body, artifact.body_version, body),
    )
    new_header, new_body = changes
    if new_header.is_stale or new_body.is_stale:
        return changes
    tx.execute(
        "UPDATE artifacts SET header = ?, header_version = ?, body = ?, body_version = ?, seq = seq + 1, "
        "updated_at = ? WHERE id = ? AND account_id = ?",
        (new_header.value, new_header.version, new_body.value, new_body.version, tx.now, artifact_id, account_id),
    )
    announcement = ArtifactUpdate(
        artifact_id,
        msgspec.UNSET if header is None else VersionedPart(new_header.value, new_header.version),
        msgspec.UNSET if body is None else VersionedPart(new_body.value, new_body.version),
    )
    tx.publish(Update(Audience(account_id), announcement))
    return changes


def delete(tx: Transaction, account_id: str, artifact_id: str) -> None:
    """Delete the artifact and announce it. Raises ApiError ARTIFACT_NOT_FOUND."""
    if not tx.execute("DELETE FROM artifacts WHERE id = ? AND account_id = ?", (artifact_id, account_id)):
        raise ApiError(ARTIFACT_NOT_FOUND)
    tx.publish(Update(Audience(account_id), DeleteArtifactUpdate(artifact_id)))


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[NewArtifact, None]) -> Artifact:
    """Create an artifact, or return the existing one with that id unchanged."""
    return await request.context.database.write(request.account_id, get_or_create, request.body)


async def post_for_session(request: Request[NewArtifact, None]) -> Artifact:
    """Create an artifact of a session, or return the existing one with that id unchanged."""
    return await request.context.database.write(request.account_id, get_or_create, request.body, request.path["id"])


async def post_update(request: Request[ArtifactChange, None]) -> StoredParts | ArtifactMismatch:
    """Replace header, body or both if the expected versions are the current ones, else return the current parts."""
    new = request.body
    header_write = versioned.requested("header", new.header, new.expected_header_version)
    body_write = versioned.requested("body", new.body, new.expected_body_version)
    if header_write is None and body_write is None:
        raise BadRequest("Neither header nor body is given")
    header, body = await request.context.database.write(
        request.account_id, update, request.path["id"], header_write, body_write
    )
    if header.is_stale or body.is_stale:
        return ArtifactMismatch(
            current_header_version=header.stale_version,
            current_header=header.stale_value,
            current_body_version=body.stale_version,
            current_body=body.stale_value,
        )
    return StoredParts(header.new_version, body.new_version)


async def delete_artifact(request: Request[None, None]) -> Success:
    """Delete an artifact."""
    await request.context.database.write(request.account_id, delete, request.path["id"])
    return Success()


# ----------------------------------------------------------------------------------------- sockets
def artifact_create(context: ServerContext, client: Client, data: NewArtifact) -> asyncio.Future[ArtifactAck]:
    """Create an artifact, or return the existing one with that id unchanged."""
    return context.database.write(
        client.account_id, lambda tx, account_id: make_ack(get_or_create(tx, account_id, data))
    )


def artifact_update(
    context: ServerContext, client: Client, data: Any
) -> asyncio.Future[StoredPartsAck | ArtifactMismatchAck]:
    """Replace header, body or both if the expected versions are the current ones, else return the current parts."""
    # Checked here and not by a struct: clients expect a text of its own for each mistake in the payload.
    artifact_id = json_codec.convert(data, ArtifactId).artifact_id
    if data.get("header") is None and data.get("body") is None:
        raise ApiError(ErrorResponse(400, "No updates provided"))
    header, body = _decode_part(data, "header"), _decode_part(data, "body")
    return context.database.write(client.account_id, _update_ack, artifact_id, header, body)


def _decode_part(data: dict[str, Any], name: str) -> PartWrite:
    if data.get(name) is None:
        return None
    try:
        part = json_codec.convert(data[name], NewPart)
    except msgspec.ValidationError:
        raise ApiError(ErrorResponse(400, f"Invalid {name} parameters")) from None
    return Write(part.data, part.expected_version)


def _update_ack(
    tx: Transaction, account_id: str, artifact_id: str, header_write: PartWrite, body_write: PartWrite
) -> StoredPartsAck | ArtifactMismatchAck:
    header, body = update(tx, account_id, artifact_id, header_write, body_write)
    if header.is_stale or body.is_stale:
        return ArtifactMismatchAck(
            CurrentPart(header.current_version, header.current_value) if header.is_stale else msgspec.UNSET,
            CurrentPart(body.current_version, body.current_value) if body.is_stale else msgspec.UNSET,
        )
    return StoredPartsAck(
        msgspec.UNSET if header_write is None else StoredPart(header.version, header.value),
        msgspec.UNSET if body_write is None else StoredPart(body.version, body.value),
    )


def artifact_delete(context: ServerContext, client: Client, data: ArtifactId) -> asyncio.Future[DeletedAck]:
    """Delete an artifact."""

    def operation(tx: Transaction, account_id: str) -> DeletedAck:
        delete(tx, account_id, data.artifact_id)
        return DeletedAck()

    return context.database.write(client.account_id, operation)


routes = [
    Route("POST", "/v1/artifacts", post, body=NewArtifact, answer=Artifact, errors=[ARTIFACT_OF_ANOTHER]),
    Route(
        "POST", "/v1/artifacts/:id", post_update, body=ArtifactChange, answer=StoredParts | ArtifactMismatch,
        errors=[ARTIFACT_NOT_FOUND],
    ),
    Route("DELETE", "/v1/artifacts/:id", delete_artifact, errors=[ARTIFACT_NOT_FOUND]),
    Route(
        "POST", "/v1/sessions/:id/artifacts", post_for_session, body=NewArtifact, answer=Artifact,
        errors=[SESSION_NOT_FOUND, ARTIFACT_OF_ANOTHER],
    ),
]  # fmt: skip
events = {
    "artifact-create": EventHandler(artifact_create, result_error, NewArtifact, ArtifactAck),
    "artifact-update": EventHandler(
        artifact_update, result_error, None, StoredPartsAck | ArtifactMismatchAck, like=SocketArtifactChange
    ),
    "artifact-delete": EventHandler(artifact_delete, result_error, ArtifactId, DeletedAck),
}
