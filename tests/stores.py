"""A database without a server, for the tests of the store: accounts, and numbers that are stored and announced."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import msgspec

from happy_light import json_codec
from happy_light.bus import Audience, Bus, Committed, Ephemeral, Update
from happy_light.store import Database, ReadTransaction, Transaction
from happy_light.store.engine import Engine

Heard = list[Committed | Ephemeral]
NewEngine = Callable[[], Engine]


class Body(msgspec.Struct):
    """The body of an event."""

    n: int


class Stored(msgspec.Struct):
    """What a list has of a row of kv."""

    key: str
    version: int


def listening_bus(heard: Heard) -> Bus:
    """Return a bus that appends every event to `heard`."""
    bus = Bus()
    bus.subscribe(Committed, heard.append)
    bus.subscribe(Ephemeral, heard.append)
    return bus


def add_account(tx: Transaction, id: str) -> None:
    """Create an account."""
    tx.execute("INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, 0, 0)", (id, f"key {id}"))


def put(tx: Transaction, account: str, n: int, fail: Exception | None = None) -> int:
    """Store and announce a number, and then raise `fail`."""
    tx.execute(
        "INSERT INTO kv (account_id, key, value, version, created_at, updated_at) VALUES (?, ?, ?, 0, 0, 0)",
        (account, f"{n:09}", b"x"),
    )
    tx.publish(Update(Audience(account), Body(n)), Ephemeral(Audience(account), Body(-n)))
    if fail is not None:
        raise fail
    return n


def number(event: Committed | Ephemeral) -> int:
    """Return the number in the event."""
    body = msgspec.to_builtins(event.body) if isinstance(event, Ephemeral) else json_codec.decode(event.frame)["body"]
    return int(body["n"])


def updates(heard: Heard) -> list[Committed]:
    """Return the updates among the events."""
    return [event for event in heard if isinstance(event, Committed)]


def keys(tx: ReadTransaction, account: str) -> list[int]:
    """Return the account's stored numbers."""
    return [int(key) for (key,) in tx.fetch_all("SELECT key FROM kv WHERE account_id = ? ORDER BY key", (account,))]


def seq_of(tx: ReadTransaction, account: str) -> int:
    """Return the account's seq."""
    row = tx.fetch_one("SELECT seq FROM accounts WHERE id = ?", (account,))
    assert row is not None
    return int(row[0])


class Held:
    """A writer that is kept busy until `release`, so that the writes which follow wait and become one group."""

    def __init__(self, database: Database) -> None:
        self._started = threading.Event()
        self._released = threading.Event()
        self._write = database.write_for((), self._wait)

    def _wait(self, tx: Transaction) -> None:
        self._started.set()
        assert self._released.wait(20)

    async def started(self) -> Held:
        """Return once the writer is busy."""
        assert await asyncio.to_thread(self._started.wait, 20)
        return self

    async def release(self) -> None:
        """Let the writer go on."""
        self._released.set()
        await self._write
