"""Measure a server of one, two and four processes on a PostgreSQL and a Redis of its own: `make bench-scale`.

    python -m tests.bench.scale [--seconds 4] [--processes 1 2 4] [--rounds 1]

Prints the tables of docs/scale.md, which `make bench-scale` writes there. Processes, services and load share one
computer, so rates say what all of it carries together; CPU per operation says what each part needs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from tests.bench import load, needs
from tests.bench.__main__ import calibration
from tests.bench.place import ACCOUNTS, Place, Used, memory_of
from tests.bench.scenarios import TEXT, Row, messages_body, percentile
from tests.hardness.several import Several
from tests.redis_services import Redis
from tests.services import Postgres

QUIET = {"METRICS_ENABLED": "false", "LOG_LEVEL": "warning", "HAPPY_SERVER_LIGHT_PUSH": "false"}
SOCKETS = 1_000  # idle ones, when memory is measured


def _close(*sockets: load.Socket | load.Http) -> None:
    for socket in sockets:
        socket.close()


async def repeat(place: Place, workers: int, seconds: float, operation: Callable[[int], Awaitable[int]]) -> Row:
    """Let workers repeat `operation(worker)`, which returns for how many it counts."""
    latencies: list[float] = []
    operations = 0
    before, began = Used(place), time.monotonic()
    end = began + seconds

    async def work(worker: int) -> None:
        nonlocal operations
        while (started := time.monotonic()) < end:
            done = await operation(worker)
            operations += done
            latencies.append(time.monotonic() - started)

    await asyncio.gather(*(work(worker) for worker in range(workers)))
    took = time.monotonic() - began
    return {
        "per_s": operations / took,
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        **Used(place).since(before, operations),
    }


# --------------------------------------------------------------------------------------- what is measured
async def writes(place: Place, seconds: float) -> Row:
    """Measure messages over HTTP, one a request, 32 clients with an account each, over all processes."""
    clients = [await load.Http.open(place.url(number)) for number in range(ACCOUNTS)]
    numbers = iter(range(1_000_000_000))

    async def one(worker: int) -> int:
        path = f"/v3/sessions/{place.sessions[worker]}/messages"
        await clients[worker].request("POST", path, messages_body(next(numbers), 1), place.tokens[worker])
        return 1

    row = await repeat(place, ACCOUNTS, seconds, one)
    _close(*clients)
    return row


async def deliveries(place: Place, seconds: float) -> Row:
    """Measure updates that reach sockets: 20 of each account, over all processes, for every message of its session."""
    accounts = range(16)
    missing = [0] * 16
    everybody: list[asyncio.Future[None]] = [asyncio.get_running_loop().create_future() for _ in accounts]

    def listener(account: int) -> Callable[[bytes], None]:
        def hear(_: bytes) -> None:
            missing[account] -= 1
            if missing[account] == 0:
                everybody[account].set_result(None)

        return hear

    phones = [await place.phone(each, number, listener(each)) for each in accounts for number in range(20)]
    agents = [await place.agent(account, account) for account in accounts]
    events = [place.message(account, TEXT) for account in accounts]

    async def one(account: int) -> int:
        everybody[account] = asyncio.get_running_loop().create_future()
        missing[account] = 4 * 20
        for _ in range(4):
            agents[account].call(events[account])
        await everybody[account]
        return 4 * 20

    row = await repeat(place, 16, seconds, one)
    _close(*phones, *agents)
    return row


async def across(place: Place, seconds: float, rate: int) -> Row:
    """Measure from emitting a message on one process until a socket on another has it; `rate` messages a second."""
    sent: dict[int, float] = {}
    latencies: list[float] = []

    def hear(packet: bytes) -> None:
        now = time.monotonic()
        latencies.append(now - sent.pop(int(packet.split(b"#", 2)[1])))

    pairs = [(await place.agent(each, each), await place.phone(each, each + 1, hear)) for each in range(16)]
    began, count = time.monotonic(), round(rate * seconds)
    for number in range(count):
        await asyncio.sleep(began + number / rate - time.monotonic())
        account = number % len(pairs)
        sent[number] = time.monotonic()
        pairs[account][0].call(place.message(account, f"#{number}#{TEXT[:860]}"))
    for _ in range(500):
        if not sent:
            break
        await asyncio.sleep(0.01)
    assert not sent, f"{len(sent)} messages were not delivered"
    _close(*(socket for pair in pairs for socket in pair))
    return {"p50": percentile(latencies, 0.5), "p99": percentile(latencies, 0.99), "max": max(latencies) * 1000}


async def calls(place: Place, seconds: float, workers: int) -> Row:
    """Measure calls from a phone on one process to a daemon on another, that answers at once."""
    daemons: list[load.Socket] = []

    def answering(index: int) -> Callable[[bytes], None]:
        def hear(packet: bytes) -> None:
            if b"rpc-request" in packet[:40]:
                daemons[index].answer(packet, b'["result"]')

        return hear

    phones = []
    for index in range(min(workers, 16)):
        auth = {"token": place.tokens[index], "clientType": "machine-scoped", "machineId": "m"}
        daemons.append(await load.Socket.open(place.url(index + 1), auth, answering(index)))
        await daemons[index].call(b'["rpc-register",{"method":"m:x"}]')
        phones.append(await place.phone(index, index))

    async def one(worker: int) -> int:
        answer = await phones[worker % len(phones)].call(b'["rpc-call",{"method":"m:x","params":"p"}]')
        assert b"result" in answer, answer
        return 1

    row = await repeat(place, workers, seconds, one)
    _close(*phones, *daemons)
    return row


async def uploads(place: Place, seconds: float) -> Row:
    """Measure attachments of 1 MB that are sent to the processes themselves, by 4 clients. `per_s`: MB."""
    clients = [await load.Http.open(place.url(number)) for number in range(4)]
    paths: list[list[str]] = []
    for account in range(4):
        path = f"/v1/sessions/{place.sessions[account]}/attachments/request-upload"
        body = b'{"filename":"f","size":1000000}'
        answers = [await clients[account].request("POST", path, body, place.tokens[account]) for _ in range(50)]
        paths.append([str(answer).split('uploadUrl":"')[1].split('"')[0] for answer in answers])
    content = os.urandom(1_000_000)

    async def one(worker: int) -> int:
        path = "/" + paths[worker].pop().split("/", 3)[3] if paths[worker] else ""
        if not path:
            await asyncio.sleep(seconds)
            return 0
        await clients[worker].put(path, content, place.tokens[worker])
        return 1

    row = await repeat(place, 4, seconds, one)
    _close(*clients)
    return row


async def beats(place: Place, seconds: float) -> Row:
    """Measure heartbeats of sessions, 400 a second, each announced to a phone on another process."""
    heard = 0

    def hear(_: bytes) -> None:
        nonlocal heard
        heard += 1

    pairs = [(await place.agent(each, each), await place.phone(each, each + 1, hear)) for each in range(ACCOUNTS)]
    count = round(400 * seconds)
    before, began = Used(place), time.monotonic()
    for number in range(count):
        await asyncio.sleep(began + number / 400 - time.monotonic())
        account = number % len(pairs)
        session = place.sessions[account].encode()
        event = b'42["session-alive",{"sid":"%b","time":%d,"thinking":false}]' % (session, time.time() * 1000)
        pairs[account][0].say(event)
    await asyncio.sleep(0.5)
    row = Used(place).since(before, count)
    _close(*(socket for pair in pairs for socket in pair))
    return {**row, "heard": heard / count}


async def reads(place: Place, seconds: float) -> Row:
    """Measure requests for the last 50 messages of a session, 16 clients."""
    clients = [await load.Http.open(place.url(number)) for number in range(16)]

    async def one(worker: int) -> int:
        path = f"/v3/sessions/{place.sessions[worker]}/messages?limit=50&before_seq=1000000000"
        await clients[worker].request("GET", path, b"", place.tokens[worker])
        return 1

    row = await repeat(place, 16, seconds, one)
    _close(*clients)
    return row


async def sockets(place: Place, _: float) -> Row:
    """Measure what idle sockets weigh, two of each account, and what a process weighs without them."""
    tokens = [await load.sign_in(place.url(number)) for number in range(SOCKETS // 2)]
    processes = place.server.processes
    before, memory = Used(place), [memory_of(process.pid) for process in processes]
    latencies: list[float] = []
    opened: list[load.Socket] = []

    async def connect(worker: int) -> None:
        for number in range(worker, SOCKETS, 8):
            began = time.monotonic()
            auth = {"token": tokens[number // 2], "clientType": "user-scoped"}
            opened.append(await load.Socket.open(place.url(number), auth))
            latencies.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(connect(worker) for worker in range(8)))
    took, after = time.monotonic() - began, Used(place)
    grown = sum(memory_of(process.pid) for process in processes) - sum(memory)
    await asyncio.sleep(5)
    idle = Used(place).since(after, 5 * SOCKETS)
    _close(*opened)
    return {
        "process_mb": statistics.mean(memory),
        "socket_kb": grown / SOCKETS * 1000,
        "redis_kb": (after.redis_memory - before.redis_memory) / SOCKETS / 1000,
        "per_s": SOCKETS / took,
        "p99": percentile(latencies, 0.99),
        **after.since(before, SOCKETS),
        **{f"idle_{name}": figure for name, figure in idle.items()},
    }


async def stored(place: Place) -> Row:
    """Return the bytes that a message takes in the tables, with its indexes, and its row of the outbox."""
    url = place.server.environ["DATABASE_URL"]
    with psycopg.connect(url, options="-c search_path=happy_light") as connection:
        row = connection.execute(
            "SELECT pg_total_relation_size('messages')::float8, (SELECT count(*) FROM messages)::float8,"
            " pg_total_relation_size('updates')::float8, (SELECT count(*) FROM updates)::float8"
        ).fetchone()
    assert row is not None
    return {"message": row[0] / row[1], "update": row[2] / max(row[3], 1)}


async def once(count: int, seconds: float) -> dict[str, Row]:
    """Measure a server of so many processes."""
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres, Redis() as redis_server:
        server = Several(Path(folder) / "data", count, postgres, redis_server, **QUIET)
        try:
            place = Place(server, postgres, redis_server)
            await place.populate()
            rows = {"sockets": await sockets(place, seconds)}
            await asyncio.sleep(1)
            rows["50"] = await across(place, seconds, 50)
            rows["200"] = await across(place, seconds, 200)
            rows["call"] = await calls(place, seconds, 1)
            rows["calls"] = await calls(place, seconds, 32)
            rows["writes"] = await writes(place, seconds)
            rows["deliveries"] = await deliveries(place, seconds)
            rows["beats"] = await beats(place, seconds)
            rows["reads"] = await reads(place, seconds)
            rows["uploads"] = await uploads(place, seconds)
            rows["stored"] = await stored(place)
            return rows
        finally:
            server.stop()


# --------------------------------------------------------------------------------------------- the tables
ROWS: list[tuple[str, str, tuple[str, ...]]] = [
    ("messages over HTTP, one a request, 32 clients: writes/s", "writes", ("per_s",)),
    ("the same: p50, p99 in ms", "writes", ("p50", "p99")),
    ("deliveries/s: 16 accounts, 20 sockets each over all processes", "deliveries", ("per_s",)),
    ("the last 50 messages of a session, 16 clients: reads/s", "reads", ("per_s",)),
    ("a message until a socket on another process has it, 50/s: p50, p99, max in ms", "50", ("p50", "p99", "max")),
    ("the same, 200/s", "200", ("p50", "p99", "max")),
    ("a call to a daemon on another process, one at a time: p50, p99 in ms", "call", ("p50", "p99")),
    ("the same, 32 under way: calls/s", "calls", ("per_s",)),
    ("attachments of 1 MB sent to the processes: MB/s", "uploads", ("per_s",)),
    ("websockets made per second, 8 at a time", "sockets", ("per_s",)),
    ("memory of a process without sockets: MB (PSS)", "sockets", ("process_mb",)),
]
COSTS: list[tuple[str, str, tuple[str, ...]]] = [
    ("write: CPU of processes, PostgreSQL, Redis in µs", "writes", ("server_us", "postgres_us", "redis_us")),
    ("write: bytes of write-ahead log; bytes in and out of Redis", "writes", ("wal", "redis_bytes")),
    ("write: bytes kept in the table of messages; in the outbox, for ten minutes", "stored", ("message", "update")),
    ("delivery (a 20th of a message): the same three", "deliveries", ("server_us", "postgres_us", "redis_us")),
    ("heartbeat of a session: the same three", "beats", ("server_us", "postgres_us", "redis_us")),
    ("read of 50 messages: the same three", "reads", ("server_us", "postgres_us", "redis_us")),
    ("call: the same three", "calls", ("server_us", "postgres_us", "redis_us")),
    ("new websocket: the same three", "sockets", ("server_us", "postgres_us", "redis_us")),
    ("idle socket: kB in its process, kB in Redis", "sockets", ("socket_kb", "redis_kb")),
    ("idle socket, in a second: the same three", "sockets", ("idle_server_us", "idle_postgres_us", "idle_redis_us")),
    ("attachment of 1 MB: CPU of processes in µs", "uploads", ("server_us",)),
]


def cell(row: Row, keys: tuple[str, ...]) -> str:
    """Return some figures of a row."""
    return ", ".join(f"{row[key]:,.{0 if abs(row[key]) >= 100 else 1 if abs(row[key]) >= 10 else 2}f}" for key in keys)


def table(rows: list[tuple[str, str, tuple[str, ...]]], measured: dict[int, dict[str, Row]]) -> Iterator[str]:
    """Return the lines of a table in Markdown."""
    yield "| | " + " | ".join(f"{count} process{'es' * (count > 1)}" for count in measured) + " |"
    yield "|---|" + "---|" * len(measured)
    for text, name, keys in rows:
        yield f"| {text} | " + " | ".join(cell(each[name], keys) for each in measured.values()) + " |"


def flush() -> float:
    """Return the ms (p50) that a write of 8 kB needs until it is on the disk of the temporary folder."""
    took = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(bytes(8192))
            file.flush()
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append(time.monotonic() - began)
    return statistics.median(took) * 1000


def medians(rounds: list[dict[str, Row]]) -> dict[str, Row]:
    """Return the median of each figure."""
    return {
        name: {key: statistics.median(each[name][key] for each in rounds) for key in row}
        for name, row in rounds[0].items()
    }


def main() -> None:
    """Parse the arguments, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=1, help="of which the medians are printed")
    arguments = parser.parse_args()
    speed, flushed, others = calibration(), flush(), os.getloadavg()[0]
    rounds = [
        {count: asyncio.run(once(count, arguments.seconds)) for count in arguments.processes}
        for _ in range(arguments.rounds)
    ]
    measured = {count: medians([each[count] for each in rounds]) for count in arguments.processes}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(
        f"Measured on {datetime.now(UTC):%d %B %Y} at commit {commit} with Python {platform.python_version()} on"
        f" {os.cpu_count()} cores (SHA-256 of 128 MiB takes {speed:.0f} ms), processes, services and load on the same"
        f" computer, whose disk needs {flushed:.1f} ms (p50) to flush 8 kB; load average {others:.1f} before;"
        f" {arguments.seconds:g} s a figure, medians of {arguments.rounds}.\n"
    )
    print("\n".join(table(ROWS, measured)), end="\n\n")
    print("\n".join(table(COSTS, measured)), end="\n\n")
    print("\n".join(needs.table(measured[max(measured)])))


if __name__ == "__main__":
    main()
