"""What the tests drive a server with: accounts over HTTP and sockets of python-socketio's own client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import ssl
import uuid
from types import TracebackType
from typing import Any

import engineio.payload
import httpx
import nacl.signing
import socketio

Event = tuple[str, Any]

# What the JavaScript clients do not have: a limit of 16 packets in one polling answer.
engineio.payload.Payload.max_decode_packets = 100_000


def b64(value: bytes | str) -> str:
    """Return standard padded base64."""
    return base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()


def uid() -> str:
    """Return a fresh uuid, as clients make them for tags, machines and artifacts."""
    return str(uuid.uuid4())


class Socket:
    """A connected client. It keeps what it hears until the test asks."""

    lag = 0.0
    """s that an event may need from one process of the server under test to another."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncClient(reconnection=False)
        self.log: list[Event] = []
        self.arrived = asyncio.Event()
        self.dropped = asyncio.Event()
        self.refusal: Any = None
        self.answers: dict[str, Any] = {}
        """What to answer to an event that wants an ack: a value, or an async function of the data."""
        self.sio.on("*", self._hear)
        self.sio.on("connect_error", self._refused)
        self.sio.on("disconnect", lambda *_: self.dropped.set())

    async def _hear(self, event: str, *args: Any) -> Any:
        self.log.append((event, args[0] if args else None))
        self.arrived.set()
        answer = self.answers.get(event)
        return await answer(*args) if callable(answer) else answer

    def _refused(self, data: Any = None) -> None:
        self.refusal = data.get("message") if isinstance(data, dict) else data

    async def connect(self, url: str, auth: Any, transports: tuple[str, ...] = ("websocket",)) -> Socket:
        """Connect. Raises ConnectionError with the server's text when it is refused."""
        try:
            await self.sio.connect(
                url, auth=auth, transports=list(transports), socketio_path="v1/updates", wait_timeout=5
            )
        except socketio.exceptions.ConnectionError as error:
            raise ConnectionError(self.refusal or str(error)) from None
        return self

    async def call(self, event: str, *args: Any, timeout: float = 30) -> Any:
        """Emit with an ack and return it. Raises TimeoutError without one."""
        try:
            return await self.sio.call(event, args or None, timeout=timeout)
        except socketio.exceptions.TimeoutError:
            raise TimeoutError(f"no ack of {event}") from None

    async def emit(self, event: str, *args: Any) -> None:
        """Emit without an ack."""
        await self.sio.emit(event, args or None)

    async def heard(self, *events: str) -> list[Event]:
        """Everything that came since the last look, all that the server had sent by now included.

        What an answered request caused was sent before the answer, so a ping behind it proves that
        nothing is missing, and that nothing more is to come. With names: only events of these.
        """
        await self.call("ping")
        if self.lag:
            await asyncio.sleep(self.lag)
        log, self.log = self.log, []
        return [event for event in log if not events or event[0] in events]

    async def updates(self) -> list[dict[str, Any]]:
        """Return the bodies of the updates among what was heard."""
        return [frame["body"] for _, frame in await self.heard("update")]

    async def wait(self, event: str, timeout: float = 10) -> Any:
        """Return the payload of the next event of that name; older ones of it that were not taken count."""
        async with asyncio.timeout(timeout):
            while True:
                for index, (name, data) in enumerate(self.log):
                    if name == event:
                        del self.log[index]
                        return data
                self.arrived.clear()
                await self.arrived.wait()

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.sio.disconnect(), 3)


class Account:
    """A signed-in account."""

    def __init__(self, world: World, token: str, key: nacl.signing.SigningKey) -> None:
        self.world = world
        self.token = token
        self.key = key
        payload = token.split(".")[1]
        self.claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        self.id: str = self.claims["sub"]

    async def request(self, method: str, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        """Any request, with this account's token."""
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        if body is not None:
            kwargs["json"] = body
        return await self.world.http.request(method, path, headers=headers, **kwargs)

    async def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return await self.request("POST", path, body, **kwargs)

    async def put(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        return await self.request("PUT", path, body, **kwargs)

    async def delete(self, path: str, **kwargs: Any) -> httpx.Response:
        return await self.request("DELETE", path, **kwargs)

    async def ok(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Any:
        """Return the JSON of a request that must succeed."""
        response = await self.request(method, path, body, **kwargs)
        assert response.status_code == 200, (method, path, response.status_code, response.text[:500])
        return response.json()

    async def session(self, tag: str | None = None, metadata: str = "meta", **more: Any) -> Any:
        """Create or load a session by its tag."""
        body = {"tag": tag or uid(), "metadata": metadata, **more}
        return (await self.ok("POST", "/v1/sessions", body))["session"]

    async def machine(self, id: str | None = None, metadata: str = "meta", **more: Any) -> Any:
        """Register a machine and return it."""
        body = {"id": id or uid(), "metadata": metadata, **more}
        return (await self.ok("POST", "/v1/machines", body))["machine"]

    async def send(self, session_id: str, *local_ids: str, content: str = "text") -> Any:
        """Messages over HTTP, one for each localId."""
        body = {"messages": [{"content": content, "localId": local_id} for local_id in local_ids]}
        return (await self.ok("POST", f"/v3/sessions/{session_id}/messages", body))["messages"]

    async def socket(
        self, *, session: str | None = None, machine: str | None = None, transports: tuple[str, ...] = ("websocket",),
        **auth: Any,
    ) -> Socket:  # fmt: skip
        """Connect a socket for a session, a machine, or user-scoped. It is closed at the end of the test."""
        kind = "session-scoped" if session else "machine-scoped" if machine else "user-scoped"
        auth = {"token": self.token, "clientType": kind, **auth}
        if session:
            auth["sessionId"] = session
        if machine:
            auth["machineId"] = machine
        return await self.world.socket(auth, transports)


class World:
    """One test's accounts and sockets against one server: requests and sockets take turns with its processes."""

    def __init__(self, *urls: str, verify: ssl.SSLContext | bool = False) -> None:
        """Take the URLs of the processes of a server; `verify` checks their certificates, and takes 20 ms to load."""
        self.url = urls[0]
        self._urls = itertools.cycle(urls)
        spread = {"request": [self._spread]} if len(urls) > 1 else {}
        self.http = httpx.AsyncClient(base_url=urls[0], timeout=20, trust_env=False, verify=verify, event_hooks=spread)
        self.sockets: list[Socket] = []

    async def _spread(self, request: httpx.Request) -> None:
        """Send a request to the next process."""
        url = httpx.URL(next(self._urls))
        request.url = request.url.copy_with(host=url.host, port=url.port)

    async def account(self, key: nacl.signing.SigningKey | None = None) -> Account:
        """Sign in to a new account, or to the one of `key`."""
        key = key or nacl.signing.SigningKey.generate()
        challenge = os.urandom(32)
        body = {
            "publicKey": b64(bytes(key.verify_key)),
            "challenge": b64(challenge),
            "signature": b64(key.sign(challenge).signature),
        }
        response = await self.http.post("/v1/auth", json=body)
        assert response.status_code == 200, response.text
        return Account(self, response.json()["token"], key)

    async def socket(self, auth: Any, transports: tuple[str, ...] = ("websocket",)) -> Socket:
        """Open a socket with any handshake. Raises ConnectionError with the server's text."""
        socket = await Socket().connect(next(self._urls), auth, transports)
        self.sockets.append(socket)
        return socket

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(socket.close() for socket in self.sockets))
        await self.http.aclose()
