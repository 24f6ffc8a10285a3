"""Key-value store of an account; every key has a version, deleted ones too (protocol.md section 7).

GET  /v1/kv/:key
GET  /v1/kv/       the key that is the empty string
GET  /v1/kv        by prefix
POST /v1/kv/bulk   some keys at once
POST /v1/kv        write up to 100 keys, all or none
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from starlette.responses import Response

from happy_light.bus import Audience, Update
from happy_light.errors import KEY_NOT_FOUND, ApiError, BadRequest
from happy_light.http.request import Request
from happy_light.http.responses import json_response
from happy_light.http.router import Route
from happy_light.store import ReadTransaction, Transaction
from happy_light.wire import Incoming, Outgoing, SafeInt

ABSENT = -1  # the version of a key that was never written


# -------------------------------------------------------------------------------------------- wire
class Item(Outgoing):
    """A key that has a value."""

    key: str
    value: bytes
    version: int


class Items(Outgoing):
    """`{"items": […]}`, by key ascending."""

    items: list[Item]


class Values(Outgoing):
    """`{"values": […]}`, in the order in which the keys were asked for."""

    values: list[Item]


class ListQuery(Incoming):
    """GET /v1/kv; the prefix has no wildcards."""

    prefix: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class Keys(Incoming):
    """POST /v1/kv/bulk"""

    keys: Annotated[list[str], msgspec.Meta(min_length=1, max_length=100)]


class Mutation(Incoming):
    """A write: `version` is the one that its writer saw, -1 for none; a null value deletes."""

    key: str
    value: bytes | None
    version: SafeInt


class Mutations(Incoming):
    """POST /v1/kv"""

    mutations: Annotated[list[Mutation], msgspec.Meta(min_length=1, max_length=100)]


class Written(Outgoing):
    """A key and its new version."""

    key: str
    version: int


class Mutated(Outgoing):
    """Everything was written."""

    results: list[Written]
    success: Literal[True] = True


class Mismatch(Outgoing):
    """A key whose version is another one: what is current. A deleted one has no value, an absent one version -1."""

    key: str
    version: int
    value: bytes | None
    error: Literal["version-mismatch"] = "version-mismatch"


class Mismatched(Outgoing):
    """409: nothing was written, because of these."""

    errors: list[Mismatch]
    success: Literal[False] = False


class Change(Outgoing):
    """A write as it is announced."""

    key: str
    value: bytes | None
    version: int


class KvBatchUpdate(Outgoing, tag_field="t", tag="kv-batch-update"):
    """Update to user-scoped sockets."""

    changes: list[Change]


# -------------------------------------------------------------------------------------- operations
def find(tx: ReadTransaction, account_id: str, key: str) -> Item:
    """The key's value. Raises Refused if it is absent or deleted."""
    row = tx.fetch_one(
        "SELECT value, version FROM kv WHERE account_id = ? AND key = ? AND value IS NOT NULL", (account_id, key)
    )
    if row is None:
        raise ApiError(KEY_NOT_FOUND)
    return Item(key, *row)


def page(tx: ReadTransaction, account_id: str, prefix: str, limit: int) -> Items:
    """The first `limit` keys that begin with `prefix`, as SQLite compares text: by code point."""
    after = _after(prefix)
    bound, args = ("", []) if after is None else ("AND key < ? ", [after])
    rows = tx.fetch_all(
        f"SELECT key, value, version FROM kv WHERE account_id = ? AND key >= ? {bound}"
        "AND value IS NOT NULL ORDER BY key LIMIT ?",
        (account_id, prefix, *args, limit),
    )
    return Items([Item(*row) for row in rows])


def _after(prefix: str) -> str | None:
    """The least text that sorts behind all that begin with `prefix`; None if there is none.

    A range finds keys by the index, and unlike LIKE and GLOB it knows no wildcards and reads past NUL.
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code <= 0x10FFFF:
            return prefix[:index] + chr(0xE000 if code == 0xD800 else code)  # no text has surrogates
    return None


def some(tx: ReadTransaction, account_id: str, keys: list[str]) -> Values:
    """Those of the keys that have a value, each once."""
    items = []
    for key in dict.fromkeys(keys):
        row = tx.fetch_one(
            "SELECT value, version FROM kv WHERE account_id = ? AND key = ? AND value IS NOT NULL", (account_id, key)
        )
        if row is not None:
            items.append(Item(key, *row))
    return Values(items)


def mutate(tx: Transaction, account_id: str, mutations: list[Mutation]) -> Mutated | Mismatched:
    """Writes all if every version is the current one, else none. Raises BadRequest for a key that is there twice."""
    if len({mutation.key for mutation in mutations}) != len(mutations):
        raise BadRequest("A key is there twice")
    errors = []
    for mutation in mutations:
        row = tx.fetch_one("SELECT value, version FROM kv WHERE account_id = ? AND key = ?", (account_id, mutation.key))
        value, version = (None, ABSENT) if row is None else row
        if version != mutation.version:
            errors.append(Mismatch(mutation.key, version, value))
    if errors:
        return Mismatched(errors)
    changes = [Change(mutation.key, mutation.value, mutation.version + 1) for mutation in mutations]
    tx.executemany(
        "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (account_id, key) DO UPDATE "
        "SET value = excluded.value, version = excluded.version, updated_at = excluded.updated_at",
        [(account_id, change.key, change.value, change.version, tx.now, tx.now) for change in changes],
    )
    tx.publish(Update(Audience(account_id), KvBatchUpdate(changes)))
    return Mutated([Written(change.key, change.version) for change in changes])


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Item:
    return await request.context.database.read(find, request.account_id, request.path.get("key", ""))


async def get_page(request: Request[None, ListQuery]) -> Items:
    return await request.context.database.read(page, request.account_id, request.query.prefix, request.query.limit)


async def post_bulk(request: Request[Keys, None]) -> Values:
    return await request.context.database.read(some, request.account_id, request.body.keys)


async def post(request: Request[Mutations, None]) -> Mutated | Response:
    answer = await request.context.database.write(request.account_id, mutate, request.body.mutations)
    return answer if isinstance(answer, Mutated) else json_response(409, answer)


routes = [
    Route("GET", "/v1/kv/:key", get, answer=Item, errors=[KEY_NOT_FOUND]),
    Route("GET", "/v1/kv/", get, answer=Item, errors=[KEY_NOT_FOUND]),
    Route("GET", "/v1/kv", get_page, query=ListQuery, answer=Items),
    Route("POST", "/v1/kv/bulk", post_bulk, body=Keys, answer=Values),
    Route("POST", "/v1/kv", post, body=Mutations, answer=Mutated, other_responses={409: Mismatched}),
]
