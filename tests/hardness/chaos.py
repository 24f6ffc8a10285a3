"""Kills, stops and cuts everything below a server of three processes under load, and then checks the books.

`python -m tests.hardness.chaos [seconds]`, or `make chaos`: ten minutes. Clients connect through a balancer, write
over HTTP and sockets, call each other, and come back wherever they are let in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import socketio

from tests.client import Account, Socket, World, uid
from tests.hardness.several import Balancer, Several
from tests.redis_services import Redis
from tests.services import Postgres

PROCESSES = 3
FAILURES = (httpx.HTTPError, OSError, TimeoutError, socketio.exceptions.SocketIOError)
UNANSWERED = {"RPC method not available", "RPC target disconnected", "operation has timed out"}
REQUEST_TIMEOUT = 8.0  # s
CALL_TIMEOUT = 50.0  # s
QUIET = 60.0  # s in which everything must have arrived at the end


@dataclass
class Books:
    """What happened, and what was wrong. `wrong` says it in words."""

    events: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    refused: int = 0
    connections: int = 0
    deliveries: int = 0
    calls: int = 0
    answered: int = 0
    lost: int = 0
    twice: int = 0
    gaps: int = 0
    disorder: int = 0
    wrong_answers: int = 0
    unexpected: int = 0
    wrong: list[str] = field(default_factory=list)
    ending: bool = False
    """No more is to be written. A flag and no cancellation: asyncio.wait_for of Python 3.11 may drop one."""

    def note(self, kind: str, text: str) -> None:
        """Count a fault."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.wrong.append(f"{kind}: {text}"[:500])

    def table(self) -> str:
        """Return everything for people."""
        names = ("acknowledged", "refused", "connections", "deliveries", "calls", "answered")
        faults = ("lost", "twice", "gaps", "disorder", "wrong_answers", "unexpected")
        lines = [
            ", ".join(f"{count} {name}" for name, count in sorted(self.events.items())),
            ", ".join(f"{name} {getattr(self, name):,}" for name in names),
            ", ".join(f"{name} {getattr(self, name):,}" for name in faults),
        ]
        return "\n".join(lines + self.wrong[:20])


class Listener:
    """A socket that comes back whenever it is cut, and the updates that it heard in each connection.

    A user-scoped one hears all updates of its account. The session's is spared those that it causes itself.
    """

    def __init__(self, user: User, **auth: Any) -> None:
        self.user = user
        self.auth = auth
        self.socket: Socket | None = None
        self.heard: list[int] = []  # seqs of this connection
        self.messages: list[int] = []  # seqs of the session's messages of this connection
        self.expected_from: int | None = None
        self.hears_all = "clientType" not in auth
        self.closed = False

    async def run(self) -> None:
        """Connect again and again, until it is closed."""
        while not self.closed:
            socket = Socket()
            try:
                await self._connect(socket)
            except FAILURES:
                await asyncio.sleep(random.uniform(0.05, 0.5))
            else:
                if not self.closed:
                    await socket.dropped.wait()
                self.check()
            finally:
                await socket.close()
                if socket.sio.eio.http is not None:
                    await socket.sio.eio.http.close()  # python-socketio leaves it open if it could not connect

    async def close(self) -> None:
        """Close the socket for good."""
        self.closed = True
        if self.socket is not None:
            await self.socket.close()

    async def _connect(self, socket: Socket) -> None:
        books, account = self.user.books, self.user.account
        self.heard, self.messages, self.expected_from = [], [], None
        seen = self.heard, self.messages
        if answer := self.auth.get("answer"):
            socket.answers["rpc-request"] = answer
        socket.sio.on("update", lambda data, *_: self._hear(data, *seen))
        auth = {"token": account.token, "clientType": "user-scoped", **self.auth}
        auth.pop("answer", None)
        await socket.sio.connect(
            account.world.url, auth=auth, transports=["websocket"], socketio_path="v1/updates", wait_timeout=5
        )
        books.connections += 1
        self.socket = socket
        after = await self.user.last_message()
        self.expected_from = after + 1
        if "answer" in self.auth and (await socket.call("rpc-register", {"method": "m"}, timeout=5)) != {"ok": True}:
            books.note("unexpected", "a method could not be registered")

    def _hear(self, data: Any, heard: list[int], messages: list[int]) -> None:
        books = self.user.books
        books.deliveries += 1
        seq = data["seq"]
        if heard and seq <= heard[-1]:
            books.note("disorder", f"{self.user.name}: {heard[-5:]} then {seq}")
        elif heard and self.hears_all and seq != heard[-1] + 1:
            books.note("gaps", f"{self.user.name}: {heard[-5:]} then {seq}")
        heard.append(seq)
        if data["body"]["t"] == "new-message":
            messages.append(data["body"]["message"]["seq"])

    def check(self) -> None:
        """Check that the connection did not begin too late: what was stored after it began it must have heard."""
        expected = self.expected_from
        if self.hears_all and expected is not None and self.messages and self.messages[0] > expected:
            self.user.books.note("gaps", f"a connection from {expected} on began with {self.messages[0]}")


class User:
    """One account: its session, its listeners and writers."""

    def __init__(self, books: Books, name: str, account: Account, session: str) -> None:
        self.books = books
        self.name = name
        self.account = account
        self.session = session
        self.stored: dict[str, int] = {}
        """localId: seq, of everything that was acknowledged."""
        self.tried: set[str] = set()

        async def answer(request: Any) -> Any:
            return {"echo": request["params"]}

        self.listeners = [
            Listener(self), Listener(self), Listener(self, clientType="session-scoped", sessionId=session),
            Listener(self, clientType="machine-scoped", machineId=uid(), answer=answer), Listener(self),
        ]  # fmt: skip

    async def last_message(self) -> int:
        """Return the seq of the session's last message."""
        answer = await self.account.get(
            f"/v3/sessions/{self.session}/messages?limit=1&before_seq=1000000000", timeout=5
        )
        if answer.status_code != 200:
            raise TimeoutError
        messages = answer.json()["messages"]
        return max((message["seq"] for message in messages), default=0)

    async def forever(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat `work` until the end; what an outage explains is no fault."""
        while not self.books.ending:
            try:
                await work()
            except FAILURES:
                self.books.refused += 1
                await asyncio.sleep(0.1)
            await asyncio.sleep(random.uniform(0.1, 0.6))

    async def post(self) -> None:
        """Write over HTTP, and again with the same localId until it is acknowledged, as clients do."""
        local_id = uid()
        self.tried.add(local_id)
        body = {"messages": [{"content": local_id, "localId": local_id}]}
        while True:
            with contextlib.suppress(*FAILURES):
                answer = await self.account.post(f"/v3/sessions/{self.session}/messages", body, timeout=REQUEST_TIMEOUT)
                if answer.status_code == 200:
                    self._acknowledged(local_id, answer.json()["messages"][0]["seq"])
                    return
                if answer.status_code != 503:
                    self.books.note("unexpected", f"{answer.status_code} {answer.text}")
            self.books.refused += 1
            await asyncio.sleep(0.2)

    async def emit(self) -> None:
        """Write over a socket."""
        socket = self.listeners[2].socket
        if socket is None or socket.dropped.is_set():
            return
        local_id = uid()
        self.tried.add(local_id)
        data = {"sid": self.session, "message": local_id, "localId": local_id}
        ack = await socket.call("message", data, timeout=REQUEST_TIMEOUT)
        if ack["ok"]:
            self._acknowledged(local_id, ack["seq"])
        else:
            self.books.refused += 1

    def _acknowledged(self, local_id: str, seq: int) -> None:
        self.books.acknowledged += 1
        self.stored[local_id] = seq

    async def call(self) -> None:
        """Call the daemon, and check that the answer is its own."""
        socket = self.listeners[0].socket
        if socket is None or socket.dropped.is_set():
            return
        self.books.calls += 1
        params = uid()
        answer = await socket.call("rpc-call", {"method": "m", "params": params}, timeout=CALL_TIMEOUT)
        if answer == {"ok": True, "result": {"echo": params}}:
            self.books.answered += 1
        elif answer.get("ok") is not False or answer.get("error") not in UNANSWERED:
            self.books.note("wrong_answers", f"{answer}")

    async def settle(self) -> None:
        """Write once more, and wait until every listener has heard of it."""
        await self.post()
        last = max(self.stored.values())
        listeners = [listener for listener in self.listeners if listener.hears_all]
        try:
            async with asyncio.timeout(QUIET):
                while not all(listener.messages and listener.messages[-1] >= last for listener in listeners):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            heard = [listener.messages[-3:] for listener in listeners]
            self.books.note("gaps", f"{self.name}: message {last} was not heard: {heard}")
        for listener in self.listeners:
            listener.check()

    async def check(self) -> None:
        """Compare what was acknowledged with what is stored."""
        found: list[dict[str, Any]] = []
        path = f"/v3/sessions/{self.session}/messages?limit=500"
        while True:
            after = found[-1]["seq"] if found else 0
            page = await self.account.ok("GET", f"{path}&after_seq={after}", timeout=20)
            found += page["messages"]
            if not page["messages"] or not page.get("hasMore"):
                break
        count = Counter(message["localId"] for message in found)
        seqs = {message["localId"]: message["seq"] for message in found}
        for local_id, seq in self.stored.items():
            if count[local_id] == 0:
                self.books.note("lost", f"{self.name}: message {seq}")
            elif seqs[local_id] != seq:
                self.books.note("disorder", f"{self.name}: acknowledged as {seq}, stored as {seqs[local_id]}")
        for local_id, times in count.items():
            if times > 1 or local_id not in self.tried:
                self.books.note("twice", f"{self.name}: {local_id} is stored {times} times")
        numbers = sorted(message["seq"] for message in found)
        if numbers != list(range(1, len(numbers) + 1)):
            self.books.note("gaps", f"{self.name}: the stored messages are not numbered without a gap")


class Disorder:
    """What is done to the processes and services, one thing at a time."""

    def __init__(self, books: Books, server: Several, balancer: Balancer, postgres: Postgres, redis: Redis) -> None:
        self.books = books
        self.server = server
        self.balancer = balancer
        self.postgres = postgres
        self.redis = redis

    async def run(self, end: float, pause: float, least: Mapping[str, int]) -> None:
        """Do things until the time `end` (monotonic), about every `pause` s, and until each of `least` was done.

        Kills are the most frequent.
        """
        turn = 0
        while time.monotonic() < end or any(self.books.events[what] < count for what, count in least.items()):
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause)
            what = ("kill", "redis", "kill", "cut", "stop", "kill", "postgres", "redis_outage")[turn % 8]
            turn += 1
            self.books.events[what] += 1
            await getattr(self, f"_{what}")()

    async def _kill(self) -> None:
        await asyncio.to_thread(self.server.kill, random.randrange(PROCESSES))

    async def _stop(self) -> None:
        process = random.choice(self.server.processes).process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(random.choice((1.0, 3.0, 13.0)))
        process.send_signal(signal.SIGCONT)

    async def _redis(self) -> None:
        self.redis.kill()
        await asyncio.to_thread(self.redis.start)

    async def _redis_outage(self) -> None:
        self.redis.kill()
        await asyncio.sleep(5)
        await asyncio.to_thread(self.redis.start)

    async def _postgres(self) -> None:
        if random.random() < 0.5:
            await asyncio.to_thread(self.postgres.restart)
        else:
            self.postgres.kill()
            await asyncio.to_thread(self.postgres.start)

    async def _cut(self) -> None:
        self.balancer.cut()


async def _finish(books: Books, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the tasks to end by themselves; one that fails, or does not end, is a fault."""
    done, pending = await asyncio.wait(tasks, timeout=CALL_TIMEOUT + QUIET)
    for task in pending:
        task.cancel()
        books.note("unexpected", f"does not end: {task!r}")
    for task in done:
        if error := task.exception():
            books.note("unexpected", repr(error))


async def chaos(seconds: float, accounts: int, pause: float, least: Mapping[str, int] = MappingProxyType({})) -> Books:
    """Run it all and return the books. `least`: how often each of some things has to happen at least."""
    books = Books()
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=True) as postgres, Redis() as redis:
        server = Several(Path(folder) / "data", PROCESSES, postgres, redis)
        balancer = Balancer(lambda: server.urls)
        await balancer.start()
        try:
            async with World(balancer.url) as world:
                users = []
                for number in range(accounts):
                    account = await world.account()
                    users.append(User(books, f"account {number}", account, (await account.session())["id"]))
                listening = [asyncio.create_task(each.run()) for user in users for each in user.listeners]
                working = [
                    asyncio.create_task(user.forever(work))
                    for user in users
                    for work in (user.post, user.emit, user.call)
                ]
                await Disorder(books, server, balancer, postgres, redis).run(time.monotonic() + seconds, pause, least)
                await asyncio.sleep(2)
                books.ending = True
                await _finish(books, working)
                await asyncio.gather(*(user.settle() for user in users))
                await asyncio.gather(*(user.check() for user in users))
                await asyncio.gather(*(each.close() for user in users for each in user.listeners))
                await _finish(books, listening)
            for process in server.processes:
                log = "".join(process.log)
                if "Traceback" in log:
                    books.note("unexpected", log[log.index("Traceback") :][:2000])
        finally:
            server.stop()
    return books


if __name__ == "__main__":
    duration = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    wanted = {"kill": 20, "redis": 5, "postgres": 3} if duration >= 600 else {}
    result = asyncio.run(chaos(duration, 30, 5.0, wanted))
    print(result.table())
    sys.exit(bool(result.wrong))
