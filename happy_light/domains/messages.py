"""Messages of a session: encrypted, numbered 1, 2, 3, … without a gap (protocol.md section 3).

GET    /v1/sessions/:id/messages   the newest 150
POST   /v1/sessions/:id/messages   store one, or up to 100 as v3
GET    /v3/sessions/:id/messages   pages after or before a seq
POST   /v3/sessions/:id/messages   store up to 100, each localId once
socket message
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from happy_light import ids
from happy_light.bus import Audience, Update
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.errors import SESSION_NOT_FOUND, ApiError, BadRequest
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.live import EventHandler
from happy_light.live.acks import ok_error
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, NonEmptyStr, Outgoing

NEWEST = 150


# -------------------------------------------------------------------------------------------- wire
class Content(Outgoing, tag_field="t", tag="encrypted"):
    """`{"t": "encrypted", "c": …}`: all that the server ever sees of a message."""

    c: str


class Message(Outgoing):
    """A message with its content."""

    id: str
    seq: int
    content: Content
    local_id: str | None
    created_at: int
    updated_at: int


class Stored(Outgoing):
    """What the sender of a message is told."""

    id: str
    seq: int
    local_id: str | None
    created_at: int
    updated_at: int


class Newest(Outgoing):
    """GET /v1/…: newest first."""

    messages: list[Message]


class Page(Outgoing):
    """GET /v3/…: ascending after a seq, descending before one."""

    messages: list[Message]
    has_more: bool


class Appended(Outgoing):
    """The messages of a call, new and existing ones, by seq."""

    messages: list[Stored]


class NewMessage(Incoming):
    """One message of a batch."""

    content: str
    local_id: NonEmptyStr


Batch = Annotated[list[NewMessage], msgspec.Meta(min_length=1, max_length=100)]


class NewMessages(Incoming):
    """POST /v3/…"""

    messages: Batch


Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class PageQuery(Incoming, rename=None):
    """GET /v3/…; after_seq and before_seq exclude each other."""

    after_seq: Seq | None = None
    before_seq: Annotated[int, msgspec.Meta(ge=1, le=2**53)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


class OneOrMore(Incoming):
    """POST /v1/…: one message's content and localId, or `messages` as POST /v3/… has them."""

    content: str | msgspec.UnsetType = msgspec.UNSET
    local_id: NonEmptyStr | None = None
    messages: Batch | msgspec.UnsetType = msgspec.UNSET


class SocketMessage(Incoming):
    """`message`; a localId that is no string, or "", counts as none."""

    sid: NonEmptyStr
    message: str
    local_id: Any = None


class MessageAck(Outgoing):
    """Ack of `message`."""

    ok: Literal[True]
    id: str
    seq: int
    local_id: str | None


class NewMessageUpdate(Outgoing, tag_field="t", tag="new-message"):
    """Update to everyone interested in the session."""

    sid: str
    message: Message


# -------------------------------------------------------------------------------------- operations
_COLUMNS = "id, seq, content, local_id, created_at, updated_at"


def _must_own(tx: ReadTransaction, account_id: str, session_id: str) -> int:
    """-> the session's seq. Raises Refused."""
    row = tx.fetch_one("SELECT seq FROM sessions WHERE id = ? AND account_id = ?", (session_id, account_id))
    if row is None:
        raise ApiError(SESSION_NOT_FOUND)
    return int(row[0])


def newest(tx: ReadTransaction, account_id: str, session_id: str) -> Newest:
    """The newest messages, newest first. Raises Refused."""
    _must_own(tx, account_id, session_id)
    sql = f"SELECT {_COLUMNS} FROM messages WHERE session_id = ? ORDER BY seq DESC LIMIT ?"
    return Newest(tx.fetch_json(Message, sql, (session_id, NEWEST))[0])


def page(tx: ReadTransaction, account_id: str, session_id: str, query: PageQuery) -> Page:
    """Messages after a seq (ascending) or before one (descending). Raises Refused."""
    _must_own(tx, account_id, session_id)
    if query.before_seq is not None:
        beyond, order, bound, last = "seq < ?", "seq DESC", query.before_seq, "min(seq)"
    else:
        beyond, order, bound, last = "seq > ?", "seq", query.after_seq or 0, "max(seq)"
    below = f"FROM messages WHERE session_id = ? AND {beyond}"
    sql = f"SELECT {_COLUMNS} {below} ORDER BY {order} LIMIT ?"
    messages, end = tx.fetch_json(Message, sql, (session_id, bound, query.limit), last)
    return Page(messages, end is not None and tx.fetch_one(f"SELECT 1 {below} LIMIT 1", (session_id, end)) is not None)


def append(
    tx: Transaction, account_id: str, session_id: str, new: Sequence[tuple[str, str | None]], skip: str | None = None
) -> Appended:
    """Stores (content, localId) pairs, each localId once (the first wins), and announces the new ones.

    `skip` is the id of the socket that sent them and must not receive the updates. Raises Refused.
    """
    seq = last = _must_own(tx, account_id, session_id)
    to = Audience.session(account_id, session_id)
    stored: list[Stored] = []
    for content, local_id in new:
        id = ids.new_id()
        if tx.execute(
            "INSERT INTO messages (id, session_id, seq, local_id, content, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session_id, local_id) WHERE local_id IS NOT NULL DO NOTHING",
            (id, session_id, seq + 1, local_id, content, tx.now, tx.now),
        ):
            seq += 1
            message = Message(id, seq, Content(content), local_id, tx.now, tx.now)
            tx.publish(Update(to, NewMessageUpdate(session_id, message), skip))
            stored.append(Stored(id, seq, local_id, tx.now, tx.now))
        else:
            row = tx.fetch_one(
                "SELECT id, seq, local_id, created_at, updated_at FROM messages WHERE session_id = ? AND local_id = ?",
                (session_id, local_id),
            )
            assert row is not None
            stored.append(Stored(*row))
    if seq != last:
        tx.execute("UPDATE sessions SET seq = ?, updated_at = ? WHERE id = ?", (seq, tx.now, session_id))
    unique = {message.seq: message for message in stored}  # a localId twice in one batch is one message
    return Appended([unique[number] for number in sorted(unique)])


# --------------------------------------------------------------------------------------- endpoints
async def get_newest(request: Request[None, None]) -> Newest:
    return await request.context.database.read(newest, request.account_id, request.path["id"])


async def get_page(request: Request[None, PageQuery]) -> Page:
    if request.query.after_seq is not None and request.query.before_seq is not None:
        raise BadRequest("after_seq and before_seq exclude each other")
    return await request.context.database.read(page, request.account_id, request.path["id"], request.query)


async def post_one_or_more(request: Request[OneOrMore, None]) -> Appended:
    body = request.body
    if isinstance(body.content, str) and body.messages is msgspec.UNSET:
        new: list[tuple[str, str | None]] = [(body.content, body.local_id)]
    elif not isinstance(body.messages, msgspec.UnsetType) and body.content is msgspec.UNSET:
        new = [(message.content, message.local_id) for message in body.messages]
    else:
        raise BadRequest("Either content or messages is needed")
    return await request.context.database.write(request.account_id, append, request.path["id"], new)


async def post(request: Request[NewMessages, None]) -> Appended:
    new = [(message.content, message.local_id) for message in request.body.messages]
    return await request.context.database.write(request.account_id, append, request.path["id"], new)


# ----------------------------------------------------------------------------------------- sockets
def message(context: ServerContext, client: Client, data: SocketMessage) -> asyncio.Future[MessageAck]:
    """Stores one message; everybody but the sender hears of it."""
    local_id = data.local_id if isinstance(data.local_id, str) and data.local_id else None
    return context.database.write(client.account_id, _append_one, client.sid, data.sid, data.message, local_id)


def _append_one(
    tx: Transaction, account_id: str, skip: str, session_id: str, content: str, local_id: str | None
) -> MessageAck:
    (stored,) = append(tx, account_id, session_id, [(content, local_id)], skip).messages
    return MessageAck(True, stored.id, stored.seq, stored.local_id)


routes = [
    Route("GET", "/v1/sessions/:id/messages", get_newest, answer=Newest, errors=[SESSION_NOT_FOUND]),
    Route(
        "POST",
        "/v1/sessions/:id/messages",
        post_one_or_more,
        body=OneOrMore,
        answer=Appended,
        errors=[SESSION_NOT_FOUND],
    ),
    Route("GET", "/v3/sessions/:id/messages", get_page, query=PageQuery, answer=Page, errors=[SESSION_NOT_FOUND]),
    Route("POST", "/v3/sessions/:id/messages", post, body=NewMessages, answer=Appended, errors=[SESSION_NOT_FOUND]),
]
events = {"message": EventHandler(message, ok_error, SocketMessage, MessageAck)}
