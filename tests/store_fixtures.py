"""A database for tests of the store. Every test that uses it runs twice: on SQLite and on PostgreSQL.

A test module says `pytest_plugins = ["tests.service_fixtures", "tests.store_fixtures"]`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happy_light.config import postgres_url
from happy_light.store import Database, SqliteEngine
from happy_light.store.postgres.engine import PostgresEngine
from happy_light.store.postgres.writer import PostgresWriter
from tests.stores import Heard, NewEngine, add_account, listening_bus


@pytest.fixture(params=["sqlite", "postgres"])
def engine_name(request: pytest.FixtureRequest) -> str:
    """Name the engine; every test of this file runs once for each."""
    return str(request.param)


@pytest.fixture
def new_engine(
    engine_name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> NewEngine:
    """Connect to the test's database. Its groups are as large as SQLite's, however long they take."""
    if engine_name == "sqlite":
        return lambda: SqliteEngine(tmp_path / "db")
    monkeypatch.setattr(PostgresWriter, "group_max", 500)
    monkeypatch.setattr(PostgresWriter, "group_seconds", math.inf)
    url = postgres_url.parse(request.getfixturevalue("database_url"))
    return lambda: PostgresEngine(url)


@pytest.fixture
def heard() -> Heard:
    """Return the events that the bus delivered."""
    return []


@pytest.fixture
async def database(new_engine: NewEngine, heard: Heard) -> AsyncIterator[Database]:
    """Return an open database with the accounts a and b."""
    database = Database(new_engine(), listening_bus(heard))
    await database.open()
    await database.write_for((), add_account, "a")
    await database.write_for((), add_account, "b")
    yield database
    await database.close()
