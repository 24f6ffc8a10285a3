"""Sessions as they are read: lists, pages, one."""

from __future__ import annotations

from typing import Annotated

import msgspec

from happy_light import wire
from happy_light.errors import INVALID_CURSOR, SESSION_NOT_FOUND, Refused
from happy_light.store import Row, Rx
from happy_light.web import Call, Route
from happy_light.wire import Base64, In, Out

RECENT = 15 * 60_000  # ms in which an active session counts as seen lately
LIST_MAX = 150
CURSOR = "cursor_v1_"


# -------------------------------------------------------------------------------------------- wire
class Session(Out):
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


class Sessions(Out):
    """`{"sessions": […]}`"""

    sessions: list[Session]


class ListedSessions(Out):
    """`{"sessions": […]}`"""

    sessions: list[ListedSession]


class PlainSession(Out):
    """`{"session": …}`"""

    session: Session


class Page(Out):
    """A page of sessions, by id descending."""

    sessions: list[Session]
    next_cursor: str | None
    has_next: bool


class ActiveQuery(In):
    """GET /v2/sessions/active"""

    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = LIST_MAX


class PageQuery(In):
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


def newest(rx: Rx, account_id: str) -> ListedSessions:
    """The sessions that changed last, newest first."""
    sql = f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? ORDER BY updated_at DESC, id LIMIT ?"
    return ListedSessions(rx.written(ListedSession, sql, (account_id, LIST_MAX))[0])


def active(rx: Rx, account_id: str, limit: int) -> Sessions:
    """Active and seen in the last 15 minutes, latest first."""
    sql = (
        f"SELECT {COLUMNS} FROM sessions WHERE account_id = ? AND active = 1 AND active_at > ? "
        "ORDER BY active_at DESC LIMIT ?"
    )
    return Sessions(rx.written(Session, sql, (account_id, wire.now_ms() - RECENT, limit))[0])


def page(rx: Rx, account_id: str, before: str, limit: int, changed_since: int | None) -> Page:
    """Sessions with an id below `before` ("" for all), by id descending."""
    if changed_since is None:
        ids = "SELECT id FROM sessions WHERE account_id = ? AND id < ?"
        bounds: tuple[str | int, ...] = (account_id,)
    else:
        # From the index of changes, so that its cost is that of what changed, not of all sessions.
        ids = "SELECT id FROM sessions INDEXED BY sessions_by_change WHERE account_id = ? AND updated_at > ? AND id < ?"
        bounds = (account_id, changed_since)
    sql = f"SELECT {COLUMNS} FROM sessions WHERE id IN ({ids} ORDER BY id DESC LIMIT ?) ORDER BY id DESC"
    sessions, last = rx.written(Session, sql, (*bounds, before or "~", limit), "min(id)")  # ~ sorts behind every id
    has_next = last is not None and rx.one(f"{ids} LIMIT 1", (*bounds, last)) is not None
    return Page(sessions, CURSOR + last if has_next else None, has_next)


def owned(rx: Rx, account_id: str, session_id: str) -> Session:
    """The session. Raises Refused if the account has no such session."""
    row = rx.one(f"SELECT {COLUMNS} FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise Refused(SESSION_NOT_FOUND)
    return _session(row)


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(call: Call[None, None]) -> ListedSessions:
    return await call.house.store.read(newest, call.account_id)


async def get_active(call: Call[None, ActiveQuery]) -> Sessions:
    return await call.house.store.read(active, call.account_id, call.query.limit)


async def get_page(call: Call[None, PageQuery]) -> Page:
    cursor = call.query.cursor
    if cursor and not cursor.startswith(CURSOR):
        raise Refused(INVALID_CURSOR)
    before = cursor.removeprefix(CURSOR)
    return await call.house.store.read(page, call.account_id, before, call.query.limit, call.query.changed_since)


async def get(call: Call[None, None]) -> PlainSession:
    return PlainSession(await call.house.store.read(owned, call.account_id, call.path["id"]))


routes = [
    Route("GET", "/v1/sessions", get_newest, answer=ListedSessions),
    Route("GET", "/v2/sessions", get_page, query=PageQuery, answer=Page, refusals=[INVALID_CURSOR]),
    Route("GET", "/v2/sessions/active", get_active, query=ActiveQuery, answer=Sessions),
    Route("GET", "/v1/sessions/:id", get, answer=PlainSession, refusals=[SESSION_NOT_FOUND]),
]
