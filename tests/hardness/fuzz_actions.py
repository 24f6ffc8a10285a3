"""What the fuzzer does: requests, sockets that say odd things, polling, and bytes that are no HTTP.

A step is data, so that a failing list of them can be made smaller and read. `run` does it, and raises
AssertionError for an answer that the server must not give.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args

import aiohttp
import msgspec
from websockets.frames import Frame, Opcode

from happy_light import app
from happy_light.http.router import Route
from tests.hardness import payloads
from tests.hardness.fuzz_target import ConnectionLost, FuzzedServer
from tests.raw_connections import Connection, FrameWebsocket, PacketWebsocket

ROUTES = {f"{route.method} {route.path}": route for route in app.routes()}
EVENTS = app.events()
USUAL = frozenset((200, 206, 304, 400, 401, 404, 413, 415, 416, 429))
"""What any route may answer beside what it documents; 401 and 404 where there are tokens and parameters."""
ANSWER_MAX = 20.0  # s in which an answer must come
PAUSE = 0.05  # s in which one may


# ---------------------------------------------------------------------------------------------- HTTP
@dataclass(frozen=True)
class HttpRequest:
    """One request of a route. `cut`: the client leaves after so much of the body."""

    route: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    head: bool = False
    chunked: bool = False
    cut: int | None = None

    async def run(self, fuzzed: FuzzedServer) -> None:
        route = ROUTES[self.route]
        body = fuzzed.fill(self.body)
        headers = [(name, fuzzed.fill(value.encode()).decode("latin-1")) for name, value in self.headers]
        if self.route.endswith("/webhook"):
            signature = hmac.new(fuzzed.WEBHOOK_SECRET.encode(), body, hashlib.sha256).hexdigest()
            headers.append(("X-Hub-Signature-256", f"sha256={signature}"))
        if self.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
            half = len(body) // 2
            pieces = [piece for piece in (body[:half], body[half:]) if piece]
            sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        else:
            if body or route.method in ("POST", "PUT"):
                headers.append(("Content-Length", str(len(body))))
            sent = body
        method = "HEAD" if self.head and route.method == "GET" else route.method
        target = fuzzed.fill(self.target.encode()).decode()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        data = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode("latin-1") + sent
        fuzzed.requests += 1
        if self.cut is not None:
            async with await Connection.open(fuzzed.url) as connection:
                await connection.send(data[: len(data) - len(sent) + min(self.cut, max(0, len(sent) - 1))])
            return
        try:
            answer = await fuzzed.exchange(data, method == "HEAD")
        except TimeoutError:
            raise AssertionError(f"no answer to {method} {target}") from None
        fuzzed.statuses[answer.status] = fuzzed.statuses.get(answer.status, 0) + 1
        says = f"{method} {target}: {answer.status} {answer.body[:300]!r}"
        documented = {refusal.status for refusal in route.errors} | route.other_responses.keys()
        assert answer.status in USUAL | documented, says
        if method == "HEAD" or not answer.headers.get("content-type", "").startswith("application/json"):
            return
        told = answer.json()
        if answer.status == 200:
            check_answer(route, answer.body, says)
        elif answer.status not in route.other_responses:
            assert isinstance(told["error"], str), says
            assert told.get("statusCode", answer.status) == answer.status, says


def check_answer(route: Route, body: bytes, says: str) -> None:
    """Check that the body of a 200 is one of those that the route's table declares."""
    wrong = []
    for kind in get_args(route.answer) if isinstance(route.answer, UnionType) else [route.answer]:
        try:
            msgspec.json.decode(body, type=kind)
            return
        except msgspec.ValidationError as error:
            wrong.append(error)
    raise AssertionError(f"{wrong} in {says}")


# ------------------------------------------------------------------------------------------- sockets
@dataclass(frozen=True)
class SocketEvent:
    """An event with these arguments (JSON each); an id asks for an ack."""

    event: str
    args: tuple[bytes, ...]
    ack: bool = True

    def packet(self, id: int) -> bytes:
        name = json.dumps(self.event).encode()
        return b"42" + (b"%d" % id if self.ack else b"") + b"[" + b",".join((name, *self.args)) + b"]"


@dataclass(frozen=True)
class SocketFrame:
    """A frame with this opcode and payload: text of Engine.IO, or what should be."""

    payload: bytes
    opcode: int = Opcode.TEXT
    fin: bool = True


@dataclass(frozen=True)
class SocketBytes:
    """Bytes below the frames; the client cannot know what comes after them."""

    data: bytes


@dataclass(frozen=True)
class SocketSession:
    """A websocket: a handshake and then packets. It stays open until the end of the scenario.

    `answer` is what it answers to every rpc-request. `leave`: in the middle of a frame, or properly.
    """

    auth: bytes
    items: tuple[SocketEvent | SocketFrame | SocketBytes, ...]
    answer: bytes | None
    leave: str

    async def run(self, fuzzed: FuzzedServer) -> None:
        raw = await FrameWebsocket.open(fuzzed.url)
        opened = OpenSocket(fuzzed, raw, self.answer)
        fuzzed.open.append(opened)
        # As long as all is well-formed, everything that asks for an ack must get one.
        good = payloads.is_json(auth := fuzzed.fill(self.auth))
        wanted: set[int] = set()
        raw.send(Opcode.TEXT, b"40" + auth)
        for id, item in enumerate(self.items, 1):
            if isinstance(item, SocketEvent):
                packet = fuzzed.fill(item.packet(id))
                good = good and payloads.is_json(packet[packet.index(b"[") :])
                if good and item.ack and item.event != "rpc-call":  # which waits for another client
                    wanted.add(id)
                raw.send(Opcode.TEXT, packet)
                fuzzed.events += 1
            elif isinstance(item, SocketFrame):
                good = False
                raw.send(Opcode(item.opcode), fuzzed.fill(item.payload), item.fin)
                fuzzed.packets += 1
            else:
                good = False
                raw.writer.write(item.data)
                fuzzed.packets += 1
        raw.send(Opcode.TEXT, b'42999["ping"]')
        with contextlib.suppress(OSError):
            await raw.writer.drain()
        if good and opened.entered in (None, True) and b'"$token"' in self.auth:
            await opened.until(lambda: wanted | {999} <= opened.acks, ANSWER_MAX)
            missing = {self.items[id - 1] for id in wanted - opened.acks}
            assert not missing or opened.entered is False, f"no ack of {missing}"
        else:
            await opened.until(lambda: 999 in opened.acks, PAUSE)
        if self.leave == "cut":
            raw.writer.write(Frame(Opcode.TEXT, b"x" * 300).serialize(mask=True)[:100])
            raw.writer.close()
        elif self.leave == "reset":
            raw.writer.transport.abort()
        elif self.leave == "close":
            raw.send(Opcode.CLOSE, b"\x03\xe8")


class OpenSocket:
    """An open socket: takes the acks, answers pings and calls."""

    def __init__(self, fuzzed: FuzzedServer, raw: FrameWebsocket, answer: bytes | None) -> None:
        self.acks: set[int] = set()
        self.entered: bool | None = None
        self._fuzzed = fuzzed
        self._raw = raw
        self._answer = answer
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while (frame := await self._raw.frame()) is not None:
                data = bytes(frame.data)
                if data == b"2":
                    self._raw.send(Opcode.TEXT, b"3")
                elif data.startswith(b"43"):
                    self.acks.add(int(data[2 : data.index(b"[")]))
                elif data.startswith((b"40", b"44")):
                    self.entered = data.startswith(b"40")
                    if self.entered:
                        self._fuzzed.remember("pid", json.loads(data[2:]).get("pid", ""))
                elif data.startswith(b"42") and b'"rpc-request"' in data[:40] and self._answer is not None:
                    id = data[2 : data.index(b"[")]
                    self._raw.send(Opcode.TEXT, b"43" + id + self._fuzzed.fill(self._answer))
                elif data.startswith(b"42[") and isinstance(last := json.loads(data[2:])[-1], str):
                    self._fuzzed.remember("offset", last)
                self._news.set()
        self.entered = False
        self._news.set()

    async def until(self, done: Any, patience: float) -> None:
        """Wait for that, a refusal, the end of the connection or of the patience (s)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not done() and self.entered is not False:
                    self._news.clear()
                    await self._news.wait()

    async def close(self) -> None:
        self._reading.cancel()
        self._raw.writer.close()
        await asyncio.gather(self._reading, return_exceptions=True)


@dataclass(frozen=True)
class PollingSession:
    """An Engine.IO connection over polling: bodies, odd queries, an upgrade that may go wrong."""

    bodies: tuple[bytes, ...]
    query: str
    upgrade: tuple[bytes, ...] | None
    reads: int

    async def run(self, fuzzed: FuzzedServer) -> None:
        path = "/v1/updates/?EIO=4&transport=polling"
        async with aiohttp.ClientSession() as http:

            async def ask(method: str, url: str, data: bytes = b"", patience: float = PAUSE) -> str:
                """-> the answer's text; "" when there was none in time."""
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience), http.request(method, url, data=data) as answer:
                        assert answer.status < 500, (method, url, data, answer.status)
                        return await answer.text(errors="replace")
                assert patience == PAUSE, f"no answer to {method} {url} {data!r}"
                return ""

            sid = json.loads((await ask("GET", fuzzed.url + path, patience=ANSWER_MAX))[1:])["sid"]
            url = f"{fuzzed.url}{path}&sid={sid}"
            try:
                for body in self.bodies:
                    fuzzed.packets += 1
                    await ask("POST", url, fuzzed.fill(body), ANSWER_MAX)
                for _ in range(self.reads):
                    await ask("GET", url)
                if self.upgrade is not None:
                    with contextlib.suppress(aiohttp.ClientError, ConnectionError, EOFError, TimeoutError):
                        async with await PacketWebsocket.open(fuzzed.url, sid) as wire:
                            for packet in self.upgrade:
                                await wire.send(fuzzed.fill(packet).decode("utf-8", "replace"))
                            await wire.packet(PAUSE)
                await ask("GET", f"{fuzzed.url}/v1/updates/?{self.query.replace('$sid', sid)}")
            finally:
                with contextlib.suppress(aiohttp.ClientError):
                    await ask("POST", url, b"1", ANSWER_MAX)


@dataclass(frozen=True)
class ConnectionBytes:
    """What may be no HTTP at all, on a connection of its own; the client then waits, or has left."""

    data: bytes
    wait: bool

    async def run(self, fuzzed: FuzzedServer) -> None:
        fuzzed.packets += 1
        async with await Connection.open(fuzzed.url) as connection:
            await connection.send(fuzzed.fill(self.data))
            if self.wait:
                with contextlib.suppress(TimeoutError, EOFError, OSError, ValueError):
                    answer = await connection.answer(timeout=4 * PAUSE)
                    assert answer.status < 500 or answer.status in (501, 505), (self.data, answer.status, answer.body)


@dataclass(frozen=True)
class VendorAnswer:
    """What Expo, GitHub and ElevenLabs answer from now on."""

    status: int
    body: bytes
    kind: str

    async def run(self, fuzzed: FuzzedServer) -> None:
        fuzzed.vendor_answer = (self.status, fuzzed.fill(self.body), self.kind)


@dataclass(frozen=True)
class Pause:
    """Wait, with the sockets open: timers of the server run out."""

    seconds: float

    async def run(self, fuzzed: FuzzedServer) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class Together:
    """Several steps at the same time, each on connections of its own but for requests, which take turns."""

    steps: tuple[HttpRequest | SocketSession | PollingSession, ...]

    async def run(self, fuzzed: FuzzedServer) -> None:
        await asyncio.gather(*(step.run(fuzzed) for step in self.steps))


Step = HttpRequest | SocketSession | PollingSession | ConnectionBytes | VendorAnswer | Pause | Together


async def run_scenario(fuzzed: FuzzedServer, steps: list[Step]) -> None:
    """Run the steps, then check that the server still works."""
    await fuzzed.new_account()
    try:
        for step in steps:
            try:
                await step.run(fuzzed)
            except (OSError, ConnectionLost) as error:
                raise AssertionError(f"{step}: {error!r}") from error
    finally:
        await fuzzed.close_opened()
    await fuzzed.check_health()
