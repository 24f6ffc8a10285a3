"""People: profiles of other accounts, and friendships (docs/protocol.md, section 11).

GET  /v1/user/search      search people by the beginning of their username
GET  /v1/user/:id         get one person
GET  /v1/friends          list friends and open requests in both directions
POST /v1/friends/add      request a friendship, or accept a request
POST /v1/friends/remove   withdraw a request, decline one, or end a friendship

A relationship has two sides, each with a status of its own. `after_add` and `after_remove` hold all transitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from happy_light.domains import account, feed, files
from happy_light.domains.account import Avatar
from happy_light.errors import USER_NOT_FOUND, ApiError
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Row, Transaction
from happy_light.wire import Incoming, Outgoing

NOTIFY_EVERY: Final = 24 * 3_600_000  # ms between two notifications of one receiver about one person
SEARCH_MAX: Final = 10

Status = Literal["none", "requested", "pending", "friend", "rejected"]
"""One side of a relationship. `requested`: this side asked; `pending`: it was asked; `rejected`: it asked and
withdrew."""
Sides = tuple[Status, Status]
"""The status of the caller's side and of the other side."""


# -------------------------------------------------------------------------------------------- wire
class User(Outgoing):
    """A person as the caller sees them; `status` is the caller's side of the relationship."""

    id: str
    first_name: str
    last_name: str | None
    avatar: Avatar | None
    username: str
    bio: str | None
    status: Status


class FoundUser(Outgoing):
    """One person."""

    user: User


class ChangedUser(Outgoing):
    """The person after the change; null for an unknown account."""

    user: User | None


class Users(Outgoing):
    """The people found, by username."""

    users: list[User]


class Friends(Outgoing):
    """Friends and open requests in both directions, oldest relationship first."""

    friends: list[User]


class SearchQuery(Incoming):
    """The query of GET /v1/user/search: the beginning of a username."""

    query: str


class Person(Incoming):
    """The body of POST /v1/friends/add and /v1/friends/remove: an account id."""

    uid: str


# -------------------------------------------------------------------------------------- operations
def after_add(sides: Sides) -> Sides:
    """Return what becomes of a relationship when the caller adds the other."""
    mine, theirs = sides
    if theirs == "requested":
        return "friend", "friend"
    if mine in ("none", "rejected"):
        return "requested", "pending" if theirs == "none" else theirs
    return sides


def after_remove(sides: Sides) -> Sides:
    """Return what becomes of a relationship when the caller removes the other."""
    mine, theirs = sides
    if mine == "requested":
        return "rejected", theirs
    if mine == "friend":
        return "pending", "requested"
    if mine == "pending":
        return "none", "rejected" if theirs == "rejected" else "none"
    return sides


_COLUMNS = "a.id, a.first_name, a.last_name, a.avatar, a.username, g.profile, coalesce(r.status, 'none')"
_SELECT_USER = (
    f"SELECT {_COLUMNS} FROM accounts a LEFT JOIN github_users g ON g.id = a.github_user_id "
    "LEFT JOIN relationships r ON r.from_id = ? AND r.to_id = a.id "
)


def _user(row: Row, base: str) -> User:
    id, first_name, last_name, avatar, username, github_profile, status = row
    profile: dict[str, Any] = msgspec.json.decode(github_profile) if github_profile else {}
    name = username or profile.get("login") or ""
    return User(id, first_name or "", last_name, account.decode_avatar(avatar, base), name, profile.get("bio"), status)


def find_user(tx: ReadTransaction, account_id: str, user_id: str, base: str) -> User | None:
    """Return a person as the account sees them, or None; the avatar's URL begins with `base`."""
    row = tx.fetch_one(_SELECT_USER + "WHERE a.id = ?", (account_id, user_id))
    return None if row is None else _user(row, base)


def search(tx: ReadTransaction, account_id: str, prefix: str, base: str) -> Users:
    """Return the first 10 people, by username, whose username begins with `prefix` in any case."""
    rows = tx.fetch_all(
        _SELECT_USER + "WHERE lower(a.username) >= lower(?) AND lower(a.username) < lower(?) "
        "ORDER BY lower(a.username) LIMIT ?",
        (account_id, prefix, prefix + "\U0010ffff", SEARCH_MAX),
    )
    return Users([_user(row, base) for row in rows])


def list_friends(tx: ReadTransaction, account_id: str, base: str) -> Friends:
    """Return friends and open requests in both directions, oldest relationship first."""
    rows = tx.fetch_all(
        f"SELECT {_COLUMNS} FROM relationships r JOIN accounts a ON a.id = r.to_id "
        "LEFT JOIN github_users g ON g.id = a.github_user_id "
        "WHERE r.from_id = ? AND r.status IN ('friend', 'pending', 'requested') ORDER BY r.created_at, a.id",
        (account_id,),
    )
    return Friends([_user(row, base) for row in rows])


def _read_sides(tx: ReadTransaction, account_id: str, user_id: str) -> Sides:
    return _read_status(tx, account_id, user_id), _read_status(tx, user_id, account_id)


def _read_status(tx: ReadTransaction, from_id: str, to_id: str) -> Status:
    row = tx.fetch_one("SELECT status FROM relationships WHERE from_id = ? AND to_id = ?", (from_id, to_id))
    return "none" if row is None else row[0]


def _store_sides(tx: Transaction, account_id: str, user_id: str, before: Sides, after: Sides) -> None:
    if after[0] != before[0]:
        _store_status(tx, account_id, user_id, after[0])
    if after[1] != before[1]:
        _store_status(tx, user_id, account_id, after[1])


def _store_status(tx: Transaction, from_id: str, to_id: str, status: Status) -> None:
    tx.execute(
        "INSERT INTO relationships (from_id, to_id, status, accepted_at, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (from_id, to_id) DO UPDATE SET status = excluded.status, "
        "accepted_at = coalesce(excluded.accepted_at, relationships.accepted_at), updated_at = excluded.updated_at",
        (from_id, to_id, status, tx.now if status == "friend" else None, tx.now, tx.now),
    )


def _notify(
    tx: Transaction, receiver: str, about: str, body: feed.FriendRequest | feed.FriendAccepted, key: str
) -> None:
    """Post to the receiver's feed, unless they rejected that person or were notified within 24 hours."""
    due = tx.execute(
        "UPDATE relationships SET last_notified_at = ? WHERE from_id = ? AND to_id = ? AND status <> 'rejected' "
        "AND (last_notified_at IS NULL OR last_notified_at < ?)",
        (tx.now, receiver, about, tx.now - NOTIFY_EVERY),
    )
    if due:
        feed.add_post(tx, receiver, body, f"{key}_{about}")


def add_friend(tx: Transaction, account_id: str, user_id: str, base: str) -> ChangedUser:
    """Request a friendship or accept a request; answer null for oneself and for an unknown account."""
    if user_id == account_id or find_user(tx, account_id, user_id, base) is None:
        return ChangedUser(None)
    before = _read_sides(tx, account_id, user_id)
    after = after_add(before)
    _store_sides(tx, account_id, user_id, before, after)
    if after[0] == "friend" and before[1] == "requested":
        _notify(tx, account_id, user_id, feed.FriendAccepted(user_id), "friend_accepted")
        _notify(tx, user_id, account_id, feed.FriendAccepted(account_id), "friend_accepted")
    elif after[0] == "requested" and before[0] != "requested":
        _notify(tx, user_id, account_id, feed.FriendRequest(account_id), "friend_request")
    return ChangedUser(find_user(tx, account_id, user_id, base))


def remove_friend(tx: Transaction, account_id: str, user_id: str, base: str) -> ChangedUser:
    """Withdraw a request, decline one, or end a friendship; answer null for an unknown account."""
    person = find_user(tx, account_id, user_id, base)
    if person is None or user_id == account_id:
        return ChangedUser(person)
    before = _read_sides(tx, account_id, user_id)
    after = after_remove(before)
    _store_sides(tx, account_id, user_id, before, after)
    # Clients expect `requested` for a friendship that they end, although their side is `pending` then.
    person.status = "requested" if before[0] == "friend" else after[0]
    return ChangedUser(person)


# --------------------------------------------------------------------------------------- endpoints
async def get_search(request: Request[None, SearchQuery]) -> Users:
    """Return the first 10 people whose username begins with the query, in any case."""
    return await request.context.database.read(search, request.account_id, request.query.query, files.base_url(request))


async def get_user(request: Request[None, None]) -> FoundUser:
    """Return one person."""
    person = await request.context.database.read(
        find_user, request.account_id, request.path["id"], files.base_url(request)
    )
    if person is None:
        raise ApiError(USER_NOT_FOUND)
    return FoundUser(person)


async def get_friends(request: Request[None, None]) -> Friends:
    """Return friends and open requests in both directions, oldest relationship first."""
    return await request.context.database.read(list_friends, request.account_id, files.base_url(request))


async def post_add(request: Request[Person, None]) -> ChangedUser:
    """Request a friendship, or accept a request."""
    return await _change(request, add_friend)


async def post_remove(request: Request[Person, None]) -> ChangedUser:
    """Withdraw a request, decline one, or end a friendship."""
    return await _change(request, remove_friend)


async def _change(
    request: Request[Person, None], operation: Callable[[Transaction, str, str, str], ChangedUser]
) -> ChangedUser:
    """Run a change of both sides of a relationship, which may announce a post to either account."""
    account_id, user_id = request.account_id, request.body.uid
    return await request.context.database.write_for(
        (account_id, user_id), operation, account_id, user_id, files.base_url(request)
    )


routes = [
    Route("GET", "/v1/user/search", get_search, query=SearchQuery, answer=Users),
    Route("GET", "/v1/user/:id", get_user, answer=FoundUser, errors=[USER_NOT_FOUND]),
    Route("GET", "/v1/friends", get_friends, answer=Friends),
    Route("POST", "/v1/friends/add", post_add, body=Person, answer=ChangedUser),
    Route("POST", "/v1/friends/remove", post_remove, body=Person, answer=ChangedUser),
]
