"""A SQLite connection and the threads it is used on.

aiosqlite opens, configures and closes the connection, and what it does there never blocks the event loop. An
operation is many small statements, and passing each of them to a thread and back costs more than most of them take.
So an operation runs whole on a thread of our own: aiosqlite has no public way to run a function on its thread, but
`aiosqlite.Connection` takes the function that connects, and that is where the connection is kept for our thread.
The two threads never use it at the same time: aiosqlite's is idle from the end of `open` until `close`, which comes
after the last job. A ThreadPoolExecutor of one thread would do too, but takes 30 µs more for each job.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

import aiosqlite

_STATEMENTS = 256  # prepared statements that a connection keeps
_ROWS = 64  # rows that aiosqlite takes at once


class SqliteConnection:
    """An open connection; `raw` is for jobs on its thread."""

    def __init__(self, raw: sqlite3.Connection, handle: aiosqlite.Connection, name: str) -> None:
        self.raw = raw
        self._handle = handle
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=_run_jobs, args=(self._jobs,), name=name).start()

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
        self._jobs.put(job)

    async def execute(self, sql: str) -> None:
        """Run one statement while no job runs. Raises sqlite3.Error."""
        await self._handle.execute_fetchall(sql)

    async def finish_jobs(self) -> None:
        """Wait until the jobs that were submitted are done; none may follow."""
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()
        self._jobs.put(lambda: _notify(loop, finished))
        await finished.wait()

    async def close(self) -> None:
        """Disconnect and end the threads. The jobs must be done."""
        self._jobs.put(None)
        await self._handle.close()


def _notify(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)


def _run_jobs(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
