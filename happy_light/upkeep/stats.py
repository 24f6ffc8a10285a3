"""What a server holds and does, in numbers that cost next to nothing: no table is counted."""

from __future__ import annotations

import asyncio
import time

from happy_light import __version__
from happy_light.counters import BOUNDS, Timing, client_type
from happy_light.house import House
from happy_light.rooms import Peer
from happy_light.store import SCHEMA_VERSION, Rx, Store
from happy_light.upkeep.accounts import size_of
from happy_light.upkeep.desk import Desk, Nothing, Request, Tell
from happy_light.wire import Out

TABLES = ("accounts", "sessions", "messages", "machines")


class Disk(Out):
    """Bytes: the database, its write-ahead log, what of the database is free, and the two folders of files."""

    database: int
    log: int
    free: int
    files: int = 0
    attachments: int = 0


class Route(Out):
    """Requests since the start with one method, route and status, and how long they took (s, all together)."""

    method: str
    route: str
    status: int
    count: int
    seconds: float


class Writer(Out):
    """Writes since the start. `commit_ms_p99` is the upper bound of the bucket that it falls into."""

    waiting: int
    writes: int
    commits: int
    commit_ms_mean: float
    commit_ms_p99: float


class Running(Out):
    """What only a running server can say. `uptime` in s."""

    uptime: float
    sockets: dict[str, int]
    requests: list[Route]
    events: dict[str, int]
    calls: dict[str, int]
    writer: Writer


class Stats(Out):
    """`stats`; `server` is null while none runs."""

    version: str
    schema: int
    records: dict[str, int]
    bytes: Disk
    server: Running | None = None


def records(rx: Rx) -> dict[str, int]:
    """How many rows the tables have."""
    free: dict[str, int] = dict(rx.all("SELECT name, free FROM free_rows"))
    return {name: rx.all(f"SELECT ifnull(max(rowid), 0) FROM {name}")[0][0] - free[name] for name in TABLES}


def disk(rx: Rx, store: Store) -> Disk:
    """The database's sizes."""
    (size,), (pages,) = rx.all("PRAGMA page_size")[0], rx.all("PRAGMA page_count")[0]
    (free,) = rx.all("PRAGMA freelist_count")[0]
    wal = store.path.with_name(store.path.name + "-wal")
    return Disk(size * pages, wal.stat().st_size if wal.exists() else 0, size * free)


def sockets(house: House) -> dict[tuple[str, str], list[Peer]]:
    """The connected sockets by type and by what client they say they are."""
    found: dict[tuple[str, str], list[Peer]] = {}
    for peer in house.rooms.everyone():
        found.setdefault((f"{peer.kind}-scoped", client_type(peer.client)), []).append(peer)
    return found


def percentile(timing: Timing, part: float) -> float:
    """The upper bound (s) of the bucket that this part of all lies below."""
    below = 0
    for bound, count in zip((*BOUNDS, BOUNDS[-1]), timing.buckets, strict=True):
        below += count
        if below and below >= part * timing.count:
            return bound
    return 0.0


def running(house: House) -> Running:
    """The server's own numbers."""
    counters, commits = house.counters, house.store.commits
    by_type = dict.fromkeys(("user-scoped", "session-scoped", "machine-scoped"), 0)
    for (kind, _), peers in sockets(house).items():
        by_type[kind] += len(peers)
    return Running(
        uptime=round(time.time() - counters.started, 1),
        sockets=by_type,
        requests=[
            Route(method, route, status, timing.count, round(timing.seconds, 6))
            for (method, route, status), timing in _by_route(house).items()
        ],
        events=dict(counters.events),
        calls=dict(counters.calls),
        writer=Writer(
            waiting=house.store.waiting,
            writes=house.store.writes,
            commits=commits.count,
            commit_ms_mean=round(1000 * commits.seconds / commits.count, 3) if commits.count else 0.0,
            commit_ms_p99=1000 * percentile(commits, 0.99),
        ),
    )


def _by_route(house: House) -> dict[tuple[str, str, int], Timing]:
    """Requests whatever the client was."""
    merged: dict[tuple[str, str, int], Timing] = {}
    for (method, route, status, _), timing in house.counters.requests.items():
        total = merged.setdefault((method, route, status), Timing())
        total.buckets = [a + b for a, b in zip(total.buckets, timing.buckets, strict=True)]
        total.seconds += timing.seconds
    return merged


async def do_stats(desk: Desk, what: Nothing, tell: Tell) -> Stats:
    store, settings = desk.store, desk.settings
    stats = Stats(__version__, SCHEMA_VERSION, await store.read(records), await store.read(disk, store))
    stats.bytes.files = await asyncio.to_thread(size_of, settings.files)
    stats.bytes.attachments = await asyncio.to_thread(size_of, settings.attachments)
    if desk.house is not None:
        stats.server = running(desk.house)
    return stats


requests = {"stats": Request(Nothing, Stats, do_stats)}
