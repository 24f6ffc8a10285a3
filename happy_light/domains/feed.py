"""The feed: what happened to an account while nobody looked (protocol.md section 11).

GET /v1/feed   newest first, by pages
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from happy_light import ids, json_codec
from happy_light.bus import Audience, Update
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing

Cursor = Annotated[str, msgspec.Meta(pattern=r"^0-[0-9]{1,15}(?!\n)$")]
"""`0-<counter of the item>`"""


# -------------------------------------------------------------------------------------------- wire
class FriendRequest(Outgoing, tag_field="kind", tag="friend_request"):
    """Account `uid` wants to be friends."""

    uid: str


class FriendAccepted(Outgoing, tag_field="kind", tag="friend_accepted"):
    """Account `uid` is a friend now."""

    uid: str


class Text(Outgoing, tag_field="kind", tag="text"):
    """A text of the server's operator."""

    text: str


Body = FriendRequest | FriendAccepted | Text


class Item(Outgoing):
    """One post; createdAt in ms."""

    id: str
    body: Body
    repeat_key: str | None
    cursor: str
    created_at: int


class Feed(Outgoing):
    """A page, newest first."""

    items: list[Item]
    has_more: bool


class FeedQuery(Incoming):
    """GET /v1/feed; `before` wins over `after`"""

    before: Cursor | None = None
    after: Cursor | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50


class NewFeedPostUpdate(Outgoing, tag_field="t", tag="new-feed-post"):
    """Update to user-scoped sockets."""

    id: str
    body: Body
    cursor: str
    created_at: int
    repeat_key: str | None


# -------------------------------------------------------------------------------------- operations
_decode = msgspec.json.Decoder(Body).decode


def page(tx: ReadTransaction, account_id: str, before: str | None, after: str | None, limit: int) -> Feed:
    """The newest `limit` items older than `before`, or else newer than `after`."""
    bound, compared = "counter > ?", after or "0-0"
    if before is not None:
        bound, compared = "counter < ?", before
    rows = tx.fetch_all(
        f"SELECT id, body, repeat_key, counter, created_at FROM feed_items WHERE account_id = ? AND {bound} "
        "ORDER BY counter DESC LIMIT ?",
        (account_id, int(compared[2:]), limit + 1),
    )
    items = [Item(id, _decode(body), key, f"0-{counter}", at) for id, body, key, counter, at in rows[:limit]]
    return Feed(items, len(rows) > limit)


def post(tx: Transaction, account_id: str, body: Body, repeat_key: str | None = None) -> None:
    """Adds an item, in the place of an older one with the same `repeat_key`, and announces it."""
    if repeat_key is not None:
        tx.execute("DELETE FROM feed_items WHERE account_id = ? AND repeat_key = ?", (account_id, repeat_key))
    row = tx.fetch_one("UPDATE accounts SET feed_seq = feed_seq + 1 WHERE id = ? RETURNING feed_seq", (account_id,))
    assert row is not None  # a post to an account that its caller has just read
    id = ids.new_id()
    tx.execute(
        "INSERT INTO feed_items (id, account_id, counter, repeat_key, body, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id, account_id, row[0], repeat_key, json_codec.encode(body).decode(), tx.now, tx.now),
    )
    tx.publish(Update(Audience(account_id), NewFeedPostUpdate(id, body, f"0-{row[0]}", tx.now, repeat_key)))


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, FeedQuery]) -> Feed:
    query = request.query
    return await request.context.database.read(page, request.account_id, query.before, query.after, query.limit)


routes = [Route("GET", "/v1/feed", get, query=FeedQuery, answer=Feed)]
