"""The server that the fuzzer sends to, with everything configured and an account for every scenario."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import nacl.signing
import psutil
from aiohttp import web

from tests.client import Account, World, b64, uid
from tests.conftest import Process
from tests.raw_connections import Connection, HttpAnswer
from tests.vendor_servers import VendorServer

BAD = re.compile(r"Traceback| ERROR | CRITICAL |never awaited|never retrieved|Exception ignored|Warning: ")
CLEANUP_MAX = 100.0  # s in which everything left behind must be gone: who answers no ping is given up after 60


class ConnectionLost(Exception):
    """The server ended a connection in the middle of a request that was well-formed."""


class Closable(Protocol):
    """What is closed at the end of a scenario."""

    async def close(self) -> None: ...


class FuzzedServer:
    """A server process, and what the fuzzer knows about it. `async with`."""

    WEBHOOK_SECRET = "webhook"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.open: list[Closable] = []
        self.vendor_answer: tuple[int, bytes, str] = (200, b"{}", "application/json")
        self.requests = self.events = self.packets = self.scenarios = 0
        self.statuses: dict[int, int] = {}
        self._names: dict[bytes, bytes] = {}
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()  # of the kept connection
        self._read = 0

    async def __aenter__(self) -> FuzzedServer:
        self._vendors = await VendorServer(self._answer_as_vendor).__aenter__()
        there = self._vendors.url
        self.server = await asyncio.to_thread(
            lambda: Process(
                self._folder, HAPPY_SERVER_LIGHT_SESSION_GRACE="1", HAPPY_SERVER_LIGHT_EXPO_URL=f"{there}/push",
                DANGEROUSLY_LOG_TO_SERVER_FOR_AI_AUTO_DEBUGGING="true", ELEVENLABS_API_KEY="x",
                HAPPY_SERVER_LIGHT_ELEVENLABS_URL=there, REVENUECAT_API_KEY="x", LIVEKIT_URL="wss://x.example",
                HAPPY_SERVER_LIGHT_REVENUECAT_URL=there, LIVEKIT_API_KEY="x", LIVEKIT_API_SECRET="x" * 32,
                GITHUB_CLIENT_ID="x", GITHUB_CLIENT_SECRET="x", GITHUB_REDIRECT_URL="http://x.example/callback",
                GITHUB_WEBHOOK_SECRET=self.WEBHOOK_SECRET, HAPPY_SERVER_LIGHT_GITHUB_URL=there,
                HAPPY_SERVER_LIGHT_GITHUB_API_URL=there,
            )
        )  # fmt: skip
        self.url = self.server.url
        self.world = World(self.url)
        self.other = await self.world.account()
        self._process = psutil.Process(self.server.pid)
        found = re.search(r"  Metrics  (\S+)", "\n".join(self.server.printed))
        assert found is not None
        self._metrics = found[1]
        await self.new_account()  # what is made at the first request is no leak
        await self.check_health()
        await self.close_opened()
        self._before = await self._held()
        self.memory = self._process.memory_info().rss
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.world.__aexit__(None, None, None)
        if self._connection is not None:
            self._connection.writer.close()
        await self._vendors.__aexit__(None, None, None)
        if self.server.process.poll() is None:
            self.server.kill()

    async def _answer_as_vendor(self, request: web.Request, body: Any) -> web.StreamResponse:
        self._vendors.got.clear()
        status, answer, kind = self.vendor_answer
        return web.Response(status=status, body=answer, content_type=kind)

    # -------------------------------------------------------------------------------- one scenario
    async def new_account(self) -> None:
        """Make an account with one of everything, which `fill` can name."""
        self.scenarios += 1
        self.vendor_answer = (200, b"{}", "application/json")
        self.account: Account = await self.world.account()
        alice, key = self.account, os.urandom(32)
        session, machine = (await alice.session("tag"))["id"], (await alice.machine())["id"]
        artifact = uid()
        body = {"id": artifact, "header": b64("h"), "body": b64("b"), "dataEncryptionKey": b64("k")}
        await alice.ok("POST", "/v1/artifacts", body)
        asked = await alice.ok("POST", "/v1/auth/request", {"publicKey": b64(key)})
        url = (await alice.ok("GET", "/v1/connect/github/params"))["url"]
        file = f"{uid()}.enc"
        values = {
            "session": session, "machine": machine, "artifact": artifact, "other": self.other.id, "token": alice.token,
            "file": file, "ref": f"sessions/{session}/attachments/{file}", "public": b64(key),
            "challenge": asked["challenge"], "state": url.partition("state=")[2].partition("&")[0],
            "room": alice.id, "vendors": self._vendors.url,
            "pid": "x", "offset": "x",
            "signature": b64(nacl.signing.SigningKey(key).sign(key).signature),
        }  # fmt: skip
        self._names = {f"${name}".encode(): value.encode() for name, value in values.items()}

    def remember(self, name: str, value: str) -> None:
        """Let `fill` put the value in for `$name`."""
        self._names[f"${name}".encode()] = value.encode()

    def fill(self, data: bytes) -> bytes:
        """Return the bytes with what `$name` stands for."""
        if b"$" not in data:
            return data
        for name, value in self._names.items():
            data = data.replace(name, value)
        return data.replace(b"$fresh", uid().encode()).replace(b"$now", b"%d" % (time.time() * 1000))

    async def exchange(self, data: bytes, head: bool) -> HttpAnswer:
        """Send a request on the kept connection, or on a new one if that has ended.

        Raises ConnectionLost, TimeoutError.
        """
        async with self._turn:
            return await self._exchange(data, head)

    async def _exchange(self, data: bytes, head: bool) -> HttpAnswer:
        for _ in range(2):
            kept = self._connection is not None
            if self._connection is None:
                self._connection = await Connection.open(self.url)
            connection = self._connection
            try:
                await connection.send(data)
                answer = await connection.answer(head)
            except (EOFError, OSError) as error:
                connection.writer.close()
                self._connection = None
                if not kept:
                    raise ConnectionLost(repr(error)) from error
                continue
            if answer.headers.get("connection", "").lower() == "close":
                connection.writer.close()
                self._connection = None
            return answer
        raise ConnectionLost("twice")

    async def close_opened(self) -> None:
        """Close what the scenario opened."""
        opened, self.open = self.open, []
        await asyncio.gather(*(each.close() for each in opened))

    async def check_health(self) -> None:
        """Check that the server answers, accepts a socket, and has no error in its log."""
        response = await self.world.http.get("/health")
        assert response.status_code == 200, response.text
        ui = await self.account.socket()
        assert await ui.call("ping") == {}
        await ui.close()
        self.world.sockets.clear()
        self.check_log()

    def check_log(self) -> None:
        """Check the log. Raises AssertionError for what should not be in it."""
        new = self.server.log[self._read :]
        self._read += len(new)
        bad = [index for index, line in enumerate(new) if BAD.search(line)]
        assert not bad, "in the log:\n" + "".join(new[bad[0] :])[-5000:]

    # --------------------------------------------------------------------------------- at the end
    async def _held(self) -> dict[str, int]:
        """File handles, tasks and sockets of the server. The asking itself is counted, too."""
        text = (await self.world.http.get(self._metrics)).text
        sockets = sum(float(line.split()[-1]) for line in re.findall(r"^websocket_connections_total.*", text, re.M))
        (tasks,) = re.findall(r"^event_loop_tasks (\S+)", text, re.M)
        return {"handles": self._process.num_fds(), "tasks": int(float(tasks)), "sockets": int(sockets)}

    async def wait_for_cleanup(self) -> str:
        """Wait until what was opened is closed, stop the server, and return what it held, as text.

        Raises AssertionError for a leak, for something bad in the log, and for a stop that is not clean.
        """
        if self._connection is not None:
            self._connection.writer.close()
            self._connection = None
        memory = self._process.memory_info().rss
        until = time.monotonic() + CLEANUP_MAX
        while True:
            held = await self._held()
            over = {name: (self._before[name], count) for name, count in held.items() if count > self._before[name]}
            # Connections to other servers are kept for a while, and a thread may have opened a pipe.
            handles = over.pop("handles", (0, 0))
            if handles[1] > handles[0] + 3:
                over["handles"] = handles
            if not over:
                break
            assert time.monotonic() < until, f"left behind (before, now): {over}"
            await asyncio.sleep(0.2)
        self.check_log()
        with contextlib.suppress(Exception):
            await self.world.http.aclose()
        assert await asyncio.to_thread(self.server.stop) == 0
        self.check_log()
        return (
            f"handles {self._before['handles']} -> {held['handles']}, "
            f"tasks {self._before['tasks']} -> {held['tasks']}, "
            f"sockets {held['sockets']}, memory {self.memory / 1e6:.0f} -> {memory / 1e6:.0f} MB"
        )
