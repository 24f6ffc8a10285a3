"""Artifacts as they are read: lists, one."""

from __future__ import annotations

import asyncio
from typing import Literal

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.errors import ARTIFACT_NOT_FOUND, SESSION_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import ReadTransaction, Row
from happy_light.wire import Incoming, NonEmptyStr, Outgoing

LIST_MAX = 200


# -------------------------------------------------------------------------------------------- wire
class ListedArtifact(Outgoing):
    """An artifact as the lists have it: without its body."""

    id: str
    header: bytes
    header_version: int
    data_encryption_key: bytes
    seq: int
    created_at: int
    updated_at: int


class SocketArtifact(Outgoing):
    """An artifact as acks have it: without its key."""

    id: str
    header: bytes
    header_version: int
    body: bytes
    body_version: int
    seq: int
    created_at: int
    updated_at: int


class Artifact(SocketArtifact):
    """A whole artifact."""

    data_encryption_key: bytes


class Named(Incoming):
    """`artifact-read`, `artifact-delete`"""

    artifact_id: NonEmptyStr


class ArtifactAck(Outgoing):
    """Ack of `artifact-read` and `artifact-create`."""

    artifact: SocketArtifact
    result: Literal["success"] = "success"


# -------------------------------------------------------------------------------------- operations
_COLUMNS = "id, header, header_version, body, body_version, seq, created_at, updated_at, data_encryption_key"
_LISTED = "id, header, header_version, data_encryption_key, seq, created_at, updated_at"


def newest(tx: ReadTransaction, account_id: str) -> list[ListedArtifact]:
    """The artifacts that changed last, newest first."""
    rows = tx.fetch_all(
        f"SELECT {_LISTED} FROM artifacts WHERE account_id = ? ORDER BY updated_at DESC, id DESC LIMIT ?",
        (account_id, LIST_MAX),
    )
    return [ListedArtifact(*row) for row in rows]


def of_session(tx: ReadTransaction, account_id: str, session_id: str) -> list[ListedArtifact]:
    """Those made for a session, newest change first. Raises Refused."""
    sessions.owned(tx, account_id, session_id)
    rows = tx.fetch_all(
        f"SELECT {_LISTED} FROM artifacts WHERE session_id = ? AND account_id = ? "
        "ORDER BY updated_at DESC, id DESC LIMIT ?",
        (session_id, account_id, LIST_MAX),
    )
    return [ListedArtifact(*row) for row in rows]


def find(tx: ReadTransaction, account_id: str, artifact_id: str) -> Artifact | None:
    """The artifact, if the account has it."""
    row: Row | None = tx.fetch_one(
        f"SELECT {_COLUMNS} FROM artifacts WHERE id = ? AND account_id = ?", (artifact_id, account_id)
    )
    return None if row is None else Artifact(*row)


def owned(tx: ReadTransaction, account_id: str, artifact_id: str) -> Artifact:
    """The artifact. Raises Refused if the account has no such artifact."""
    artifact = find(tx, account_id, artifact_id)
    if artifact is None:
        raise ApiError(ARTIFACT_NOT_FOUND)
    return artifact


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(request: Request[None, None]) -> list[ListedArtifact]:
    return await request.context.database.read(newest, request.account_id)


async def get_of_session(request: Request[None, None]) -> list[ListedArtifact]:
    return await request.context.database.read(of_session, request.account_id, request.path["id"])


async def get(request: Request[None, None]) -> Artifact:
    return await request.context.database.read(owned, request.account_id, request.path["id"])


# ----------------------------------------------------------------------------------------- sockets
def acked(artifact: Artifact) -> ArtifactAck:
    """The ack that shows it."""
    return ArtifactAck(
        SocketArtifact(
            artifact.id, artifact.header, artifact.header_version, artifact.body, artifact.body_version,
            artifact.seq, artifact.created_at, artifact.updated_at,
        )
    )  # fmt: skip


def artifact_read(context: ServerContext, client: Client, data: Named) -> asyncio.Future[ArtifactAck]:
    return context.database.read(lambda tx: acked(owned(tx, client.account_id, data.artifact_id)))


routes = [
    Route("GET", "/v1/artifacts", get_newest, answer=list[ListedArtifact]),
    Route("GET", "/v1/artifacts/:id", get, answer=Artifact, errors=[ARTIFACT_NOT_FOUND]),
    Route("GET", "/v1/sessions/:id/artifacts", get_of_session, answer=list[ListedArtifact],
          errors=[SESSION_NOT_FOUND]),
]  # fmt: skip
events = {
    "artifact-read": EventHandler(artifact_read, result_error, Named, ArtifactAck),
}
