"""Artifacts as they change: made, updated, deleted."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec

from happy_light import json_codec, wire
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.domains.artifacts.queries import Artifact, ArtifactAck, Named, acked, find, owned
from happy_light.errors import ARTIFACT_NOT_FOUND, ARTIFACT_OF_ANOTHER, SESSION_NOT_FOUND, ApiError, ErrorResponse
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import Transaction
from happy_light.wire import Incoming, NonEmptyStr, Outgoing, SafeInt, Success, Version

# The length as well, because `$` alone lets a line feed follow.
Uuid = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", max_length=36)]


# -------------------------------------------------------------------------------------------- wire
class NewArtifact(Incoming):
    """POST /v1/artifacts, `artifact-create`"""

    id: Uuid
    header: bytes
    body: bytes
    data_encryption_key: bytes


class ArtifactChange(Incoming):
    """POST /v1/artifacts/:id: parts, each with the version that it is to replace."""

    header: bytes | msgspec.UnsetType = msgspec.UNSET
    expected_header_version: Version | msgspec.UnsetType = msgspec.UNSET
    body: bytes | msgspec.UnsetType = msgspec.UNSET
    expected_body_version: Version | msgspec.UnsetType = msgspec.UNSET


class Changed(Outgoing):
    """The new versions of what was given."""

    header_version: int | msgspec.UnsetType = msgspec.UNSET
    body_version: int | msgspec.UnsetType = msgspec.UNSET
    success: Literal[True] = True


class Stale(Outgoing):
    """Nothing was stored; what is current of the parts whose version was not."""

    current_header_version: int | msgspec.UnsetType = msgspec.UNSET
    current_header: bytes | msgspec.UnsetType = msgspec.UNSET
    current_body_version: int | msgspec.UnsetType = msgspec.UNSET
    current_body: bytes | msgspec.UnsetType = msgspec.UNSET
    success: Literal[False] = False
    error: Literal["version-mismatch"] = "version-mismatch"


class NewPart(Incoming):
    """A part in `artifact-update`."""

    data: bytes
    expected_version: SafeInt


class SocketChange(Incoming):
    """`artifact-update`"""

    artifact_id: NonEmptyStr
    header: NewPart | None = None
    body: NewPart | None = None


class ChangedPart(Outgoing):
    """A part as it was stored."""

    version: int
    data: bytes


class ChangedAck(Outgoing):
    """Ack of `artifact-update`: what was given, with its new versions."""

    header: ChangedPart | msgspec.UnsetType = msgspec.UNSET
    body: ChangedPart | msgspec.UnsetType = msgspec.UNSET
    result: Literal["success"] = "success"


class StalePart(Outgoing):
    """A part whose version is another one by now."""

    current_version: int
    current_data: bytes


class StaleAck(Outgoing):
    """Ack of `artifact-update`: nothing was stored, because of these parts."""

    header: StalePart | msgspec.UnsetType = msgspec.UNSET
    body: StalePart | msgspec.UnsetType = msgspec.UNSET
    result: Literal["version-mismatch"] = "version-mismatch"


class DeletedAck(Outgoing):
    """Ack of `artifact-delete`."""

    result: Literal["success"] = "success"


class VersionedPart(Outgoing):
    """A part with its version, as it stands in updates."""

    value: bytes
    version: int


class NewArtifactUpdate(Outgoing, tag_field="t", tag="new-artifact"):
    """Update to user-scoped sockets."""

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
    """Update to user-scoped sockets: only what changed."""

    artifact_id: str
    header: VersionedPart | msgspec.UnsetType = msgspec.UNSET
    body: VersionedPart | msgspec.UnsetType = msgspec.UNSET


class DeleteArtifactUpdate(Outgoing, tag_field="t", tag="delete-artifact"):
    """Update to user-scoped sockets."""

    artifact_id: str


# -------------------------------------------------------------------------------------- operations
Part = tuple[bytes, int]
"""A new value, and the version that it is to replace."""


def create(tx: Transaction, account_id: str, new: NewArtifact, session_id: str | None = None) -> Artifact:
    """The artifact of that id: the existing one unchanged, or a new one, announced. Raises Refused."""
    if session_id is not None:
        sessions.owned(tx, account_id, session_id)
    known = find(tx, account_id, new.id)
    if known is not None:
        return known
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


def change(
    tx: Transaction, account_id: str, artifact_id: str, header: Part | None, body: Part | None
) -> tuple[bool, Artifact]:
    """Stores parts, all or none. -> whether, and the artifact as it is now. Raises Refused."""
    artifact = owned(tx, account_id, artifact_id)
    if header is not None and header[1] != artifact.header_version:
        return False, artifact
    if body is not None and body[1] != artifact.body_version:
        return False, artifact
    update = ArtifactUpdate(artifact_id)
    if header is not None:
        artifact.header, artifact.header_version = header[0], header[1] + 1
        update.header = VersionedPart(artifact.header, artifact.header_version)
    if body is not None:
        artifact.body, artifact.body_version = body[0], body[1] + 1
        update.body = VersionedPart(artifact.body, artifact.body_version)
    tx.execute(
        "UPDATE artifacts SET header = ?, header_version = ?, body = ?, body_version = ?, seq = seq + 1, "
        "updated_at = ? WHERE id = ? AND account_id = ?",
        (artifact.header, artifact.header_version, artifact.body, artifact.body_version, tx.now, artifact_id,
         account_id),
    )  # fmt: skip
    tx.publish(Update(Audience(account_id), update))
    return True, artifact


def delete(tx: Transaction, account_id: str, artifact_id: str) -> Success:
    """Raises Refused."""
    if not tx.execute("DELETE FROM artifacts WHERE id = ? AND account_id = ?", (artifact_id, account_id)):
        raise ApiError(ARTIFACT_NOT_FOUND)
    tx.publish(Update(Audience(account_id), DeleteArtifactUpdate(artifact_id)))
    return Success()


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[NewArtifact, None]) -> Artifact:
    return await request.context.database.write(request.account_id, create, request.body)


async def post_for_session(request: Request[NewArtifact, None]) -> Artifact:
    return await request.context.database.write(request.account_id, create, request.body, request.path["id"])


async def post_change(request: Request[ArtifactChange, None]) -> Changed | Stale:
    header = wire.paired("header", request.body.header, request.body.expected_header_version)
    body = wire.paired("body", request.body.body, request.body.expected_body_version)
    if header is None and body is None:
        raise msgspec.ValidationError("There is neither header nor body")
    stored, now = await request.context.database.write(request.account_id, change, request.path["id"], header, body)
    if stored:
        return Changed(
            now.header_version if header is not None else msgspec.UNSET,
            now.body_version if body is not None else msgspec.UNSET,
        )
    answer = Stale()
    if header is not None and header[1] != now.header_version:
        answer.current_header_version, answer.current_header = now.header_version, now.header
    if body is not None and body[1] != now.body_version:
        answer.current_body_version, answer.current_body = now.body_version, now.body
    return answer


async def remove(request: Request[None, None]) -> Success:
    return await request.context.database.write(request.account_id, delete, request.path["id"])


# ----------------------------------------------------------------------------------------- sockets
def artifact_create(context: ServerContext, client: Client, data: NewArtifact) -> asyncio.Future[ArtifactAck]:
    return context.database.write(client.account_id, lambda tx, account_id: acked(create(tx, account_id, data)))


def artifact_update(context: ServerContext, client: Client, data: Any) -> asyncio.Future[ChangedAck | StaleAck]:
    """The payload's mistakes have texts of their own, so it is looked at by hand."""
    id = json_codec.convert(data, Named).artifact_id
    if data.get("header") is None and data.get("body") is None:
        raise ApiError(ErrorResponse(400, "No updates provided"))
    header, body = _part(data, "header"), _part(data, "body")
    return context.database.write(client.account_id, _change, id, header, body)


def _part(data: dict[str, Any], name: str) -> Part | None:
    if data.get(name) is None:
        return None
    try:
        part = json_codec.convert(data[name], NewPart)
    except msgspec.ValidationError:
        raise ApiError(ErrorResponse(400, f"Invalid {name} parameters")) from None
    return part.data, part.expected_version


def _change(
    tx: Transaction, account_id: str, artifact_id: str, header: Part | None, body: Part | None
) -> ChangedAck | StaleAck:
    stored, now = change(tx, account_id, artifact_id, header, body)
    if stored:
        return ChangedAck(
            ChangedPart(now.header_version, now.header) if header is not None else msgspec.UNSET,
            ChangedPart(now.body_version, now.body) if body is not None else msgspec.UNSET,
        )
    answer = StaleAck()
    if header is not None and header[1] != now.header_version:
        answer.header = StalePart(now.header_version, now.header)
    if body is not None and body[1] != now.body_version:
        answer.body = StalePart(now.body_version, now.body)
    return answer


def artifact_delete(context: ServerContext, client: Client, data: Named) -> asyncio.Future[DeletedAck]:
    def operation(tx: Transaction, account_id: str) -> DeletedAck:
        delete(tx, account_id, data.artifact_id)
        return DeletedAck()

    return context.database.write(client.account_id, operation)


routes = [
    Route("POST", "/v1/artifacts", post, body=NewArtifact, answer=Artifact, errors=[ARTIFACT_OF_ANOTHER]),
    Route("POST", "/v1/artifacts/:id", post_change, body=ArtifactChange, answer=Changed | Stale,
          errors=[ARTIFACT_NOT_FOUND]),
    Route("DELETE", "/v1/artifacts/:id", remove, errors=[ARTIFACT_NOT_FOUND]),
    Route("POST", "/v1/sessions/:id/artifacts", post_for_session, body=NewArtifact, answer=Artifact,
          errors=[SESSION_NOT_FOUND, ARTIFACT_OF_ANOTHER]),
]  # fmt: skip
events = {
    "artifact-create": EventHandler(artifact_create, result_error, NewArtifact, ArtifactAck),
    "artifact-update": EventHandler(artifact_update, result_error, None, ChangedAck | StaleAck, like=SocketChange),
    "artifact-delete": EventHandler(artifact_delete, result_error, Named, DeletedAck),
}
