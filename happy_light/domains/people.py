"""People: who they are, and who is whose friend (protocol.md section 11).

GET  /v1/user/search      by the beginning of their username
GET  /v1/user/:id
GET  /v1/friends          friends, and who asked or was asked
POST /v1/friends/add      ask, or accept
POST /v1/friends/remove   withdraw, decline, or end

Each side of a pair has a status of its own; what adding and removing make of the two is in `added` and
`removed` below, and nowhere else.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from happy_light.domains import account, feed
from happy_light.domains.account import Avatar
from happy_light.errors import USER_NOT_FOUND, ApiError
from happy_light.http import forwarded
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Incoming, Outgoing

NOTIFY_EVERY: Final = 24 * 3_600_000  # ms between two notifications of one receiver about one person
FOUND_MAX: Final = 10

Status = Literal["none", "requested", "pending", "friend", "rejected"]
"""`requested`: I asked. `pending`: I was asked. `rejected`: I asked and withdrew."""
Pair = tuple[Status, Status]
"""(mine, the other's)"""


# -------------------------------------------------------------------------------------------- wire
class User(Outgoing):
    """A person as the caller sees them; `status` is the caller's side of the pair."""

    id: str
    first_name: str
    last_name: str | None
    avatar: Avatar | None
    username: str
    bio: str | None
    status: Status


class OneUser(Outgoing):
    """`{"user": …}`"""

    user: User


class MaybeUser(Outgoing):
    """`{"user": …}`; null for an unknown one."""

    user: User | None


class Users(Outgoing):
    """`{"users": […]}`"""

    users: list[User]


class Friends(Outgoing):
    """`{"friends": […]}`"""

    friends: list[User]


class SearchQuery(Incoming):
    """GET /v1/user/search"""

    query: str


class Person(Incoming):
    """POST /v1/friends/add, /v1/friends/remove"""

    uid: str


# -------------------------------------------------------------------------------------- operations
def added(pair: Pair) -> Pair:
    """What becomes of a pair when I add the other."""
    mine, other = pair
    if other == "requested":
        return "friend", "friend"
    if mine in ("none", "rejected"):
        return "requested", "pending" if other == "none" else other
    return pair


def removed(pair: Pair) -> Pair:
    """What becomes of a pair when I remove the other."""
    mine, other = pair
    if mine == "requested":
        return "rejected", other
    if mine == "friend":
        return "pending", "requested"
    if mine == "pending":
        return "none", "rejected" if other == "rejected" else "none"
    return pair


_COLUMNS = "a.id, a.first_name, a.last_name, a.avatar, a.username, g.profile, coalesce(r.status, 'none')"
_USER = (
    f"SELECT {_COLUMNS} FROM accounts a LEFT JOIN github_users g ON g.id = a.github_user_id "
    "LEFT JOIN relationships r ON r.from_id = ? AND r.to_id = a.id "
)


def _user(row: Row, base: str) -> User:
    id, first_name, last_name, avatar, username, github, status = row
    profile: dict[str, Any] = msgspec.json.decode(github) if github else {}
    name = username or profile.get("login") or ""
    return User(id, first_name or "", last_name, account.avatar(avatar, base), name, profile.get("bio"), status)


def user(tx: ReadTransaction, account_id: str, id: str, base: str) -> User | None:
    """The person, or None. `base` is the URL that avatars are under."""
    row = tx.fetch_one(_USER + "WHERE a.id = ?", (account_id, id))
    return None if row is None else _user(row, base)


def search(tx: ReadTransaction, account_id: str, beginning: str, base: str) -> Users:
    """The first people by username whose username begins so, whatever the case."""
    rows = tx.fetch_all(
        _USER + "WHERE lower(a.username) >= lower(?) AND lower(a.username) < lower(?) "
        "ORDER BY lower(a.username) LIMIT ?",
        (account_id, beginning, beginning + "\U0010ffff", FOUND_MAX),
    )
    return Users([_user(row, base) for row in rows])


def friends(tx: ReadTransaction, account_id: str, base: str) -> Friends:
    """Friends and open requests of both directions, oldest acquaintance first."""
    rows = tx.fetch_all(
        f"SELECT {_COLUMNS} FROM relationships r JOIN accounts a ON a.id = r.to_id "
        "LEFT JOIN github_users g ON g.id = a.github_user_id "
        "WHERE r.from_id = ? AND r.status IN ('friend', 'pending', 'requested') ORDER BY r.created_at, a.id",
        (account_id,),
    )
    return Friends([_user(row, base) for row in rows])


def _side(tx: ReadTransaction, from_id: str, to_id: str) -> Status:
    row = tx.fetch_one("SELECT status FROM relationships WHERE from_id = ? AND to_id = ?", (from_id, to_id))
    return "none" if row is None else row[0]


def _set(tx: Transaction, from_id: str, to_id: str, status: Status) -> None:
    tx.execute(
        "INSERT INTO relationships (from_id, to_id, status, accepted_at, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (from_id, to_id) DO UPDATE SET status = excluded.status, "
        "accepted_at = coalesce(excluded.accepted_at, relationships.accepted_at), updated_at = excluded.updated_at",
        (from_id, to_id, status, tx.now if status == "friend" else None, tx.now, tx.now),
    )


def _change(tx: Transaction, account_id: str, uid: str, before: Pair, after: Pair) -> None:
    if after[0] != before[0]:
        _set(tx, account_id, uid, after[0])
    if after[1] != before[1]:
        _set(tx, uid, account_id, after[1])


def _notify(
    tx: Transaction, receiver: str, about: str, body: feed.FriendRequest | feed.FriendAccepted, key: str
) -> None:
    """Posts to the receiver's feed, unless they rejected that person or were told within a day."""
    told = tx.execute(
        "UPDATE relationships SET last_notified_at = ? WHERE from_id = ? AND to_id = ? AND status <> 'rejected' "
        "AND (last_notified_at IS NULL OR last_notified_at < ?)",
        (tx.now, receiver, about, tx.now - NOTIFY_EVERY),
    )
    if told:
        feed.post(tx, receiver, body, f"{key}_{about}")


def add(tx: Transaction, account_id: str, uid: str, base: str) -> MaybeUser:
    """Asks a person to be friends, or accepts that they asked. None for oneself and for nobody."""
    if uid == account_id or user(tx, account_id, uid, base) is None:
        return MaybeUser(None)
    before = (_side(tx, account_id, uid), _side(tx, uid, account_id))
    after = added(before)
    _change(tx, account_id, uid, before, after)
    if after[0] == "friend" and before[1] == "requested":
        _notify(tx, account_id, uid, feed.FriendAccepted(uid), "friend_accepted")
        _notify(tx, uid, account_id, feed.FriendAccepted(account_id), "friend_accepted")
    elif after[0] == "requested" and before[0] != "requested":
        _notify(tx, uid, account_id, feed.FriendRequest(account_id), "friend_request")
    return MaybeUser(user(tx, account_id, uid, base))


def remove(tx: Transaction, account_id: str, uid: str, base: str) -> MaybeUser:
    """Withdraws a request, declines one, or ends a friendship. None for nobody."""
    person = user(tx, account_id, uid, base)
    if person is None or uid == account_id:
        return MaybeUser(person)
    before = (_side(tx, account_id, uid), _side(tx, uid, account_id))
    after = removed(before)
    _change(tx, account_id, uid, before, after)
    # Clients expect `requested` of a friendship that they end, though their side is `pending` then.
    person.status = "requested" if before[0] == "friend" else after[0]
    return MaybeUser(person)


# --------------------------------------------------------------------------------------- endpoints
def _base(request: Request[Any, Any]) -> str:
    return forwarded.server_url(request.context.settings, request.scope)


async def get_search(request: Request[None, SearchQuery]) -> Users:
    return await request.context.database.read(search, request.account_id, request.query.query, _base(request))


async def get_user(request: Request[None, None]) -> OneUser:
    person = await request.context.database.read(user, request.account_id, request.path["id"], _base(request))
    if person is None:
        raise ApiError(USER_NOT_FOUND)
    return OneUser(person)


async def get_friends(request: Request[None, None]) -> Friends:
    return await request.context.database.read(friends, request.account_id, _base(request))


async def post_add(request: Request[Person, None]) -> MaybeUser:
    return await request.context.database.write(request.account_id, add, request.body.uid, _base(request))


async def post_remove(request: Request[Person, None]) -> MaybeUser:
    return await request.context.database.write(request.account_id, remove, request.body.uid, _base(request))


routes = [
    Route("GET", "/v1/user/search", get_search, query=SearchQuery, answer=Users),
    Route("GET", "/v1/user/:id", get_user, answer=OneUser, errors=[USER_NOT_FOUND]),
    Route("GET", "/v1/friends", get_friends, answer=Friends),
    Route("POST", "/v1/friends/add", post_add, body=Person, answer=MaybeUser),
    Route("POST", "/v1/friends/remove", post_remove, body=Person, answer=MaybeUser),
]
