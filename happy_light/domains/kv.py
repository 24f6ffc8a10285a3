"""Key-value store: encrypted values per account, each key with a version (docs/protocol.md, section 7).

GET  /v1/kv/:key   get one key
GET  /v1/kv/       get the key that is the empty string
GET  /v1/kv        list keys by prefix
POST /v1/kv/bulk   get up to 100 keys
POST /v1/kv        write up to 100 keys, all or none
update kv-batch-update

A deleted key keeps its row and its version, so that the version never goes back.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from starlette.responses import Response

from happy_light.bus import Audience, Update
from happy_light.domains.versioned import CompareAndSet, Write
from happy_light.errors import KEY_NOT_FOUND, ApiError, BadRequest
from happy_light.http.request import Request
from happy_light.http.responses import json_response
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, SafeInt

ABSENT: Final = -1
"""The version of a key that was never written."""
_CODE_POINT_MAX: Final = 0x10FFFF
_SURROGATES_FIRST: Final = 0xD800
_SURROGATES_END: Final = 0xE000


# -------------------------------------------------------------------------------------------- wire
class Item(Outgoing):
    """A key that has a value."""

    key: str
    value: bytes
    version: int


class Items(Outgoing):
    """Keys with their values, by key ascending."""

    items: list[Item]


class Values(Outgoing):
    """Keys with their values, in the order of the request; keys without a value are left out."""

    values: list[Item]


class ListQuery(Incoming):
    """The query of GET /v1/kv; the prefix is literal, no character in it is a wildcard."""

    prefix: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class Keys(Incoming):
    """The body of POST /v1/kv/bulk."""

    keys: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]


class Mutation(Incoming):
    """A write of one key: the version that the writer saw, -1 for a new key; a null value deletes."""

    key: str
    value: bytes | None
    version: SafeInt


class Mutations(Incoming):
    """The body of POST /v1/kv."""

    mutations: Annotated[list[Mutation], msgspec.Meta(min_length=1, max_length=100)]


class WrittenKey(Outgoing):
    """A key and its new version."""

    key: str
    version: int


class Mutated(Outgoing):
    """Every key was written."""

    results: list[WrittenKey]
    success: Literal[True] = True


class KeyMismatch(Outgoing):
    """A key with its current version and value: -1 and null if absent, its version and null if deleted."""

    key: str
    version: int
    value: bytes | None
    error: Literal["version-mismatch"] = "version-mismatch"


class KeysMismatch(Outgoing):
    """Nothing was written, because the expected versions of these keys are not the current ones."""

    errors: list[KeyMismatch]
    success: Literal[False] = False


class Change(Outgoing):
    """A written key with its new version and value; null if it was deleted."""

    key: str
    value: bytes | None
    version: int


class KvBatchUpdate(Outgoing, tag_field="t", tag="kv-batch-update"):
    """Sent to user-scoped sockets: the keys that one request wrote."""

    changes: list[Change]


# -------------------------------------------------------------------------------------- operations
def find_key(tx: ReadTransaction, account_id: str, key: str) -> Item | None:
    """Return the key with its value, or None if it is absent or deleted."""
    row = tx.fetch_one(
        "SELECT value, version FROM kv WHERE account_id = ? AND key = ? AND value IS NOT NULL", (account_id, key)
    )
    return None if row is None else Item(key, *row)


def find_keys(tx: ReadTransaction, account_id: str, keys: list[str]) -> Values:
    """Return those of the keys that have a value, each once, in the order given."""
    items = (find_key(tx, account_id, key) for key in dict.fromkeys(keys))
    return Values([item for item in items if item is not None])


def list_keys(tx: ReadTransaction, account_id: str, prefix: str, limit: int) -> Items:
    """Return the first `limit` keys that begin with `prefix`, ordered by code point."""
    end = prefix_end(prefix)
    bound, args = ("", []) if end is None else ("AND key < ? ", [end])
    rows = tx.fetch_all(
        f"SELECT key, value, version FROM kv WHERE account_id = ? AND key >= ? {bound}"
        "AND value IS NOT NULL ORDER BY key LIMIT ?",
        (account_id, prefix, *args, limit),
    )
    return Items([Item(*row) for row in rows])


def prefix_end(prefix: str) -> str | None:
    """Return the smallest text greater than all texts that begin with `prefix`, or None if there is none.

    A range of keys uses the index and, unlike LIKE and GLOB, has no wildcards and does not end at NUL.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code <= _CODE_POINT_MAX:
            # Surrogates are not valid in texts; the next valid code point follows them.
            return prefix[:index] + chr(_SURROGATES_END if code == _SURROGATES_FIRST else code)
    return None


def mutate(tx: Transaction, account_id: str, mutations: list[Mutation]) -> Mutated | KeysMismatch:
    """Write and announce every mutation if all expected versions are the current ones, else write none.

    Raises BadRequest if a key occurs twice.
    """
    changes = {
        mutation.key: CompareAndSet(*_current(tx, account_id, mutation.key), Write(mutation.value, mutation.version))
        for mutation in mutations
    }
    if len(changes) != len(mutations):
        raise BadRequest("A key occurs twice in mutations")
    mismatches = [
        KeyMismatch(key, change.current_version, change.current_value)
        for key, change in changes.items()
        if change.is_stale
    ]
    if mismatches:
        return KeysMismatch(mismatches)
    tx.executemany(
        "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, key) DO UPDATE "
        "SET value = excluded.value, version = excluded.version, updated_at = excluded.updated_at",
        [(account_id, key, change.value, change.version, tx.now, tx.now) for key, change in changes.items()],
    )
    written = [Change(key, change.value, change.version) for key, change in changes.items()]
    tx.publish(Update(Audience(account_id), KvBatchUpdate(written)))
    return Mutated([WrittenKey(change.key, change.version) for change in written])


def _current(tx: ReadTransaction, account_id: str, key: str) -> tuple[bytes | None, int]:
    """Return value and version of a key, deleted or not; (None, ABSENT) if it was never written."""
    row = tx.fetch_one("SELECT value, version FROM kv WHERE account_id = ? AND key = ?", (account_id, key))
    return (None, ABSENT) if row is None else (row[0], row[1])


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Item:
    """Return one key with its value and version."""
    item = await request.context.database.read(find_key, request.account_id, request.path.get("key", ""))
    if item is None:
        raise ApiError(KEY_NOT_FOUND)
    return item


async def get_list(request: Request[None, ListQuery]) -> Items:
    """Return the first keys that begin with a prefix, by key ascending."""
    return await request.context.database.read(list_keys, request.account_id, request.query.prefix, request.query.limit)


async def post_bulk(request: Request[Keys, None]) -> Values:
    """Return those of up to 100 keys that have a value."""
    return await request.context.database.read(find_keys, request.account_id, request.body.keys)


async def post(request: Request[Mutations, None]) -> Mutated | Response:
    """Write up to 100 keys, all or none; answer 409 with every key whose version is another one."""
    answer = await request.context.database.write(request.account_id, mutate, request.body.mutations)
    return answer if isinstance(answer, Mutated) else json_response(409, answer)


routes = [
    Route("GET", "/v1/kv/:key", get, answer=Item, errors=[KEY_NOT_FOUND]),
    Route("GET", "/v1/kv/", get, answer=Item, errors=[KEY_NOT_FOUND]),
    Route("GET", "/v1/kv", get_list, query=ListQuery, answer=Items),
    Route("POST", "/v1/kv/bulk", post_bulk, body=Keys, answer=Values),
    Route("POST", "/v1/kv", post, body=Mutations, answer=Mutated, other_responses={409: KeysMismatch}),
]
