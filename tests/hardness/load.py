"""Prints what a server takes: idle sockets, requests beside heartbeats, reconnects, and a soak with its memory.

`python -m tests.hardness.load [soak seconds]`, or `make load` (no soak) and `make soak` (10 minutes).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.bench.load import Http
from tests.client import Account, World, uid
from tests.conftest import Process
from tests.raw_connections import PacketWebsocket

MB = 1_000_000


def now() -> int:
    return int(time.time() * 1000)


async def open_wires(alice: Account, count: int, kind: str = "") -> list[PacketWebsocket]:
    """Sockets of one kind, a hundred at a time."""
    wires: list[PacketWebsocket] = []

    async def one(i: int) -> PacketWebsocket:
        wire = await PacketWebsocket.open(alice.world.url)
        auth = {"token": alice.token}
        if kind:
            auth |= {"clientType": f"{kind}-scoped", f"{kind}Id": f"{kind}{i}"}
        assert (await wire.connect(auth)).startswith("40")
        return wire

    for first in range(0, count, 100):
        wires += await asyncio.gather(*(one(i) for i in range(first, min(first + 100, count))))
    return wires


async def close(wires: list[PacketWebsocket]) -> None:
    await asyncio.gather(*(wire.__aexit__(None, None, None) for wire in wires), return_exceptions=True)


async def idle(process: psutil.Process, alice: Account) -> None:
    before = process.memory_info().rss
    wires = await open_wires(alice, 1000)
    await asyncio.sleep(2)
    print(f"1,000 idle sockets: {(process.memory_info().rss - before) / MB:.0f} MB above the empty server", flush=True)
    await close(wires)


async def beats(alice: Account, seconds: float) -> None:
    sessions = [(await alice.session())["id"] for _ in range(300)]
    machines = [(await alice.machine())["id"] for _ in range(20)]
    wires = await open_wires(alice, 300, "session") + await open_wires(alice, 20, "machine")
    end = time.monotonic() + seconds

    async def beat(place: int, wire: PacketWebsocket, event: str, name: str, id: str) -> None:
        await asyncio.sleep(2 * place / 320)  # spread, as clients that started at different times are
        while time.monotonic() < end:
            await wire.send(f'42["{event}",{{"{name}":"{id}","time":{now()}}}]')
            await asyncio.sleep(2)

    took: dict[str, list[float]] = {"POST /v1/machines": [], "GET /v1/sessions": []}

    async def probe() -> None:
        http = await Http.open(alice.world.url)
        while time.monotonic() < end:
            for name, times in took.items():
                method, path = name.split()
                body = json.dumps({"id": uid(), "metadata": "m" * 600}).encode() if method == "POST" else b""
                began = time.perf_counter()
                await http.request(method, path, body, alice.token)
                times.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(0.05)
        http.close()

    beating = [("session-alive", "sid", id) for id in sessions] + [
        ("machine-alive", "machineId", id) for id in machines
    ]
    work = [beat(place, wires[place], *what) for place, what in enumerate(beating)]
    await asyncio.gather(*work, probe())
    for name, times in took.items():
        cuts = statistics.quantiles(times, n=100)
        print(
            f"{name} beside 300 sessions and 20 daemons that beat every 2 s: "
            f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, most {max(times):.1f} ms ({len(times)} requests, "
            "generator on the same computer)",
            flush=True,
        )
    await close(wires)


async def reconnects(process: psutil.Process, alice: Account, count: int) -> None:
    async def some(times: int) -> None:
        for _ in range(times):
            await close(await open_wires(alice, 1, "machine"))

    await asyncio.gather(*(some(count // 20) for _ in range(10)))
    half, handles = process.memory_info().rss, process.num_fds()
    await asyncio.gather(*(some(count // 20) for _ in range(10)))
    await asyncio.sleep(1)
    print(
        f"{count:,} reconnects: memory {half / MB:.0f} MB after half of them, {process.memory_info().rss / MB:.0f} MB "
        f"after all; file handles {handles} and {process.num_fds()}",
        flush=True,
    )


async def soak(process: psutil.Process, alice: Account, seconds: float) -> None:
    """Everything at once; prints the memory ten times."""
    end = time.monotonic() + seconds
    session = (await alice.session())["id"]
    count = 0

    async def work() -> None:
        nonlocal count
        socket = await alice.socket(session=session)
        while time.monotonic() < end:
            await alice.send(session, uid())
            await socket.call("message", {"sid": session, "message": "x" * 1000})
            await socket.call("session-alive", {"sid": session, "time": now()})
            await close(await open_wires(alice, 1, "machine"))
            socket.log.clear()
            count += 1

    async def watch() -> None:
        while (left := end - time.monotonic()) > 0:
            print(
                f"soak: {seconds - left:5.0f} s, {count:6} rounds, {process.memory_info().rss / MB:.0f} MB", flush=True
            )
            await asyncio.sleep(min(left, seconds / 10))

    await asyncio.gather(watch(), *(work() for _ in range(4)))
    print(f"soak: {seconds:5.0f} s, {count:6} rounds, {process.memory_info().rss / MB:.0f} MB at the end", flush=True)


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as path:
        server = Process(Path(path) / "data")
        process = psutil.Process(server.pid)
        async with World(server.url) as world:
            alice = await world.account()
            if seconds:
                await soak(process, alice, seconds)
            else:
                await idle(process, alice)
                await beats(await world.account(), 40)
                await reconnects(process, alice, 10_000)
        assert server.stop() == 0


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0))
