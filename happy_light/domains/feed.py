"""Feed: notifications to an account (docs/protocol.md, section 11).

GET /v1/feed   list posts, newest first, by pages
update new-feed-post
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
"""`0-<n>`, where n is the number of the post in its account's feed."""


# -------------------------------------------------------------------------------------------- wire
class FriendRequest(Outgoing, tag_field="kind", tag="friend_request"):
    """The account `uid` asks to become a friend."""

    uid: str


class FriendAccepted(Outgoing, tag_field="kind", tag="friend_accepted"):
    """The account `uid` became a friend."""

    uid: str


class Text(Outgoing, tag_field="kind", tag="text"):
    """A text from the operator of the server."""

    text: str


Body = FriendRequest | FriendAccepted | Text


class Post(Outgoing):
    """A post of the feed; createdAt in ms."""

    id: str
    body: Body
    repeat_key: str | None
    cursor: str
    created_at: int


class Feed(Outgoing):
    """A page of posts, newest first."""

    items: list[Post]
    has_more: bool


class FeedQuery(Incoming):
    """The query of GET /v1/feed; `after` is ignored if `before` is given."""

    before: Cursor | None = None
    after: Cursor | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50


class NewFeedPostUpdate(Outgoing, tag_field="t", tag="new-feed-post"):
    """Sent to user-scoped sockets: a new post; createdAt in ms."""

    id: str
    body: Body
    cursor: str
    created_at: int
    repeat_key: str | None


# -------------------------------------------------------------------------------------- operations
_decode_body = msgspec.json.Decoder(Body).decode


def list_posts(tx: ReadTransaction, account_id: str, before: str | None, after: str | None, limit: int) -> Feed:
    """Return the newest `limit` posts older than the cursor `before`, else newer than `after`, newest first."""
    bound, cursor = "counter > ?", after or "0-0"
    if before is not None:
        bound, cursor = "counter < ?", before
    rows = tx.fetch_all(
        f"SELECT id, body, repeat_key, counter, created_at FROM feed_items WHERE account_id = ? AND {bound} "
        "ORDER BY counter DESC LIMIT ?",
        (account_id, int(cursor.removeprefix("0-")), limit + 1),
    )
    posts = [
        Post(id, _decode_body(body), repeat_key, f"0-{counter}", created_at)
        for id, body, repeat_key, counter, created_at in rows[:limit]
    ]
    return Feed(posts, len(rows) > limit)


def add_post(tx: Transaction, account_id: str, body: Body, repeat_key: str | None = None) -> None:
    """Add a post to the feed of an existing account and announce it; it replaces one with the same `repeat_key`."""
    if repeat_key is not None:
        tx.execute("DELETE FROM feed_items WHERE account_id = ? AND repeat_key = ?", (account_id, repeat_key))
    row = tx.fetch_one("UPDATE accounts SET feed_seq = feed_seq + 1 WHERE id = ? RETURNING feed_seq", (account_id,))
    assert row is not None  # callers have read the account in this transaction
    id, cursor = ids.new_id(), f"0-{row[0]}"
    tx.execute(
        "INSERT INTO feed_items (id, account_id, counter, repeat_key, body, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (id, account_id, row[0], repeat_key, json_codec.encode(body).decode(), tx.now, tx.now),
    )
    tx.publish(Update(Audience(account_id), NewFeedPostUpdate(id, body, cursor, tx.now, repeat_key)))


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, FeedQuery]) -> Feed:
    """Return posts before or after a cursor, newest first."""
    query = request.query
    return await request.context.database.read(list_posts, request.account_id, query.before, query.after, query.limit)


routes = [Route("GET", "/v1/feed", get, query=FeedQuery, answer=Feed, conditional=True)]
