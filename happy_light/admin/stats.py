"""What a server holds and does, in numbers.

GET    /admin/api/stats   records, sizes, and what the running server counts
"""

from __future__ import annotations

import time

from happy_light import __version__, threads
from happy_light.blobs import Blobs
from happy_light.clients import Client
from happy_light.context import ServerContext
from happy_light.counters import BOUNDS, Timing, client_type
from happy_light.domains.backup_state import BackupResult
from happy_light.http.request import Request
from happy_light.http.router import Route
from happy_light.store import SCHEMA_VERSION, Database, ReadTransaction
from happy_light.wire import Outgoing

TABLES = ("accounts", "sessions", "messages", "machines", "projects")


class Disk(Outgoing):
    """Bytes of the database, of its write-ahead log, of free pages in it, of public files, and of encrypted ones."""

    database: int
    log: int
    free: int
    files: int = 0
    attachments: int = 0


class RouteStats(Outgoing):
    """Requests since the start by method, route and status; `seconds` is their time together."""

    method: str
    route: str
    status: int
    count: int
    seconds: float


class Writer(Outgoing):
    """Writes since the start. `commit_ms_p99` is the upper bound of the histogram's bucket."""

    waiting: int
    writes: int
    commits: int
    commit_ms_mean: float
    commit_ms_p99: float


class Running(Outgoing):
    """What only a running server counts. `uptime` in s."""

    uptime: float
    sockets: dict[str, int]
    requests: list[RouteStats]
    events: dict[str, int]
    calls: dict[str, int]
    writer: Writer
    backup: BackupResult | None = None
    """The last scheduled backup."""


class Stats(Outgoing):
    """GET /admin/api/stats; `server` is null while none runs."""

    version: str
    schema: int
    records: dict[str, int]
    bytes: Disk
    server: Running | None = None


def disk(tx: ReadTransaction, database: Database) -> Disk:
    """Return the sizes of the database."""
    usage = database.disk_usage(tx)
    return Disk(usage.database, usage.log, usage.free)


def sockets(context: ServerContext) -> dict[tuple[str, str], list[Client]]:
    """Return the connected sockets by type and client type."""
    found: dict[tuple[str, str], list[Client]] = {}
    for client in context.clients.local:
        found.setdefault((f"{client.kind}-scoped", client_type(client.happy_client)), []).append(client)
    return found


def percentile(timing: Timing, part: float) -> float:
    """Return the upper bound (s) of the bucket below which this part of all durations lies."""
    below = 0
    for bound, count in zip((*BOUNDS, BOUNDS[-1]), timing.buckets, strict=True):
        below += count
        if below and below >= part * timing.count:
            return bound
    return 0.0


def running(context: ServerContext) -> Running:
    """Return the numbers of the running server."""
    counters, commits = context.counters, context.database.commits
    by_type = dict.fromkeys(("user-scoped", "session-scoped", "machine-scoped"), 0)
    for (kind, _), clients in sockets(context).items():
        by_type[kind] += len(clients)
    return Running(
        uptime=round(time.time() - counters.started, 1),
        sockets=by_type,
        requests=[
            RouteStats(method, route, status, timing.count, round(timing.seconds, 6))
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
        backup=context.backups.last,
    )


def _by_route(context: ServerContext) -> dict[tuple[str, str, int], Timing]:
    """Return the requests of all clients together."""
    merged: dict[tuple[str, str, int], Timing] = {}
    for (method, route, status, _), timing in context.counters.requests.items():
        total = merged.setdefault((method, route, status), Timing())
        total.buckets = [a + b for a, b in zip(total.buckets, timing.buckets, strict=True)]
        total.seconds += timing.seconds
    return merged


def _stored(blobs: Blobs) -> tuple[int, int]:
    """Return the bytes of public and of encrypted files. Raises OSError."""
    public = encrypted = 0
    for files in blobs.walk_owners():
        if files.table == "accounts":
            public += files.size
        else:
            encrypted += files.size
    return public, encrypted


# --------------------------------------------------------------------------------------- endpoints
async def get(request: Request[None, None]) -> Stats:
    """Show what the server holds and does."""
    context = request.context
    database = context.database
    stats = Stats(__version__, SCHEMA_VERSION, await database.row_counts(TABLES), await database.read(disk, database))
    stats.bytes.files, stats.bytes.attachments = await threads.run(_stored, context.blobs)
    if context.serving:
        stats.server = running(context)
    return stats


routes = [Route("GET", "/admin/api/stats", get, answer=Stats, public=True)]
