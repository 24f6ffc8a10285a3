"""An application that says what it was asked, behind the connections of the HTTP edge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from types import TracebackType
from typing import Any

from happy_light import config
from happy_light.stack import hypercorn_server
from tests.raw_connections import Connection, HttpAnswer

LARGE = bytes(8 * 1024 * 1024)


class App:
    """An application that says what it was asked. `heads` and `bodies` are what reached it, the latter if complete."""

    def __init__(self) -> None:
        self.heads: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._websocket(receive, send)
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.heads.append((scope["method"], path))
        self.asked.set()
        if path in ("/slow", "/late"):
            await self.go_on.wait()
        if path == "/fails":
            raise ZeroDivisionError
        if path == "/silent":
            return
        if path == "/head":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            raise ZeroDivisionError
        if path == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ZeroDivisionError
        if path == "/watch":
            await self._watch(receive, send)
            return
        body = b""
        while path not in ("/early", "/late"):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                break
        if path in ("/204", "/304"):
            await send({"type": "http.response.start", "status": int(path[1:]), "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if path == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8388608")]})
            await send({"type": "http.response.body", "body": LARGE})
            return
        answer = json.dumps({
            "method": scope["method"],
            "path": scope["raw_path"].decode(),
            "version": scope["http_version"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "body": body.decode("latin-1"),
        }).encode()  # fmt: skip
        headers = [] if path == "/stream" else [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer[:10], "more_body": True})
        await send({"type": "http.response.body", "body": answer[10:]})

    async def _watch(self, receive: Any, send: Any) -> None:
        """Send until the client has left."""
        while (await receive())["more_body"]:
            pass
        left = asyncio.create_task(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not left.done():
            await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
            await asyncio.sleep(0.001)

    async def _websocket(self, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


class Edge:
    """The app behind the server's own connections, on a real socket."""

    async def __aenter__(self) -> Edge:
        self.app = App()
        self.stop = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.config = settings = hypercorn_server.settings_of(config.load({}, {}))
        settings.bind = [f"fd://{listener.detach()}"]
        self.task = asyncio.create_task(hypercorn_server.serve(self.app, settings, self._until))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)

    async def _until(self) -> None:
        await self.stop.wait()

    async def open(self) -> Connection:
        return await Connection.open(self.url)

    async def refused(self, *pieces: bytes) -> int:
        """Send pieces and return the status of the only answer, after which the connection was closed."""
        async with await self.open() as connection:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    await connection.send(piece)
            answer = await connection.answer()
            assert answer.headers.get("connection") == "close"
            assert await connection.reader.read() == b""
        return answer.status

    async def asked(self, request: bytes, head: bool = False) -> HttpAnswer:
        """Send a request and return its answer; the connection must then serve another one."""
        async with await self.open() as connection:
            await connection.send(request)
            answer = await connection.answer(head)
            assert (await connection.request("GET", "/next")).json()["path"] == "/next"
        return answer
