"""Projects: groups of sessions (docs/protocol.md, section 18).

POST   /v1/projects       create a project, or load the existing one with that externalId
GET    /v1/projects       list all, those with one of the ids, or those changed since a time
GET    /v1/projects/:id   get one project
PATCH  /v1/projects/:id   replace the metadata, if the expected version, where one is given, is the current one
DELETE /v1/projects/:id   delete a project with its pictures; its sessions stay and lose the link
update new-project, update-project, delete-project

A session is linked to its project by POST /v1/sessions.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from happy_light import ids, wire
from happy_light.bus import Audience, Update
from happy_light.domains import sessions
from happy_light.domains.avatar import AVATAR_COLUMNS, Avatar, avatar_of
from happy_light.errors import INVALID_PROJECT_IDS, PROJECT_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.responses import json_response
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Base64, Incoming, Outgoing, Success, Version

TEXT_MAX: Final = 4 * 1024 * 1024  # characters of encrypted metadata, and of a picture's preview
IDS_MAX: Final = 100  # ids that one request lists
ID_MAX: Final = 256  # characters of an id in a list


# -------------------------------------------------------------------------------------------- wire
Metadata = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]


class Project(Outgoing):
    """A project; times in ms. `seq` rises with every change of its metadata or picture."""

    id: str
    external_id: str
    metadata: str
    metadata_version: int
    data_encryption_key: Base64 | None
    avatar: Avatar | None
    seq: int
    created_at: int
    updated_at: int


class Projects(Outgoing):
    """Projects, latest change first."""

    projects: list[Project]


class NewProject(Incoming):
    """The body of POST /v1/projects; externalId is the client's own name for the project."""

    external_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    metadata: Metadata
    data_encryption_key: bytes | None = None


class ProjectChange(Incoming, forbid_unknown_fields=True):
    """The body of PATCH /v1/projects/:id. Without expected version the metadata is stored unconditionally."""

    metadata: Metadata | msgspec.UnsetType = msgspec.UNSET
    expected_metadata_version: Version | msgspec.UnsetType = msgspec.UNSET


class ProjectMismatch(Outgoing):
    """Nothing was stored, because the expected version is not that of the current project."""

    project: Project
    error: Literal["Project metadata version mismatch"] = "Project metadata version mismatch"


class ProjectsQuery(Incoming):
    """The query of GET /v1/projects: ids separated by commas, at most 100; changedSince in ms, exclusive."""

    ids: Annotated[str, msgspec.Meta(min_length=1, max_length=32_768)] | None = None
    changed_since: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


class NewProjectUpdate(Outgoing, tag_field="t", tag="new-project"):
    """Sent to user-scoped sockets: a project was created."""

    project_id: str


class ProjectUpdate(Outgoing, tag_field="t", tag="update-project"):
    """Sent to user-scoped sockets: metadata or picture of a project changed."""

    project_id: str


class DeleteProjectUpdate(Outgoing, tag_field="t", tag="delete-project"):
    """Sent to user-scoped sockets: a project was deleted."""

    project_id: str


# -------------------------------------------------------------------------------------- operations
_COLUMNS: Final = (
    f"id, external_id, metadata, metadata_version, data_encryption_key, {AVATAR_COLUMNS}, seq, created_at, updated_at"
)


def _project(row: Row) -> Project:
    id, external_id, metadata, metadata_version, key, ref, preview, version, *rest = row
    return Project(id, external_id, metadata, metadata_version, key, avatar_of(ref, preview, version), *rest)


def read(tx: ReadTransaction, account_id: str, project_id: str) -> Project:
    """Return the project. Raises ApiError PROJECT_NOT_FOUND unless the account owns it."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM projects WHERE id = ? AND account_id = ?", (project_id, account_id))
    if row is None:
        raise ApiError(PROJECT_NOT_FOUND)
    return _project(row)


def list_some(
    tx: ReadTransaction, account_id: str, ids: list[str] | None = None, changed_since: int | None = None
) -> Projects:
    """Return the projects with one of `ids` that changed after `changed_since` (ms), latest change first.

    None stands for no such condition. Other accounts' ids are left out.
    """
    conditions, args = "account_id = ?", [account_id, *(ids or ())]
    if ids is not None:
        conditions += f" AND id IN ({', '.join('?' * len(ids))})"
    sql = f"SELECT {_COLUMNS} FROM projects WHERE {conditions} AND updated_at > ? ORDER BY updated_at DESC, id"
    return Projects(tx.fetch_json(Project, sql, (*args, changed_since or 0)))


def get_or_create(tx: Transaction, account_id: str, new: NewProject) -> Project:
    """Return the account's project with that externalId unchanged, or create and announce it."""
    row = tx.fetch_one(
        f"SELECT {_COLUMNS} FROM projects WHERE account_id = ? AND external_id = ?", (account_id, new.external_id)
    )
    if row is not None:
        return _project(row)
    key = wire.base64_text(new.data_encryption_key)
    project = Project(ids.new_id(), new.external_id, new.metadata, 1, key, None, 0, tx.now, tx.now)
    tx.execute(
        "INSERT INTO projects (id, account_id, external_id, metadata, data_encryption_key, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (project.id, account_id, new.external_id, new.metadata, key, tx.now, tx.now),
    )
    tx.publish(Update(Audience(account_id), NewProjectUpdate(project.id)))
    return project


def change(tx: Transaction, account_id: str, project_id: str, new: ProjectChange) -> Project | ProjectMismatch:
    """Store and announce the metadata if it is new and the expected version, where given, is the current one.

    Raises ApiError PROJECT_NOT_FOUND.
    """
    project = read(tx, account_id, project_id)
    if new.expected_metadata_version not in (msgspec.UNSET, project.metadata_version):
        return ProjectMismatch(project)
    if new.metadata in (msgspec.UNSET, project.metadata):
        return project
    tx.execute(
        "UPDATE projects SET metadata = ?, metadata_version = metadata_version + 1 WHERE id = ? AND account_id = ?",
        (new.metadata, project_id, account_id),
    )
    return announce_change(tx, account_id, project_id)


def announce_change(tx: Transaction, account_id: str, project_id: str) -> Project:
    """Count and announce a change of the project; return the project as it is now."""
    tx.execute(
        "UPDATE projects SET seq = seq + 1, updated_at = ? WHERE id = ? AND account_id = ?",
        (tx.now, project_id, account_id),
    )
    tx.publish(Update(Audience(account_id), ProjectUpdate(project_id)))
    return read(tx, account_id, project_id)


def delete(tx: Transaction, account_id: str, project_id: str) -> Success:
    """Delete the project, take it from its sessions, and announce all that. Raises ApiError PROJECT_NOT_FOUND.

    Its pictures are files; the caller deletes them.
    """
    read(tx, account_id, project_id)
    sessions.unlink_project(tx, account_id, project_id)
    tx.execute("DELETE FROM projects WHERE id = ? AND account_id = ?", (project_id, account_id))
    tx.publish(Update(Audience(account_id), DeleteProjectUpdate(project_id)))
    return Success()


# --------------------------------------------------------------------------------------- endpoints
async def post(request: Request[NewProject, None]) -> Project:
    """Create a project, or load the existing one with that externalId unchanged."""
    return await request.context.database.write(request.account_id, get_or_create, request.body)


async def get_list(request: Request[None, ProjectsQuery]) -> Projects:
    """Return all projects, those with one of the ids, or those changed since a time, latest change first."""
    query = request.query
    ids = None if query.ids is None else list(dict.fromkeys(query.ids.split(",")))
    if ids is not None and (len(ids) > IDS_MAX or not all(0 < len(id) <= ID_MAX for id in ids)):
        raise ApiError(INVALID_PROJECT_IDS)
    return await request.context.database.read(list_some, request.account_id, ids, query.changed_since)


async def get(request: Request[None, None]) -> Project:
    """Return one project."""
    return await request.context.database.read(read, request.account_id, request.path["id"])


async def patch(request: Request[ProjectChange, None]) -> Project | Response:
    """Replace the metadata; answer 409 with the current project if the expected version is not the current one."""
    answer = await request.context.database.write(request.account_id, change, request.path["id"], request.body)
    return answer if isinstance(answer, Project) else json_response(409, answer)


async def delete_project(request: Request[Any, None]) -> Success:
    """Delete a project with its pictures; its sessions stay and lose the link."""
    project_id = request.path["id"]
    answer = await request.context.database.write(request.account_id, delete, project_id)
    await request.context.blobs.delete_prefix(f"projects/{project_id}/")  # after a crash, `prune` deletes them
    return answer


routes = [
    Route("POST", "/v1/projects", post, body=NewProject, answer=Project),
    Route(
        "GET", "/v1/projects", get_list, query=ProjectsQuery, answer=Projects, errors=[INVALID_PROJECT_IDS],
        conditional=True,
    ),
    Route("GET", "/v1/projects/:id", get, answer=Project, errors=[PROJECT_NOT_FOUND]),
    Route(
        "PATCH", "/v1/projects/:id", patch, body=ProjectChange, answer=Project, errors=[PROJECT_NOT_FOUND],
        other_responses={409: ProjectMismatch},
    ),
    Route("DELETE", "/v1/projects/:id", delete_project, errors=[PROJECT_NOT_FOUND]),
]  # fmt: skip
