"""A SQLite connection and the threads it is used on.

aiosqlite opens, configures and closes the connection, and what it does there never blocks the event loop. An
operation is many small statements, and passing each of them to a thread and back costs more than most of them take.
So an operation runs whole on a thread of our own: aiosqlite has no public way to run a function on its thread, but
`aiosqlite.Connection` takes the function that connects, and that is where the connection is kept for our thread.
The two threads never use it at the same time: aiosqlite's is idle from the end of `open` until `close`, which comes
after the last job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

import aiosqlite

from happy_light.store.job_thread import JobThread

_STATEMENTS = 256  # prepared statements that a connection keeps
_ROWS = 64  # rows that aiosqlite takes at once


class SqliteConnection:
    """An open connection; `raw` is for jobs on its thread."""

    def __init__(self, raw: sqlite3.Connection, handle: aiosqlite.Connection, name: str) -> None:
        self.raw = raw
        self._handle = handle
        self._thread = JobThread(name)

    @classmethod
    async def open(cls, path: Path, name: str, pragmas: Iterable[str], readonly: bool = False) -> SqliteConnection:
        """Connect and run the pragmas. Raises sqlite3.Error, and leaves nothing open then."""
        opened: list[sqlite3.Connection] = []

        def connect() -> sqlite3.Connection:
            mode = "ro" if readonly else "rw"
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None,
                cached_statements=_STATEMENTS, check_same_thread=False,
            )  # fmt: skip
            opened.append(connection)
            return connection

        handle = await aiosqlite.Connection(connect, _ROWS)
        try:
            for pragma in pragmas:
                await handle.execute_fetchall(pragma)
        except BaseException:
            await handle.close()
            raise
        return cls(opened[0], handle, name)

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job`, which must not raise, after the jobs submitted before. Called on any thread."""
        self._thread.submit(job)

    async def execute(self, sql: str) -> None:
        """Run one statement while no job runs. Raises sqlite3.Error."""
        await self._handle.execute_fetchall(sql)

    async def finish_jobs(self) -> None:
        """Wait until the jobs that were submitted are done; none may follow."""
        await self._thread.finish_jobs()

    async def close(self) -> None:
        """Disconnect and end the threads. The jobs must be done."""
        self._thread.stop()
        await self._handle.close()
