"""Misbehaving clients, one kind after the other, beside the normal traffic of a family.

`python -m tests.hardness.attack [seconds of each [names]]`, or `make attack`: all of them, a minute each. Prints the
memory of the server, the worst latency of /health and what the normal clients lost. The exit status is 1 if they lost
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from websockets.frames import Opcode

from tests.client import Account, World, uid
from tests.conftest import Process
from tests.raw_connections import Connection, FrameWebsocket

LATENCY_MAX = 2.0  # s that /health may take at most
WORKERS = 8  # misbehaving clients at a time


@dataclass(frozen=True)
class Attack:
    """What a misbehaving client needs to know: the server, and the token and a session of its account."""

    url: str
    token: str
    session: str

    @property
    def head(self) -> str:
        """The headers of a signed-in client."""
        return f"Host: x\r\nAuthorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"


async def large_frames(attack: Attack) -> None:
    """Send most of a large frame before and after CONNECT, and leave."""
    for signed_in in (False, True):
        raw = await FrameWebsocket.open(attack.url)
        if signed_in:
            await raw.enter(attack.token)
        raw.writer.write(b"\x81\xff" + (90_000_000).to_bytes(8, "big") + b"mask" + bytes(4_000_000))
        with contextlib.suppress(OSError):  # it is refused before it has sent all
            await raw.writer.drain()
        raw.writer.transport.abort()


async def unread_pongs(attack: Attack) -> None:
    """Send pings and read nothing."""
    raw = await (await FrameWebsocket.open(attack.url)).enter(attack.token)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(5):
        for _ in range(2_000):
            for _ in range(50):
                raw.send(Opcode.PING, b"x" * 125)
            await raw.writer.drain()


async def unread_answers(attack: Attack) -> None:
    """Ask for large answers and read nothing."""
    connection = await Connection.open(attack.url)
    connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await connection.send(f"GET /v1/sessions/{attack.session}/messages HTTP/1.1\r\n{attack.head}\r\n".encode())
    await asyncio.sleep(2)
    connection.writer.transport.abort()


async def trickling_bodies(attack: Attack) -> None:
    """Send a megabyte of a body and then little by little."""
    async with await Connection.open(attack.url) as connection:
        await connection.send(f"POST /v1/sessions HTTP/1.1\r\n{attack.head}Content-Length: 5000000\r\n\r\n".encode())
        await connection.send(b" " * 1_000_000)
        for _ in range(20):
            await connection.send(b" ")
            await asyncio.sleep(0.1)
        connection.writer.transport.abort()


async def refused_writes(attack: Attack) -> None:
    """Send large messages to a session that is not there."""
    body = json.dumps({"messages": [{"content": "x" * 2_000_000, "localId": "1"}]}).encode()
    async with await Connection.open(attack.url) as connection:
        await connection.request("POST", "/v3/sessions/none/messages", _fields(attack), body)


async def lenient_json(attack: Attack) -> None:
    """Send what only the lenient decoder takes."""
    body = b'{"platform":"' + b"\\ud800" * 10_000 + b'"}'
    async with await Connection.open(attack.url) as connection:
        await connection.request("POST", "/v1/version", {"Content-Type": "application/json"}, body)


async def idle_connections(attack: Attack) -> None:
    """Open connections and send nothing."""
    parts = urlsplit(attack.url)
    opened = []
    with contextlib.suppress(OSError):
        for _ in range(100):
            opened.append(await asyncio.open_connection(parts.hostname, parts.port))
    await asyncio.sleep(1)
    for _, writer in opened:
        writer.transport.abort()


async def made_up_ids(attack: Attack) -> None:
    """End sessions that are not there, by ids as long as they may be."""
    raw = await (await FrameWebsocket.open(attack.url)).enter(attack.token)
    for i in range(1_000):
        sid = f"{i:09}".ljust(256, "x")
        raw.say("42" + json.dumps(["session-end", {"sid": sid, "time": int(time.time() * 1000)}]))
        if i % 100 == 0:
            await raw.writer.drain()
    raw.say('429["ping"]')
    while not (await raw.text()).startswith("439"):
        pass
    raw.writer.close()


ATTACKS: tuple[Callable[[Attack], Awaitable[None]], ...] = (
    large_frames, unread_pongs, unread_answers, trickling_bodies, refused_writes, lenient_json, idle_connections,
    made_up_ids,
)  # fmt: skip


def _fields(attack: Attack) -> dict[str, str]:
    return {"Authorization": f"Bearer {attack.token}", "Content-Type": "application/json"}


class Family:
    """Normal clients: they send messages, and every one must be stored and heard."""

    def __init__(self, alice: Account, session: str) -> None:
        self.sent: list[str] = []
        self.lost: list[str] = []
        self.slowest = 0.0  # s that /health took at most
        self._alice = alice
        self._session = session

    async def live(self) -> None:
        """Send and listen until cancelled."""
        ui = None
        while True:
            name = uid()
            try:
                if ui is None:
                    ui = await self._alice.socket()
                    await ui.heard()
                await self._alice.send(self._session, name)
                self.sent.append(name)
                heard = [body["message"]["localId"] for body in await ui.updates()]
                if heard != [name]:
                    self.lost.append(f"the update of {name}")
                began = time.monotonic()
                health = await self._alice.world.http.get("/health")
                assert health.status_code == 200, health.text
                self.slowest = max(self.slowest, time.monotonic() - began)
            except Exception as error:
                self.lost.append(repr(error)[:200])
                ui = None
            await asyncio.sleep(0.05)


def _misbehave(name: str, attack: Attack, seconds: float) -> int:
    """Let WORKERS clients do the attack for so long; return how often they did it. Called in a process of its own."""
    (misbehave,) = (each for each in ATTACKS if each.__name__ == name)

    async def all_of_them() -> int:
        end = time.monotonic() + seconds
        return sum(await asyncio.gather(*(_repeat(misbehave, attack, end) for _ in range(WORKERS))))

    return asyncio.run(all_of_them())


async def _repeat(misbehave: Callable[[Attack], Awaitable[None]], attack: Attack, end: float) -> int:
    """Misbehave until `end` (monotonic s), whatever the server does about it; return how often that was."""
    count = 0
    while time.monotonic() < end:
        with contextlib.suppress(OSError, EOFError, TimeoutError, AssertionError):
            await misbehave(attack)
        count += 1
    return count


async def run(seconds: float, attacks: Sequence[Callable[[Attack], Awaitable[None]]] = ATTACKS) -> int:
    """Do each attack for so long; return how much the family lost, slow answers included."""
    # The attackers have a process of their own, so that the normal clients wait for nothing but the server.
    attackers = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as path, attackers:
        server = Process(Path(path) / "data")
        process = psutil.Process(server.pid)
        async with World(server.url) as world:
            alice, mallory = await world.account(), await world.account()
            family = Family(alice, (await alice.session())["id"])
            session = (await mallory.session())["id"]
            for _ in range(10):
                await mallory.send(session, uid(), content="x" * 1_000_000)
            attack = Attack(server.url, mallory.token, session)
            living = asyncio.create_task(family.live())
            for misbehave in attacks:
                family.slowest, before = 0.0, len(family.sent)
                loop = asyncio.get_running_loop()
                done = await loop.run_in_executor(attackers, _misbehave, misbehave.__name__, attack, seconds)
                if len(family.sent) == before:
                    family.lost.append("everything: not one message was sent meanwhile")
                if family.slowest > LATENCY_MAX:
                    family.lost.append(f"/health took {family.slowest:.1f} s")
                print(
                    f"{misbehave.__name__:17} {done:6} times: {process.memory_info().rss / 1e6:4.0f} MB, /health took "
                    f"{family.slowest * 1000:4.0f} ms at most, normal clients lost {len(family.lost)}",
                    flush=True,
                )
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
        status = server.stop()
        if status != 0:
            family.lost.append(f"the server ended with status {status}")
        if "Traceback" in "".join(server.log):
            family.lost.append("a traceback is in the log")
    print(f"{len(family.sent)} messages of normal clients; lost: {family.lost or 'nothing'}")
    return len(family.lost)


if __name__ == "__main__":
    chosen = [attack for attack in ATTACKS if attack.__name__ in sys.argv[2:]] or ATTACKS
    sys.exit(1 if asyncio.run(run(float(sys.argv[1]) if len(sys.argv) > 1 else 60, chosen)) else 0)
