"""What a server holds and does, in numbers that cost next to nothing: no table is counted."""

from __future__ import annotations

import asyncio
import time

from happy_light import __version__
from happy_light.admin.account_admin import size_of
from happy_light.admin.context import AdminContext, AdminRequest, Nothing, ProgressCallback
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.counters import BOUNDS, Timing, client_type
from happy_light.store import SCHEMA_VERSION, Database, ReadTransaction
from happy_light.wire import Outgoing

TABLES = ("accounts", "sessions", "messages", "machines")


class Disk(Outgoing):
    """Bytes: the database, its write-ahead log, what of the database is free, and the two folders of files."""

    database: int
    log: int
    free: int
    files: int = 0
    attachments: int = 0


class Route(Outgoing):
    """Requests since the start with one method, route and status, and how long they took (s, all together)."""

    method: str
    route: str
    status: int
    count: int
    seconds: float


class Writer(Outgoing):
    """Writes since the start. `commit_ms_p99` is the upper bound of the bucket that it falls into."""

    waiting: int
    writes: int
    commits: int
    commit_ms_mean: float
    commit_ms_p99: float


class Running(Outgoing):
    """What only a running server can say. `uptime` in s."""

    uptime: float
    sockets: dict[str, int]
    requests: list[Route]
    events: dict[str, int]
    calls: dict[str, int]
    writer: Writer


class Stats(Outgoing):
    """`stats`; `server` is null while none runs."""

    version: str
    schema: int
    records: dict[str, int]
    bytes: Disk
    server: Running | None = None


def records(tx: ReadTransaction) -> dict[str, int]:
    """How many rows the tables have."""
    free: dict[str, int] = dict(tx.fetch_all("SELECT name, free FROM free_rows"))
    return {name: tx.fetch_all(f"SELECT ifnull(max(rowid), 0) FROM {name}")[0][0] - free[name] for name in TABLES}


def disk(tx: ReadTransaction, store: Database) -> Disk:
    """The database's sizes."""
    (size,), (pages,) = tx.fetch_all("PRAGMA page_size")[0], tx.fetch_all("PRAGMA page_count")[0]
    (free,) = tx.fetch_all("PRAGMA freelist_count")[0]
    wal = store.path.with_name(store.path.name + "-wal")
    return Disk(size * pages, wal.stat().st_size if wal.exists() else 0, size * free)


def sockets(context: ServerContext) -> dict[tuple[str, str], list[Client]]:
    """The connected sockets by type and by what client they say they are."""
    found: dict[tuple[str, str], list[Client]] = {}
    for client in context.clients.everyone():
        found.setdefault((f"{client.kind}-scoped", client_type(client.happy_client)), []).append(client)
    return found


def percentile(timing: Timing, part: float) -> float:
    """The upper bound (s) of the bucket that this part of all lies below."""
    below = 0
    for bound, count in zip((*BOUNDS, BOUNDS[-1]), timing.buckets, strict=True):
        below += count
        if below and below >= part * timing.count:
            return bound
    return 0.0


def running(context: ServerContext) -> Running:
    """The server's own numbers."""
    counters, commits = context.counters, context.database.commits
    by_type = dict.fromkeys(("user-scoped", "session-scoped", "machine-scoped"), 0)
    for (kind, _), clients in sockets(context).items():
        by_type[kind] += len(clients)
    return Running(
        uptime=round(time.time() - counters.started, 1),
        sockets=by_type,
        requests=[
            Route(method, route, status, timing.count, round(timing.seconds, 6))
            for (method, route, status), timing in _by_route(context).items()
        ],
        events=dict(counters.events),
        calls=dict(counters.calls),
        writer=Writer(
            waiting=context.database.waiting,
            writes=context.database.writes,
            commits=commits.count,
            commit_ms_mean=round(1000 * commits.seconds / commits.count, 3) if commits.count else 0.0,
            commit_ms_p99=1000 * percentile(commits, 0.99),
        ),
    )


def _by_route(context: ServerContext) -> dict[tuple[str, str, int], Timing]:
    """Requests whatever the client was."""
    merged: dict[tuple[str, str, int], Timing] = {}
    for (method, route, status, _), timing in context.counters.requests.items():
        total = merged.setdefault((method, route, status), Timing())
        total.buckets = [a + b for a, b in zip(total.buckets, timing.buckets, strict=True)]
        total.seconds += timing.seconds
    return merged


async def do_stats(admin: AdminContext, what: Nothing, progress: ProgressCallback) -> Stats:
    store, settings = admin.database, admin.settings
    stats = Stats(__version__, SCHEMA_VERSION, await store.read(records), await store.read(disk, store))
    stats.bytes.files = await asyncio.to_thread(size_of, settings.files)
    stats.bytes.attachments = await asyncio.to_thread(size_of, settings.attachments)
    if admin.context is not None:
        stats.server = running(admin.context)
    return stats


requests = {"stats": AdminRequest(Nothing, Stats, do_stats)}
