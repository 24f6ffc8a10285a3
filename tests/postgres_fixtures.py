"""A database in PostgreSQL without a server, and another process at it, for the tests of the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest

from happy_light.config import postgres_url
from happy_light.store import Database
from happy_light.store.postgres.engine import PostgresEngine
from tests.stores import Heard, add_account, listening_bus


@pytest.fixture
def heard() -> Heard:
    """Return the events that the bus delivered."""
    return []


@contextlib.asynccontextmanager
async def opened(url: str, heard: Heard, outbox: bool = True) -> AsyncIterator[Database]:
    """Return an open database."""
    database = Database(PostgresEngine(postgres_url.parse(url), outbox), listening_bus(heard))
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(database_url: str, heard: Heard) -> AsyncIterator[Database]:
    """Return an open database with the accounts a and b."""
    async with opened(database_url, heard) as database:
        await database.write_for((), add_account, "a")
        await database.write_for((), add_account, "b")
        yield database


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Another process at the same database."""
    with psycopg.connect(database_url, autocommit=True, options="-c search_path=happy_light") as connection:
        yield connection


def cut(other: psycopg.Connection[Any]) -> None:
    """End every other connection to the database."""
    other.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
