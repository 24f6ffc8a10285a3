"""Reading artifacts: lists and single ones."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.errors import ARTIFACT_NOT_FOUND, SESSION_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import result_error
from happy_light.store import ReadTransaction
from happy_light.wire import Id, Incoming, Outgoing

LIST_MAX: Final = 200
"""Artifacts that a list holds at most."""


# -------------------------------------------------------------------------------------------- wire
class ListedArtifact(Outgoing):
    """An artifact as lists carry it: without its body. Times in ms."""

    id: str
    header: bytes
    header_version: int
    data_encryption_key: bytes
    seq: int
    created_at: int
    updated_at: int


class SocketArtifact(Outgoing):
    """An artifact as acks carry it: without its key. Times in ms."""

    id: str
    header: bytes
    header_version: int
    body: bytes
    body_version: int
    seq: int
    created_at: int
    updated_at: int


class Artifact(SocketArtifact):
    """A whole artifact; times in ms."""

    data_encryption_key: bytes


class ArtifactId(Incoming):
    """The payload of `artifact-read` and `artifact-delete`."""

    artifact_id: Id


class ArtifactAck(Outgoing):
    """The ack of `artifact-read` and `artifact-create`."""

    artifact: SocketArtifact
    result: Literal["success"] = "success"


# -------------------------------------------------------------------------------------- operations
_COLUMNS = "id, header, header_version, body, body_version, seq, created_at, updated_at, data_encryption_key"
_LIST_COLUMNS = "id, header, header_version, data_encryption_key, seq, created_at, updated_at"


def list_newest(tx: ReadTransaction, account_id: str) -> list[ListedArtifact]:
    """Return the 200 artifacts that changed last, latest change first."""
    rows = tx.fetch_all(
        f"SELECT {_LIST_COLUMNS} FROM artifacts WHERE account_id = ? ORDER BY updated_at DESC, id DESC LIMIT ?",
        (account_id, LIST_MAX),
    )
    return [ListedArtifact(*row) for row in rows]


def list_of_session(tx: ReadTransaction, account_id: str, session_id: str) -> list[ListedArtifact]:
    """Return the 200 artifacts of a session that changed last. Raises ApiError SESSION_NOT_FOUND."""
    sessions.require_owned(tx, account_id, session_id)
    rows = tx.fetch_all(
        f"SELECT {_LIST_COLUMNS} FROM artifacts WHERE session_id = ? AND account_id = ? "
        "ORDER BY updated_at DESC, id DESC LIMIT ?",
        (session_id, account_id, LIST_MAX),
    )
    return [ListedArtifact(*row) for row in rows]


def find(tx: ReadTransaction, account_id: str, artifact_id: str) -> Artifact | None:
    """Return the artifact, or None if the account has no such artifact."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM artifacts WHERE id = ? AND account_id = ?", (artifact_id, account_id))
    return None if row is None else Artifact(*row)


def read(tx: ReadTransaction, account_id: str, artifact_id: str) -> Artifact:
    """Return the artifact. Raises ApiError ARTIFACT_NOT_FOUND if the account has no such artifact."""
    artifact = find(tx, account_id, artifact_id)
    if artifact is None:
        raise ApiError(ARTIFACT_NOT_FOUND)
    return artifact


# --------------------------------------------------------------------------------------- endpoints
async def get_list(request: Request[None, None]) -> list[ListedArtifact]:
    """Return the 200 artifacts that changed last, latest change first, without their bodies."""
    return await request.context.database.read(list_newest, request.account_id)


async def get_list_of_session(request: Request[None, None]) -> list[ListedArtifact]:
    """Return the 200 artifacts of a session that changed last, without their bodies."""
    return await request.context.database.read(list_of_session, request.account_id, request.path["id"])


async def get(request: Request[None, None]) -> Artifact:
    """Return one artifact."""
    return await request.context.database.read(read, request.account_id, request.path["id"])


# ----------------------------------------------------------------------------------------- sockets
def make_ack(artifact: Artifact) -> ArtifactAck:
    """Return the ack that carries an artifact, without its key."""
    return ArtifactAck(
        SocketArtifact(
            artifact.id, artifact.header, artifact.header_version, artifact.body, artifact.body_version,
            artifact.seq, artifact.created_at, artifact.updated_at,
        )
    )  # fmt: skip


def artifact_read(context: ServerContext, client: Client, data: ArtifactId) -> asyncio.Future[ArtifactAck]:
    """Return one artifact, without its key."""
    return context.database.read(lambda tx: make_ack(read(tx, client.account_id, data.artifact_id)))


routes = [
    Route("GET", "/v1/artifacts", get_list, answer=list[ListedArtifact], conditional=True),
    Route("GET", "/v1/artifacts/:id", get, answer=Artifact, errors=[ARTIFACT_NOT_FOUND]),
    Route(
        "GET", "/v1/sessions/:id/artifacts", get_list_of_session, answer=list[ListedArtifact],
        errors=[SESSION_NOT_FOUND],
    ),
]  # fmt: skip
events = {
    "artifact-read": EventHandler(artifact_read, result_error, ArtifactId, ArtifactAck),
}
