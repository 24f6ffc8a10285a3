"""How the pictures of projects and of sessions differ, and what both do in the database."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec

from happy_light.context import ServerContext
from happy_light.domains import projects, sessions
from happy_light.domains.avatar import Avatar, avatar_of
from happy_light.domains.projects import TEXT_MAX, Project
from happy_light.domains.upload_rate import UploadRate
from happy_light.domains.uploads import SIZE_MAX
from happy_light.errors import (
    FILE_TOO_LARGE,
    PROJECT_NOT_FOUND,
    SESSION_NOT_FOUND,
    TOO_MANY_PICTURES,
    TOO_MANY_UPLOADS,
    ApiError,
    ErrorResponse,
)
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

_UUID4: Final = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


# -------------------------------------------------------------------------------------------- wire
class NewProjectPicture(Incoming):
    """The body of POST /v1/projects/:id/avatar/request-upload; size in bytes."""

    size: Annotated[int, msgspec.Meta(ge=0, le=SIZE_MAX)]


class NewSessionPicture(Incoming):
    """The body of POST /v1/sessions/:id/avatar/request-upload; size in bytes."""

    size: Annotated[int, msgspec.Meta(ge=1, le=SIZE_MAX)]


class ProjectPicture(Incoming):
    """The body of PATCH /v1/projects/:id/avatar: the ref of an upload, and an encrypted preview."""

    ref: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    preview: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]


class SessionPicture(Incoming, forbid_unknown_fields=True):
    """The body of PATCH /v1/sessions/:id/avatar: the ref of an upload, and an encrypted preview."""

    ref: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    preview: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class SessionAvatar(Outgoing):
    """The active picture of a session, null if there is none."""

    avatar: Avatar | None


# ------------------------------------------------------------------------------------- differences
class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What can have a picture, and how its routes differ from those of the other (docs/protocol.md, section 19.1)."""

    kind: Literal["projects", "sessions"]
    """Begins its paths and keys, and names its table."""
    id: re.Pattern[str]
    """An id of another form is a schema error."""
    file: re.Pattern[str]
    """The form of a file's name."""
    invalid_file: ErrorResponse | None
    """For a name of another form; None: it is a schema error, before anything else."""
    not_found: ErrorResponse
    download_not_found: ErrorResponse
    """As `not_found`, for the routes that download."""
    rate: Callable[[ServerContext], UploadRate]
    too_many: ErrorResponse
    """What the rate refuses with."""
    rate_first: bool
    """Whether requests to upload are counted before the owner is looked for."""
    request_body: type[NewProjectPicture | NewSessionPicture]
    size_min: int
    """Bytes of the smallest picture."""
    invalid_upload: ErrorResponse
    """For an upload of another content type, or with too many or too few bytes."""
    upload_exists: ErrorResponse | None
    """For an upload of other bytes than the first time; None: they replace the old ones."""
    activate_body: type[ProjectPicture | SessionPicture]
    invalid_ref: ErrorResponse
    """For the ref of another owner, or none at all."""
    upload_not_found: ErrorResponse
    invalid_size: ErrorResponse
    """For an activation of what has too many or too few bytes."""
    picture_not_found: ErrorResponse
    """For a download of what is not the active picture."""
    cache_control: str
    """The header of a download."""
    direct_upload: ErrorResponse
    """For an upload to this server when clients upload to a bucket."""
    direct_download: ErrorResponse
    """For a download from this server when clients download from a bucket."""
    answer: Callable[[ReadTransaction, str, str], Project | SessionAvatar]
    """Returns what activating and removing answer, for an account and the owner's id."""
    answer_type: type[Project | SessionAvatar]
    announce: Callable[[Transaction, str, str, Avatar | None, int], object]
    """Publishes a change: account, the owner's id, the picture or None, its version."""


def _announce_project(tx: Transaction, account_id: str, project_id: str, avatar: Avatar | None, version: int) -> None:
    projects.announce_change(tx, account_id, project_id)


def _answer_session(tx: ReadTransaction, account_id: str, session_id: str) -> SessionAvatar:
    return SessionAvatar(find_active(tx, account_id, SESSION, session_id, SESSION.not_found))


PROJECT: Final = Owner(
    kind="projects",
    id=re.compile(".*", re.DOTALL),
    file=re.compile(rf"{_UUID4}\.enc"),
    invalid_file=ErrorResponse(404, "Invalid project avatar file"),
    not_found=PROJECT_NOT_FOUND,
    download_not_found=PROJECT_NOT_FOUND,
    rate=lambda context: context.project_picture_rate,
    too_many=TOO_MANY_UPLOADS,
    rate_first=True,
    request_body=NewProjectPicture,
    size_min=0,
    invalid_upload=FILE_TOO_LARGE,
    upload_exists=None,
    activate_body=ProjectPicture,
    invalid_ref=ErrorResponse(400, "Invalid project avatar ref"),
    upload_not_found=ErrorResponse(404, "Project avatar upload not found"),
    invalid_size=FILE_TOO_LARGE,
    picture_not_found=ErrorResponse(404, "Project avatar not found"),
    cache_control="private, no-cache",
    direct_upload=ErrorResponse(404, "Direct upload not available in S3 mode"),
    direct_download=ErrorResponse(404, "Direct download not available in S3 mode"),
    answer=projects.read,
    answer_type=Project,
    announce=_announce_project,
)
SESSION: Final = Owner(
    kind="sessions",
    id=re.compile("[a-zA-Z0-9_-]{1,256}"),
    file=re.compile(rf"(?i:{_UUID4})\.enc"),
    invalid_file=None,
    not_found=SESSION_NOT_FOUND,
    download_not_found=ErrorResponse(404, "Session avatar not found"),
    rate=lambda context: context.session_picture_rate,
    too_many=TOO_MANY_PICTURES,
    rate_first=False,
    request_body=NewSessionPicture,
    size_min=1,
    invalid_upload=ErrorResponse(413, "Avatar must contain at most 10 MB of encrypted image data"),
    upload_exists=ErrorResponse(409, "Avatar upload already exists"),
    activate_body=SessionPicture,
    invalid_ref=ErrorResponse(400, "Invalid session avatar reference"),
    upload_not_found=ErrorResponse(404, "Avatar upload not found"),
    invalid_size=ErrorResponse(413, "Avatar image is too large or empty"),
    picture_not_found=ErrorResponse(404, "Session avatar not found"),
    cache_control="private, no-store",
    direct_upload=ErrorResponse(404, "Direct upload is unavailable"),
    direct_download=ErrorResponse(404, "Direct download is unavailable"),
    answer=_answer_session,
    answer_type=SessionAvatar,
    announce=sessions.announce_avatar,
)


# -------------------------------------------------------------------------------------- operations
_TABLES: Final = {"projects": "projects", "sessions": "sessions"}


def find_active(tx: ReadTransaction, account_id: str, owner: Owner, id: str, not_found: ErrorResponse) -> Avatar | None:
    """Return the active picture, None if there is none. Raises ApiError `not_found` unless the account owns `id`."""
    row = tx.fetch_one(
        f"SELECT avatar_ref, avatar_preview, avatar_version FROM {_TABLES[owner.kind]} WHERE id = ? AND account_id = ?",
        (id, account_id),
    )
    if row is None:
        raise ApiError(not_found)
    return avatar_of(*row)


def replace(
    tx: Transaction, account_id: str, owner: Owner, id: str, ref: str | None, preview: str | None
) -> Project | SessionAvatar:
    """Store and announce another active picture, or with None its removal, unless all is so already.

    Raises ApiError `owner.not_found` unless the account owns `id`. The version rises with each change and never goes
    back (docs/protocol.md, section 19.2).
    """
    row = tx.fetch_one(
        f"SELECT avatar_ref, avatar_preview, avatar_version FROM {_TABLES[owner.kind]} WHERE id = ? AND account_id = ?",
        (id, account_id),
    )
    if row is None:
        raise ApiError(owner.not_found)
    *current, version = row
    if current != [ref, preview]:
        tx.execute(
            f"UPDATE {_TABLES[owner.kind]} SET avatar_ref = ?, avatar_preview = ?, avatar_version = ?, updated_at = ? "
            "WHERE id = ? AND account_id = ?",
            (ref, preview, version + 1, tx.now, id, account_id),
        )
        owner.announce(tx, account_id, id, avatar_of(ref, preview, version + 1), version + 1)
    return owner.answer(tx, account_id, id)
