"""PostgreSQL behind the store: one writing connection, two reading ones, and one for upkeep."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar

import psycopg

from happy_light import clock, threads
from happy_light.config import PostgresUrl
from happy_light.errors import OperatorError, ServiceUnavailable
from happy_light.store.engine import DiskUsage
from happy_light.store.job_thread import JobThread
from happy_light.store.postgres.connection import SCHEMA, PostgresConnection
from happy_light.store.postgres.dialect import DIALECT
from happy_light.store.postgres.schema import create_or_migrate
from happy_light.store.postgres.writer import PostgresWriter
from happy_light.store.transaction import ReadTransaction, Transaction

log = logging.getLogger(__name__)

R = TypeVar("R")

READERS: Final = 2
KEPT: Final = 10 * 60_000  # ms that the outbox keeps an update
_WRITERS_KEPT: Final = 30 * 86_400_000  # ms that the row of a process stays after its last write
_TIDY_EVERY: Final = 15.0  # s
_TIDY_BATCH: Final = 5_000  # rows
_TIDY: Final = (
    "DELETE FROM updates WHERE (account_id, seq) IN (SELECT account_id, seq FROM updates WHERE created_at < ? "
    "ORDER BY created_at LIMIT ?)"
)


class PostgresReader:
    """A reading connection, as the read queue uses it."""

    def __init__(self, url: str, name: str) -> None:
        self._connection = PostgresConnection(url, readonly=True)
        self._thread = JobThread(name)
        self._tx = ReadTransaction(self._connection, DIALECT)
        self.submit = self._thread.submit
        self.finish_jobs = self._thread.finish_jobs

    def read(self, operation: Callable[[ReadTransaction], R]) -> R:
        """Run `operation`, once more on a new connection if it is lost. Raises what it means to a client."""
        return self._connection.run(lambda: operation(self._tx))

    def close(self) -> None:
        """Disconnect and end the thread; the jobs must be done."""
        self._thread.submit(self._connection.close)
        self._thread.stop()


class PostgresEngine:
    """The schema happy_light of the database at `url`."""

    dialect = DIALECT
    shared = True

    def __init__(self, url: PostgresUrl, outbox: bool = True) -> None:
        """`outbox`: keep updates for other processes, which a server that is the only one need not do."""
        self.url = url
        self._outbox = outbox
        self._leases: set[str] = set()
        self._tidying: asyncio.Task[None] | None = None

    async def open(self) -> tuple[PostgresWriter, list[PostgresReader]]:
        """Create or migrate the schema and connect. Raises OperatorError if the database cannot be used."""
        await threads.run(create_or_migrate, self.url)
        self._writer = PostgresWriter(self.url.text, self._outbox)
        self._readers = [PostgresReader(self.url.text, f"reader-{number}") for number in range(READERS)]
        self._upkeep = PostgresConnection(self.url.text, readonly=False)
        self._upkeep_thread = JobThread("upkeep")
        try:
            await self._run(self._upkeep.ensure)
        except ServiceUnavailable:
            await self.close()
            raise OperatorError(f"The database {self.url} cannot be reached.") from None
        self._tidying = asyncio.create_task(self._tidy_regularly())
        return self._writer, self._readers

    async def close(self) -> None:
        """Finish what waits and disconnect."""
        if self._tidying is not None:
            self._tidying.cancel()
        connections: list[PostgresWriter | PostgresReader] = [self._writer, *self._readers]
        for connection in connections:
            await connection.finish_jobs()
            connection.close()
        self._upkeep_thread.submit(self._upkeep.close)
        self._upkeep_thread.stop()

    @contextlib.asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[bool]:
        """Hold an advisory lock of the database, which PostgreSQL gives back when this process ends."""
        key = f"{SCHEMA}:{name}"
        granted = name not in self._leases and await self._run(lambda: self._try_lock(key))
        if not granted:
            yield False
            return
        self._leases.add(name)
        try:
            yield True
        finally:
            self._leases.discard(name)
            self._upkeep_thread.submit(lambda: self._unlock(key))

    def shrink(self, tx: Transaction) -> int:
        """Return 0: PostgreSQL uses free space again by itself."""
        return 0

    async def check(self) -> None:
        """Look at nothing: the queries of Database.check say whether PostgreSQL works."""

    def disk_usage(self, tx: ReadTransaction) -> DiskUsage:
        """Return the size of the tables with their indexes; PostgreSQL's log belongs to the whole server."""
        row = tx.fetch_one(
            "SELECT CAST(coalesce(sum(pg_total_relation_size(oid)), 0) AS bigint) FROM pg_class "
            "WHERE relnamespace = to_regnamespace(?) AND relkind = 'r'",
            (SCHEMA,),
        )
        assert row is not None
        return DiskUsage(row[0], 0, 0)

    # ------------------------------------------------------------------------------ the upkeep thread
    async def _run(self, job: Callable[[], R]) -> R:
        """Run `job` on the thread of the connection for upkeep. Raises what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def resolve(result: R | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            try:
                result, error = job(), None
            except Exception as raised:
                result, error = None, raised
            loop.call_soon_threadsafe(resolve, result, error)

        self._upkeep_thread.submit(run)
        return await future

    def _try_lock(self, key: str) -> bool:
        sql = "SELECT pg_try_advisory_lock(hashtextextended(?, 0))"
        return bool(self._upkeep.run(lambda: self._upkeep.execute(sql, (key,)).fetchone()[0]))

    def _unlock(self, key: str) -> None:
        with contextlib.suppress(psycopg.Error):  # the lock went with the connection
            if not self._upkeep.lost:
                self._upkeep.execute("SELECT pg_advisory_unlock(hashtextextended(?, 0))", (key,))

    async def _tidy_regularly(self) -> None:
        """Delete old updates from the outbox, in one process at a time."""
        while True:
            await asyncio.sleep(_TIDY_EVERY)
            try:
                async with self.lease("outbox") as granted:
                    more = granted
                    while more:
                        more = await self._run(self._tidy)
            except ServiceUnavailable as error:
                log.error("the outbox is not tidied: %s", error)
            except Exception:
                log.exception("the outbox is not tidied")

    def _tidy(self) -> bool:
        """Delete some old rows. Return whether there may be more."""
        now = clock.now_ms()

        def delete() -> int:
            self._upkeep.execute("DELETE FROM writers WHERE written_at < ?", (now - _WRITERS_KEPT,))
            return self._upkeep.execute(_TIDY, (now - KEPT, _TIDY_BATCH)).rowcount

        return self._upkeep.run(delete) == _TIDY_BATCH
