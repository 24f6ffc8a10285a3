"""Reading sessions: lists, pages and single ones."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from happy_light import clock
from happy_light.domains.avatar import AVATAR_COLUMNS, Avatar, avatar_of
from happy_light.errors import INVALID_CURSOR, SESSION_NOT_FOUND, ApiError
from happy_light.http.large_lists import LargeList, respond, small_rows
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Row
from happy_light.wire import Base64, Incoming, Outgoing

ACTIVE_WITHIN: Final = 15 * 60_000  # ms since its last heartbeat in which GET /v2/sessions/active lists a session
LIST_MAX: Final = 150
CURSOR_PREFIX: Final = "cursor_v1_"
_AFTER_EVERY_ID: Final = "~"  # sorts after every id


# -------------------------------------------------------------------------------------------- wire
class Session(Outgoing):
    """A session without its messages; times in ms."""

    id: str
    seq: int
    created_at: int
    updated_at: int
    active: bool
    active_at: int
    metadata: str
    metadata_version: int
    agent_state: str | None
    agent_state_version: int
    data_encryption_key: Base64 | None
    project_id: str | None
    avatar: Avatar | None
    avatar_version: int


class ListedSession(Session):
    """A session with `lastMessage`, which is always null; clients expect the field."""

    last_message: None = None


class Sessions(Outgoing):
    """A list of sessions."""

    sessions: list[Session]


class ListedSessions(Outgoing):
    """The sessions that changed last, latest change first."""

    sessions: list[ListedSession]


class FoundSession(Outgoing):
    """One session."""

    session: Session


class Page(Outgoing):
    """A page of sessions, by id descending; nextCursor is null on the last page."""

    sessions: list[Session]
    next_cursor: str | None
    has_next: bool


class ActiveQuery(Incoming):
    """The query of GET /v2/sessions/active."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = LIST_MAX


class PageQuery(Incoming):
    """The query of GET /v2/sessions; changedSince in ms, exclusive."""

    cursor: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    changed_since: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


# -------------------------------------------------------------------------------------- operations
COLUMNS = (
    "id, seq, created_at, updated_at, active, active_at, metadata, metadata_version, agent_state, "
    f"agent_state_version, data_encryption_key, project_id, {AVATAR_COLUMNS}"
)


def listed_session(row: Row) -> ListedSession:
    """Return the session of a row of COLUMNS."""
    return ListedSession(*_fields(row))


def _fields(row: Row) -> list[Any]:
    """Return the fields of the session of a row of COLUMNS."""
    id, seq, created_at, updated_at, active, *values, ref, preview, version = row
    return [id, seq, created_at, updated_at, bool(active), *values, avatar_of(ref, preview, version), version]


_ORDERS = {"changed": "updated_at DESC, id", "active": "active_at DESC", "id": "id DESC"}
_LARGE = ("metadata", "agent_state")


def list_newest(tx: ReadTransaction, account_id: str) -> ListedSessions | LargeList:
    """Return the 150 sessions that changed last, latest change first."""
    source = "FROM sessions WHERE account_id = ? ORDER BY updated_at DESC, id LIMIT ?"
    args = (account_id, LIST_MAX)
    sessions, *_ = tx.fetch_small_json(ListedSession, COLUMNS, source, args, small_rows(tx, *_LARGE))
    if sessions is None:
        return _large_list(tx.fetch_all(f"SELECT id {source}", args), ListedSession, "changed")
    return ListedSessions(sessions)


def list_active(tx: ReadTransaction, account_id: str, limit: int) -> Sessions | LargeList:
    """Return the active sessions with a heartbeat in the last 15 minutes, latest heartbeat first."""
    source = "FROM sessions WHERE account_id = ? AND active = 1 AND active_at > ? ORDER BY active_at DESC LIMIT ?"
    args = (account_id, clock.now_ms() - ACTIVE_WITHIN, limit)
    sessions, *_ = tx.fetch_small_json(Session, COLUMNS, source, args, small_rows(tx, *_LARGE))
    if sessions is None:
        return _large_list(tx.fetch_all(f"SELECT id {source}", args), Session, "active")
    return Sessions(sessions)


def list_page(
    tx: ReadTransaction, account_id: str, before: str, limit: int, changed_since: int | None
) -> Page | LargeList:
    """Return sessions with an id below `before` ("" for all), changed after `changed_since` (ms), by id descending."""
    if changed_since is None:
        ids = "SELECT id FROM sessions WHERE account_id = ? AND id < ?"
        bounds: tuple[str | int, ...] = (account_id,)
    else:
        # `id || ''` keeps the planner from the index by id: with that by change the cost is that of what changed.
        ids = "SELECT id FROM sessions WHERE account_id = ? AND updated_at > ? AND id || '' < ?"
        bounds = (account_id, changed_since)
    source = f"FROM sessions WHERE id IN ({ids} ORDER BY id DESC LIMIT ?) ORDER BY id DESC"
    args = (*bounds, before or _AFTER_EVERY_ID, limit)
    sessions, count, last = tx.fetch_small_json(Session, COLUMNS, source, args, small_rows(tx, *_LARGE), "min(id)")
    if sessions is None:
        found = _large_list(tx.fetch_all(f"SELECT id {source}", args), Session, "id")
        last = found.keys[-1] if found.keys else ""  # all were deleted since their sizes were read
        has_next = bool(last) and tx.fetch_one(f"{ids} LIMIT 1", (*bounds, last)) is not None
        found.others.update(nextCursor=CURSOR_PREFIX + last if has_next else None, hasNext=has_next)
        return found
    has_next = count == limit and tx.fetch_one(f"{ids} LIMIT 1", (*bounds, last)) is not None
    return Page(sessions, CURSOR_PREFIX + last if has_next else None, has_next)


def _large_list(rows: list[Row], kind: type[Session], order: str) -> LargeList:
    """Return the list of the sessions whose ids are in `rows`."""
    return LargeList("sessions", [row[0] for row in rows], _size_of, partial(_list_piece, kind, order), {})


def _size_of(tx: ReadTransaction, account_id: str, id: str) -> int:
    row = tx.fetch_one(f"SELECT {tx.size_of(*_LARGE)} FROM sessions WHERE account_id = ? AND id = ?", (account_id, id))
    return 0 if row is None else int(row[0])


def _list_piece(kind: type[Session], order: str, tx: ReadTransaction, account_id: str, ids: list[str]) -> list[Session]:
    """Return those sessions of `ids` that are the account's."""
    places = ", ".join("?" * len(ids))
    sql = f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? AND id IN ({places}) ORDER BY {_ORDERS[order]}"
    return tx.fetch_json(kind, sql, (account_id, *ids))


def require_owned(tx: ReadTransaction, account_id: str, session_id: str) -> int:
    """Return the seq of the session's last message. Raises ApiError SESSION_NOT_FOUND unless the account owns it."""
    row = tx.fetch_one("SELECT seq FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise ApiError(SESSION_NOT_FOUND)
    seq: int = row[0]
    return seq


def read(tx: ReadTransaction, account_id: str, session_id: str) -> Session:
    """Return the session. Raises ApiError SESSION_NOT_FOUND unless the account owns it."""
    row = tx.fetch_one(f"SELECT {COLUMNS} FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise ApiError(SESSION_NOT_FOUND)
    return Session(*_fields(row))


# --------------------------------------------------------------------------------------- endpoints
async def get_list(request: Request[None, None]) -> ListedSessions | Response:
    """Return the 150 sessions that changed last, latest change first."""
    found = await request.context.database.read(list_newest, request.account_id)
    return await respond(request, found) if isinstance(found, LargeList) else found


async def get_active(request: Request[None, ActiveQuery]) -> Sessions | Response:
    """Return the active sessions with a heartbeat in the last 15 minutes, latest heartbeat first."""
    found = await request.context.database.read(list_active, request.account_id, request.query.limit)
    return await respond(request, found) if isinstance(found, LargeList) else found


async def get_page(request: Request[None, PageQuery]) -> Page | Response:
    """Return a page of all sessions or of those changed since a time, by id descending."""
    cursor = request.query.cursor
    if cursor and not cursor.startswith(CURSOR_PREFIX):
        raise ApiError(INVALID_CURSOR)
    before = cursor.removeprefix(CURSOR_PREFIX)
    found = await request.context.database.read(
        list_page, request.account_id, before, request.query.limit, request.query.changed_since
    )
    return await respond(request, found) if isinstance(found, LargeList) else found


async def get(request: Request[None, None]) -> FoundSession:
    """Return one session."""
    return FoundSession(await request.context.database.read(read, request.account_id, request.path["id"]))


routes = [
    Route("GET", "/v1/sessions", get_list, answer=ListedSessions, conditional=True),
    Route("GET", "/v2/sessions", get_page, query=PageQuery, answer=Page, errors=[INVALID_CURSOR], conditional=True),
    Route("GET", "/v2/sessions/active", get_active, query=ActiveQuery, answer=Sessions),
    Route("GET", "/v1/sessions/:id", get, answer=FoundSession, errors=[SESSION_NOT_FOUND]),
]
