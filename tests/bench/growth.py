"""Measure a server with very many messages beside one with few: `make bench GROWTH=1`.

    python -m tests.bench --growth [--messages 10000000] [--sessions 100000] [--accounts 1000] [--seconds 2]

The rows are inserted into the file of a stopped server, since nobody wants to wait for so many requests. Lists are
asked for with another query each time, so that each is read and none is answered from memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.bench import load
from tests.bench.scenarios import Row, measure, messages_body, percentile
from tests.bench.servers import OURS, Server

SMALL = (15_000, 150, 1)  # messages, sessions, other accounts of the server that the large one is compared with
CONTENT = "c" * 200
OLD = 200 * 86_400_000  # ms since the last activity of one session in a hundred, which prune deletes
BATCH = 200  # sessions whose rows are inserted in one transaction
PROBE_EVERY = 0.05  # s between two requests while a command runs

Measure = Callable[[], Awaitable[Row]]


class Grown:
    """A server with one account that has most of the rows, and others beside it."""

    def __init__(self, name: str, folder: Path, messages: int, sessions: int, accounts: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.server = Server(name, OURS, folder)
        self.token = asyncio.run(load.sign_in(self.server.url))
        self.session = asyncio.run(load.session(self.server.url, self.token, "first"))
        self.server.stop()
        self.now = int(time.time() * 1000)
        began = time.monotonic()
        self._fill(messages, sessions, accounts)
        self.filled = time.monotonic() - began
        self.size = sum(path.stat().st_size for path in folder.glob("*.sqlite*"))
        self.server.start()

    def _fill(self, messages: int, sessions: int, accounts: int) -> None:
        """Insert the rows: nine sessions of ten are those of the account, the others those of all others."""
        file = sqlite3.connect(self.folder / "happy-server-light.sqlite", isolation_level=None)
        file.execute("PRAGMA synchronous = OFF")
        (owner,) = file.execute("SELECT id FROM accounts").fetchone()
        others = [f"other{number:08d}" for number in range(accounts)]
        file.executemany(
            "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, ?, ?)",
            [(id, id.upper(), self.now, self.now) for id in others],
        )
        each = messages // sessions
        for first in range(0, sessions, BATCH):
            file.execute("BEGIN")
            for number in range(first, min(first + BATCH, sessions)):
                self._insert_session(file, number, others[number // 10 % accounts] if number % 10 == 9 else owner, each)
            file.execute("COMMIT")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.close()
        os.sync()  # else the first write that is measured waits for all of it

    def _insert_session(self, file: sqlite3.Connection, number: int, owner: str, messages: int) -> None:
        id, at = f"cgrown{number:019d}", self.now - (OLD if number % 100 == 50 else 86_400_000 - number)
        file.execute(
            "INSERT INTO sessions (id, account_id, tag, seq, metadata, active, active_at, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?)",
            (id, owner, id, messages, "m" * 600, at, at, at),
        )
        file.executemany(
            "INSERT INTO messages (id, session_id, seq, local_id, content, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(f"m{number:012d}{seq:012d}", id, seq, f"l{seq}", CONTENT, at, at) for seq in range(1, messages + 1)],
        )

    async def operations(self, seconds: float) -> dict[str, Row]:
        """Measure each operation, one at a time."""
        url, token, count = self.server.url, self.token, 0
        http = await load.Http.open(url)
        page = "cgrown" + f"{1:019d}"

        def get(path: str) -> Measure:
            async def one(_: int) -> None:
                nonlocal count
                count += 1
                await http.request("GET", f"{path}&n={count}", b"", token)

            return lambda: measure(self.server, 1, seconds, one)

        async def post(_: int) -> None:
            nonlocal count
            count += 1
            await http.request("POST", f"/v3/sessions/{self.session}/messages", messages_body(count, 1), token)

        async def create(_: int) -> None:
            nonlocal count
            count += 1
            body = json.dumps({"tag": f"new{count}", "metadata": "m"}).encode()
            await http.request("POST", "/v1/sessions", body, token)

        found = {
            "start": {"start_ms": self.server.start_seconds * 1000, "mib": self.server.memory()},
            "POST a message": await measure(self.server, 1, seconds, post),
            "GET first screen": await get("/v1/sessions?a=1")(),
            "GET page of 100": await get(f"/v3/sessions/{page}/messages?after_seq=0&limit=100")(),
            "GET changedSince": await get(f"/v2/sessions?changedSince={self.now}")(),
            "GET page of sessions": await get("/v2/sessions?limit=50")(),
            "POST a session": await measure(self.server, 1, seconds, create),
        }
        http.close()
        return found

    async def beside(self, *command: str) -> Row:
        """Run a command on the server's data folder; measure what a client notices meanwhile."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "happy_light", *command, "--data-dir", str(self.folder),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        began = time.monotonic()
        ended = asyncio.create_task(process.wait())
        http = await load.Http.open(self.server.url)
        reads: list[float] = []
        writes: list[float] = []
        while not ended.done() or not writes:
            started = time.monotonic()
            await http.request("GET", f"/v2/sessions?limit=50&n={len(reads)}", b"", self.token)
            reads.append(time.monotonic() - started)
            started = time.monotonic()
            body = messages_body(int(started * 1e6), 1)
            await http.request("POST", f"/v3/sessions/{self.session}/messages", body, self.token)
            writes.append(time.monotonic() - started)
            await asyncio.wait({ended}, timeout=PROBE_EVERY)
        http.close()
        return {
            "took_s": time.monotonic() - began,
            "get_p50_ms": percentile(reads, 0.5), "get_p99_ms": percentile(reads, 0.99),
            "post_p50_ms": percentile(writes, 0.5), "post_p99_ms": percentile(writes, 0.99),
            "post_max_ms": max(writes) * 1000,
        }  # fmt: skip


def run(messages: int, sessions: int, accounts: int, seconds: float) -> None:
    """Fill two servers, measure both in turn, and print the large one beside the small one."""
    with tempfile.TemporaryDirectory() as folder:
        grown: list[Grown] = []
        try:
            for name, size in (("small", SMALL), ("large", (messages, sessions, accounts))):
                grown.append(Grown(name, Path(folder, name), *size))
            large = grown[1]
            print(f"{messages:,} messages in {sessions:,} sessions, {accounts:,} accounts beside theirs: "
                  f"{large.size / 1e6:,.0f} MB, inserted in {large.filled:,.0f} s\n")  # fmt: skip
            few, many = (asyncio.run(each.operations(seconds)) for each in grown)
            for operation, row in many.items():
                cells = (
                    f"{key} {value:,.2f} (x {value / (few[operation][key] or 1):.2f})" for key, value in row.items()
                )
                print(f"{operation:22} {'  '.join(cells)}")
            print("\nBeside a client that reads and writes 20 times a second:")
            for command in (
                ("stats",), ("doctor",), ("backup", str(Path(folder, "a.tar.gz")), "--quiet"),
                ("prune", "--sessions-inactive", "90d"),
            ):  # fmt: skip
                row = asyncio.run(large.beside(*command))
                print(f"{shlex.join(command[:1]):22} {'  '.join(f'{key} {value:,.2f}' for key, value in row.items())}")
        finally:
            for each in grown:
                each.server.stop()
