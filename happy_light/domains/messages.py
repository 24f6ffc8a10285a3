"""Messages of a session: encrypted, numbered 1, 2, 3, … without gaps (docs/protocol.md, section 3).

GET    /v1/sessions/:id/messages   list the newest 150
POST   /v1/sessions/:id/messages   store one message, or up to 100
GET    /v3/sessions/:id/messages   list messages after or before a seq, by pages
POST   /v3/sessions/:id/messages   store up to 100 messages, each localId once
socket message
update new-message
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from starlette.responses import Response

from happy_light import ids
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.domains import sessions
from happy_light.errors import SESSION_NOT_FOUND, ApiError, BadRequest
from happy_light.http.large_lists import LargeList, respond, small_rows
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Id, Incoming, NonEmptyStr, Outgoing

T = TypeVar("T")

LIST_MAX: Final = 150
"""Messages that GET /v1/sessions/:id/messages lists at most."""


# -------------------------------------------------------------------------------------------- wire
class Content(Outgoing, tag_field="t", tag="encrypted"):
    """The encrypted content of a message; the server never decrypts it."""

    c: str


class Message(Outgoing):
    """A message with its content; times in ms."""

    id: str
    seq: int
    content: Content
    local_id: str | None
    created_at: int
    updated_at: int


class StoredMessage(Outgoing):
    """A message as the answer to its sender carries it: without its content. Times in ms."""

    id: str
    seq: int
    local_id: str | None
    created_at: int
    updated_at: int


class NewestMessages(Outgoing):
    """The newest messages, newest first."""

    messages: list[Message]


class MessagePage(Outgoing):
    """A page of messages: ascending by seq after a seq, descending before one."""

    messages: list[Message]
    has_more: bool


class StoredMessages(Outgoing):
    """The messages of a request by seq, those that existed already included."""

    messages: list[StoredMessage]


class NewMessage(Incoming):
    """A message to store."""

    content: str
    local_id: NonEmptyStr


Batch = Annotated[list[NewMessage], msgspec.Meta(min_length=1, max_length=100)]


class NewMessages(Incoming):
    """The body of POST /v3/sessions/:id/messages."""

    messages: Batch


Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class PageQuery(Incoming, rename=None):
    """The query of GET /v3/sessions/:id/messages: after_seq (0 by default) or before_seq, not both."""

    after_seq: Seq | None = None
    before_seq: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


class OneOrManyMessages(Incoming):
    """The body of POST /v1/sessions/:id/messages: content and localId of one message, or `messages`."""

    content: str | msgspec.UnsetType = msgspec.UNSET
    local_id: NonEmptyStr | None = None
    messages: Batch | msgspec.UnsetType = msgspec.UNSET


class SocketMessage(Incoming):
    """The payload of `message`; a localId that is empty or not a string counts as none."""

    sid: Id
    message: str
    local_id: Any = None


class MessageAck(Outgoing):
    """The ack of `message`."""

    ok: Literal[True]
    id: str
    seq: int
    local_id: str | None


class NewMessageUpdate(Outgoing, tag_field="t", tag="new-message"):
    """Sent to the session's and user-scoped sockets: a message was stored."""

    sid: str
    message: Message


# -------------------------------------------------------------------------------------- operations
_COLUMNS = "id, seq, content, local_id, created_at, updated_at"
_PLACES: Final = (1, 4, 16, 64, 256)
"""For how many sessions and localIds a query looks."""


def list_newest(tx: ReadTransaction, account_id: str, session_id: str) -> NewestMessages | LargeList:
    """Return the newest 150 messages, newest first. Raises ApiError SESSION_NOT_FOUND."""
    sessions.require_owned(tx, account_id, session_id)
    source, order = "FROM messages WHERE session_id = ?", "seq DESC"
    page, args = f"{source} ORDER BY {order} LIMIT ?", (session_id, LIST_MAX)
    messages, *_ = tx.fetch_small_json(Message, _COLUMNS, page, args, small_rows(tx, "content"))
    if messages is None:
        return _large_list(session_id, tx.fetch_all(f"SELECT seq {page}", args), True)
    return NewestMessages(messages)


def list_page(tx: ReadTransaction, account_id: str, session_id: str, query: PageQuery) -> MessagePage | LargeList:
    """Return messages after a seq (ascending) or before one (descending). Raises ApiError SESSION_NOT_FOUND."""
    sessions.require_owned(tx, account_id, session_id)
    if query.before_seq is not None:
        condition, order, bound, last = "seq < ?", "seq DESC", query.before_seq, "min(seq)"
    else:
        condition, order, bound, last = "seq > ?", "seq", query.after_seq or 0, "max(seq)"
    source = f"FROM messages WHERE session_id = ? AND {condition}"
    page, args = f"{source} ORDER BY {order} LIMIT ?", (session_id, bound, query.limit)
    more = f"SELECT 1 {source} LIMIT 1"
    messages, count, end = tx.fetch_small_json(Message, _COLUMNS, page, args, small_rows(tx, "content"), last)
    if messages is None:
        seqs = tx.fetch_all(f"SELECT seq {page}", args)
        found = _large_list(session_id, seqs, query.before_seq is not None)
        # None are left if the session was deleted since the sizes were read.
        found.others["hasMore"] = bool(seqs) and tx.fetch_one(more, (session_id, found.keys[-1])) is not None
        return found
    has_more = count == query.limit and tx.fetch_one(more, (session_id, end)) is not None
    return MessagePage(messages, has_more)


def _large_list(session_id: str, rows: list[Row], descending: bool) -> LargeList:
    """Return the list of the messages whose seqs are in `rows`."""
    seqs = [row[0] for row in rows]
    return LargeList("messages", seqs, partial(_size_of, session_id), partial(_list_piece, session_id, descending), {})


def _size_of(session_id: str, tx: ReadTransaction, account_id: str, seq: int) -> int:
    sql = (
        f"SELECT {tx.size_of('content')} FROM messages WHERE seq = ? "
        "AND session_id = (SELECT id FROM sessions WHERE id = ? AND account_id = ?)"
    )
    row = tx.fetch_one(sql, (seq, session_id, account_id))
    return 0 if row is None else int(row[0])


def _list_piece(
    session_id: str, descending: bool, tx: ReadTransaction, account_id: str, seqs: list[int]
) -> list[Message]:
    """Return the messages from the lowest to the highest of `seqs`. Raises ApiError SESSION_NOT_FOUND."""
    order = "seq DESC" if descending else "seq"
    sessions.require_owned(tx, account_id, session_id)
    sql = f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? AND seq BETWEEN ? AND ? ORDER BY {order}"
    return tx.fetch_json(Message, sql, (session_id, min(seqs), max(seqs)))


class Append(NamedTuple):
    """(content, localId) pairs to store in a session, and what makes the answer of the messages, which are by seq.

    `skip` is the id of the socket that sent them and does not receive the updates.
    """

    session_id: str
    new: Sequence[tuple[str, str | None]]
    answer: Callable[[list[StoredMessage]], Any]
    skip: str | None = None


def append(tx: Transaction, account_id: str, appends: Sequence[Append]) -> list[Any]:
    """Store messages in this order, each localId once per session, and announce the new ones.

    A localId that exists already keeps its message. Return the answer to each of `appends`, or ApiError
    SESSION_NOT_FOUND.
    """
    seqs, existing = _find_stored(tx, account_id, appends)
    now = tx.now
    rows: list[tuple[str, str, int, str | None, str, int, int]] = []
    answers: list[Any] = []
    for session_id, new, answer, skip in appends:
        if session_id not in seqs:
            answers.append(ApiError(SESSION_NOT_FOUND))
            continue
        audience = Audience.session(account_id, session_id)
        found: dict[int, StoredMessage] = {}  # by seq, so that a localId that occurs twice in `new` is answered once
        for content, local_id in new:
            stored = None if local_id is None else existing.get((session_id, local_id))
            if stored is None:
                id, seq = ids.new_id(), seqs[session_id] + 1
                seqs[session_id] = seq
                stored = StoredMessage(id, seq, local_id, now, now)
                if local_id is not None:
                    existing[session_id, local_id] = stored
                rows.append((id, session_id, seq, local_id, content, now, now))
                message = Message(id, seq, Content(content), local_id, now, now)
                tx.publish(Update(audience, NewMessageUpdate(session_id, message), skip))
            found[stored.seq] = stored
        answers.append(answer([found[seq] for seq in sorted(found)]))
    tx.executemany(
        "INSERT INTO messages (id, session_id, seq, local_id, content, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    tx.executemany(
        "UPDATE sessions SET seq = ?, updated_at = ? WHERE id = ? AND account_id = ?",
        [(seqs[id], now, id, account_id) for id in {row[1]: None for row in rows}],
    )
    return answers


def _find_stored(
    tx: ReadTransaction, account_id: str, appends: Sequence[Append]
) -> tuple[dict[str, int], dict[tuple[str, str], StoredMessage]]:
    """Return the seq of each session that the account has, and by session and localId the messages that exist."""
    session_ids = list({append.session_id: None for append in appends})
    wanted = list({(append.session_id, id): None for append in appends for _, id in append.new if id is not None})
    seqs: dict[str, int] = {}
    existing: dict[tuple[str, str], StoredMessage] = {}
    for first in range(0, max(len(session_ids), len(wanted)), _PLACES[-1]):
        some = _fill(session_ids[first : first + _PLACES[-1]], "")
        pairs = _fill(wanted[first : first + _PLACES[-1]], ("", ""))
        rows = tx.fetch_all(
            "SELECT id, seq, NULL, NULL, NULL, NULL FROM sessions "
            f"WHERE account_id = ? AND id IN ({', '.join(['?'] * len(some))}) "
            "UNION ALL SELECT m.session_id, m.seq, m.id, m.local_id, m.created_at, m.updated_at "
            f"FROM (VALUES {', '.join(['(?, ?)'] * len(pairs))}) AS wanted "
            "JOIN sessions s ON s.id = wanted.column1 AND s.account_id = ? "
            "JOIN messages m ON m.session_id = s.id AND m.local_id = wanted.column2",
            (account_id, *some, *chain.from_iterable(pairs), account_id),
        )
        for session_id, seq, id, local_id, created_at, updated_at in rows:
            if id is None:
                seqs[session_id] = seq
            else:
                existing[session_id, local_id] = StoredMessage(id, seq, local_id, created_at, updated_at)
    return seqs, existing


def _fill(values: list[T], nothing: T) -> list[T]:
    """Return as many values as a query has places: few texts are prepared then. `nothing` fills those that are left."""
    places = next(places for places in _PLACES if places >= len(values))
    return values + [nothing] * (places - len(values))


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(request: Request[None, None]) -> NewestMessages | Response:
    """Return the newest 150 messages, newest first."""
    found = await request.context.database.read(list_newest, request.account_id, request.path["id"])
    return await respond(request, found) if isinstance(found, LargeList) else found


async def get_page(request: Request[None, PageQuery]) -> MessagePage | Response:
    """Return messages after a seq, ascending, or before one, descending."""
    if request.query.after_seq is not None and request.query.before_seq is not None:
        raise BadRequest("after_seq and before_seq exclude each other")
    found = await request.context.database.read(list_page, request.account_id, request.path["id"], request.query)
    return await respond(request, found) if isinstance(found, LargeList) else found


async def post_one_or_many(request: Request[OneOrManyMessages, None]) -> StoredMessages:
    """Store one message, or up to 100, each localId once."""
    body = request.body
    if isinstance(body.content, str) and body.messages is msgspec.UNSET:
        new: list[tuple[str, str | None]] = [(body.content, body.local_id)]
    elif not isinstance(body.messages, msgspec.UnsetType) and body.content is msgspec.UNSET:
        new = [(message.content, message.local_id) for message in body.messages]
    else:
        raise BadRequest("Either content or messages is required")
    return await _append(request, new)


async def post(request: Request[NewMessages, None]) -> StoredMessages:
    """Store up to 100 messages, each localId once; the answer includes those that existed already."""
    new: list[tuple[str, str | None]] = [(message.content, message.local_id) for message in request.body.messages]
    return await _append(request, new)


async def _append(request: Request[Any, None], new: list[tuple[str, str | None]]) -> StoredMessages:
    stored: StoredMessages = await request.context.database.write_together(
        request.account_id, append, Append(request.path["id"], new, StoredMessages)
    )
    request.context.counters.messages += len(new)
    return stored


# ----------------------------------------------------------------------------------------- sockets
def message(context: ServerContext, client: Client, data: SocketMessage) -> asyncio.Future[MessageAck]:
    """Store one message; the sending socket does not receive its update."""
    local_id = data.local_id if isinstance(data.local_id, str) and data.local_id else None
    context.counters.messages += 1
    new = Append(data.sid, ((data.message, local_id),), _ack, client.sid)
    return context.database.write_together(client.account_id, append, new)


def _ack(stored: list[StoredMessage]) -> MessageAck:
    (message,) = stored
    return MessageAck(True, message.id, message.seq, message.local_id)


routes = [
    Route("GET", "/v1/sessions/:id/messages", get_newest, answer=NewestMessages, errors=[SESSION_NOT_FOUND]),
    Route(
        "POST", "/v1/sessions/:id/messages", post_one_or_many, body=OneOrManyMessages, answer=StoredMessages,
        errors=[SESSION_NOT_FOUND],
    ),
    Route(
        "GET", "/v3/sessions/:id/messages", get_page, query=PageQuery, answer=MessagePage, errors=[SESSION_NOT_FOUND]
    ),
    Route(
        "POST", "/v3/sessions/:id/messages", post, body=NewMessages, answer=StoredMessages, errors=[SESSION_NOT_FOUND]
    ),
]  # fmt: skip
events = {"message": EventHandler(message, ok_error, SocketMessage, MessageAck)}
