"""Sessions as they are read: lists, pages, one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from happy_light import clock
from happy_light.errors import INVALID_CURSOR, SESSION_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Row
from happy_light.wire import Base64, Incoming, Outgoing

RECENT = 15 * 60_000  # ms in which an active session counts as seen lately
LIST_MAX = 150
CURSOR = "cursor_v1_"


# -------------------------------------------------------------------------------------------- wire
class Session(Outgoing):
    """A session without its messages."""

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


class ListedSession(Session):
    """As Session; `lastMessage` is always null (clients expect the field)."""

    last_message: None = None


class Sessions(Outgoing):
    """`{"sessions": […]}`"""

    sessions: list[Session]


class ListedSessions(Outgoing):
    """`{"sessions": […]}`"""

    sessions: list[ListedSession]


class PlainSession(Outgoing):
    """`{"session": …}`"""

    session: Session


class Page(Outgoing):
    """A page of sessions, by id descending."""

    sessions: list[Session]
    next_cursor: str | None
    has_next: bool


class ActiveQuery(Incoming):
    """GET /v2/sessions/active"""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = LIST_MAX


class PageQuery(Incoming):
    """GET /v2/sessions; changedSince in ms"""

    cursor: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    changed_since: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None


# -------------------------------------------------------------------------------------- operations
COLUMNS = (
    "id, seq, created_at, updated_at, active, active_at, metadata, metadata_version, agent_state, "
    "agent_state_version, data_encryption_key"
)


def _session(row: Row) -> Session:
    id, seq, created_at, updated_at, is_active, *rest = row
    return Session(id, seq, created_at, updated_at, bool(is_active), *rest)


def listed(row: Row) -> ListedSession:
    """The session of a row of COLUMNS, as the lists have it."""
    id, seq, created_at, updated_at, is_active, *rest = row
    return ListedSession(id, seq, created_at, updated_at, bool(is_active), *rest)


def newest(tx: ReadTransaction, account_id: str) -> ListedSessions:
    """The sessions that changed last, newest first."""
    sql = f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? ORDER BY updated_at DESC, id LIMIT ?"
    return ListedSessions(tx.fetch_json(ListedSession, sql, (account_id, LIST_MAX))[0])


def active(tx: ReadTransaction, account_id: str, limit: int) -> Sessions:
    """Active and seen in the last 15 minutes, latest first."""
    sql = (
        f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? AND active = 1 AND active_at > ? "
        "ORDER BY active_at DESC LIMIT ?"
    )
    return Sessions(tx.fetch_json(Session, sql, (account_id, clock.now_ms() - RECENT, limit))[0])


def page(tx: ReadTransaction, account_id: str, before: str, limit: int, changed_since: int | None) -> Page:
    """Sessions with an id below `before` ("" for all), by id descending."""
    if changed_since is None:
        ids = "SELECT id FROM sessions WHERE account_id = ? AND id < ?"
        bounds: tuple[str | int, ...] = (account_id,)
    else:
        # `id || ''` keeps the planner from the index by id, so that the cost is that of what changed.
        ids = "SELECT id FROM sessions WHERE account_id = ? AND updated_at > ? AND id || '' < ?"
        bounds = (account_id, changed_since)
    sql = f"SELECT {COLUMNS} FROM sessions WHERE id IN ({ids} ORDER BY id DESC LIMIT ?) ORDER BY id DESC"
    sessions, last = tx.fetch_json(Session, sql, (*bounds, before or "~", limit), "min(id)")  # ~ sorts behind every id
    has_next = last is not None and tx.fetch_one(f"{ids} LIMIT 1", (*bounds, last)) is not None
    return Page(sessions, CURSOR + last if has_next else None, has_next)


def owned(tx: ReadTransaction, account_id: str, session_id: str) -> Session:
    """The session. Raises Refused if the account has no such session."""
    row = tx.fetch_one(f"SELECT {COLUMNS} FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise ApiError(SESSION_NOT_FOUND)
    return _session(row)


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(request: Request[None, None]) -> ListedSessions:
    return await request.context.database.read(newest, request.account_id)


async def get_active(request: Request[None, ActiveQuery]) -> Sessions:
    return await request.context.database.read(active, request.account_id, request.query.limit)


async def get_page(request: Request[None, PageQuery]) -> Page:
    cursor = request.query.cursor
    if cursor and not cursor.startswith(CURSOR):
        raise ApiError(INVALID_CURSOR)
    before = cursor.removeprefix(CURSOR)
    return await request.context.database.read(
        page, request.account_id, before, request.query.limit, request.query.changed_since
    )


async def get(request: Request[None, None]) -> PlainSession:
    return PlainSession(await request.context.database.read(owned, request.account_id, request.path["id"]))


routes = [
    Route("GET", "/v1/sessions", get_newest, answer=ListedSessions),
    Route("GET", "/v2/sessions", get_page, query=PageQuery, answer=Page, errors=[INVALID_CURSOR]),
    Route("GET", "/v2/sessions/active", get_active, query=ActiveQuery, answer=Sessions),
    Route("GET", "/v1/sessions/:id", get, answer=PlainSession, errors=[SESSION_NOT_FOUND]),
]
