"""aiosqlite owns a thread for each connection; functions are put on it here, since it has no public way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import aiosqlite

R = TypeVar("R")


def ship(connection: aiosqlite.Connection, job: Callable[[], Any], future: asyncio.Future[Any] | None = None) -> None:
    """Runs `job` on the connection's thread, after what was put there before."""
    connection._tx.put_nowait((future, job))


def on_thread(connection: aiosqlite.Connection, job: Callable[[], R]) -> asyncio.Future[R]:
    """As `ship`, and the result comes back."""
    future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
    ship(connection, job, future)
    return future
