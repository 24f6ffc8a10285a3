"""Measure a server on a third of one core, at the rates of a family: `make bench SLOW=1`.

    python -m tests.bench --slow [--seconds 10] [--share 0.33]

The server is in a cgroup of its own that gets so much of one core in every 3 ms, about what a Raspberry Pi has; the
load runs on the others. Needs root, or a cgroup that this user may write to. No p99 should be over 50 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.scenarios import TEXT, messages_body, percentile
from tests.bench.servers import OURS, Server

PERIOD = 3_000  # µs; the kernel gives a share no less than 1,000 µs of it
P99_MAX = 50.0  # ms
_ROOTS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))  # of version 1 and of version 2

Operation = Callable[[], Awaitable[object]]


@contextlib.contextmanager
def limited(share: float) -> Iterator[Path]:
    """Make a cgroup that has so much of one core. Raises SystemExit if this user cannot."""
    quota = max(1_000, round(PERIOD * share))
    for root in _ROOTS:
        if not (root / "cgroup.procs").exists():
            continue
        group = root / f"happy-bench-{os.getpid()}"
        try:
            group.mkdir()
            if (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(str(PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {PERIOD}")
        except OSError as error:
            with contextlib.suppress(OSError):
                group.rmdir()
            raise SystemExit(f"A slow machine needs a cgroup, and {group} cannot be made: {error.strerror}.") from None
        try:
            yield group
        finally:
            with contextlib.suppress(OSError):
                group.rmdir()
        return
    raise SystemExit("A slow machine needs cgroups, which this computer does not have.")


class Person:
    """Somebody with a machine, a phone, and sessions on five sockets."""

    def __init__(self, server: Server, end: float, latencies: dict[str, list[float]]) -> None:
        self._server = server
        self._end = end
        self._latencies = latencies
        self._count = 0

    async def live(self) -> None:
        """Work until the end, each thing at its own rate."""
        url = self._server.url
        self._token = token = await load.sign_in(url)
        sessions = [await load.session(url, token, f"s{number}", "m" * 600) for number in range(5)]
        self._daemon = await load.Socket.open(
            url, {"token": token, "clientType": "machine-scoped", "machineId": "m"}, self._answer
        )
        await self._daemon.call(b'["rpc-register",{"method":"m:x"}]')
        phone = await load.Socket.open(url, {"token": token})
        scoped = {"token": token, "clientType": "session-scoped"}
        sockets = [await load.Socket.open(url, {**scoped, "sessionId": session}) for session in sessions]
        http = [await load.Http.open(url) for _ in range(3)]
        page = f"/v3/sessions/{sessions[0]}/messages"

        async def beat() -> None:
            for session, each in zip(sessions, sockets, strict=True):
                data = {"sid": session, "time": int(time.time() * 1000), "thinking": False}
                await each.call(json.dumps(["session-alive", data]).encode())

        async def message() -> None:
            self._count += 1
            session = self._count % len(sessions)
            await sockets[session].call(json.dumps(["message", {"sid": sessions[session], "message": TEXT}]).encode())

        async def post() -> None:
            self._count += 1
            await http[0].request("POST", page, messages_body(self._count, 1), token)

        async def come_back() -> None:
            (await load.Socket.open(url, {"token": token})).close()

        await asyncio.gather(
            self._repeat("5 heartbeats", 2.0, beat),
            self._repeat("socket message", 0.2, message),
            self._repeat("POST of a message", 0.5, post),
            self._repeat("call to the machine", 0.5, lambda: phone.call(b'["rpc-call",{"method":"m:x","params":"p"}]')),
            self._repeat("first screen", 1.0, lambda: http[1].request("GET", "/v1/sessions", b"", token)),
            self._repeat("page of messages", 1.0, lambda: http[2].request("GET", f"{page}?limit=100", b"", token)),
            self._repeat("connect", 2.0, come_back),
        )
        for socket in (*sockets, phone, self._daemon):
            socket.close()
        for connection in http:
            connection.close()

    def _answer(self, packet: bytes) -> None:
        if b"rpc-request" in packet[:40]:
            self._daemon.answer(packet, b'["result"]')

    async def _repeat(self, name: str, every: float, operation: Operation) -> None:
        found = self._latencies.setdefault(name, [])
        await asyncio.sleep(random.uniform(0, every))
        while (began := time.monotonic()) < self._end:
            await operation()
            found.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))


async def family(server: Server, seconds: float) -> dict[str, list[float]]:
    """Let three people work for so long; return the latencies (s) of what they do."""
    latencies: dict[str, list[float]] = {}
    end = time.monotonic() + seconds
    await asyncio.gather(*(Person(server, end, latencies).live() for _ in range(3)))
    return latencies


def run(seconds: float, share: float) -> bool:
    """Print p50 and p99 of everything; return whether every p99 is within P99_MAX."""
    with limited(share) as group, tempfile.TemporaryDirectory() as folder:
        slow = f"sh -c 'echo $$ > {group}/cgroup.procs && exec taskset -c 0 {OURS}'"
        server = Server("slow", slow, Path(folder))
        try:
            cpu = server.cpu()
            latencies = asyncio.run(family(server, seconds))
            used = (server.cpu() - cpu) / seconds
        finally:
            server.stop()
    print(f"{share:.0%} of one core; start until /health {server.start_seconds:.2f} s; three people use {used:.1%}\n")
    for name, found in latencies.items():
        print(f"{name:22} {len(found):5}  p50 {percentile(found, 0.5):6.1f} ms  p99 {percentile(found, 0.99):6.1f} ms")
    return all(percentile(found, 0.99) <= P99_MAX for found in latencies.values())
