"""Names of Hypercorn that happy_light/stack/ relies on: each still means what the code believes.

The table below lists the private ones. A test fails if the code uses one that is not in it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
from pathlib import Path
from typing import Any, cast

import h11
import pytest
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol import h11 as http1
from hypercorn.protocol.events import Body, EndBody, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from happy_light.stack import hypercorn_server

STACK = Path(hypercorn_server.__file__).parent

PRIVATE = {
    "_check_protocol": "H11Protocol: called with each request, before its stream is made; looks for HTTP/2",
    "_create_stream": "H11Protocol: called with each request; makes `self.stream` and gives it the request",
}


def test_every_private_name_in_use_is_listed_here() -> None:
    own: set[str] = set()
    used: set[str] = set()
    for path in STACK.glob("hypercorn*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
    library = {name for kind in (H11Protocol, WSStream, H11WSConnection) for name in vars(kind)}
    foreign = (used - own) | (own & library)
    assert {name for name in foreign if name.startswith("_") and not name.startswith("__")} == set(PRIVATE)


class Protocol(H11Protocol):
    """Hypercorn's own, that tells what it calls."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.seen: list[Any] = []
        context = WorkerContext(None)
        app: Any = ASGIWrapper(answer)
        super().__init__(app, Config(), context, tasks, ConnectionState({}), False, ("c", 1), ("s", 2), self.sent)

    async def sent(self, event: Any) -> None:
        self.seen.append(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        self.seen.append(("_check_protocol", event.method, list(event.headers)))
        await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        self.seen.append(("_create_stream", request.target, request.http_version))
        assert self.stream is None
        await super()._create_stream(request)
        self.seen.append(type(self.stream))


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answer"})


HANDSHAKE = (
    b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: eDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)


class Stream:
    """In the place of the library's: tells what it is given."""

    idle = False

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def handle(self, event: Any) -> None:
        self.seen.append(event)


class OwnStream(Protocol):
    """Hypercorn's protocol with a stream that is not its own."""

    async def _create_stream(self, request: h11.Request) -> None:
        self.seen.append(("_create_stream", request.target, request.http_version))
        self.stream = cast(Any, Stream())


async def test_a_request_is_checked_and_then_gets_its_stream() -> None:
    async with TaskGroup(asyncio.get_running_loop()) as tasks:
        protocol = OwnStream(tasks)
        await protocol.handle(RawData(b"POST /path?q HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"))
        stream = protocol.stream
        assert isinstance(stream, Stream)
        assert isinstance(protocol.seen[0], Updated) and protocol.seen[0].idle is False
        assert protocol.seen[1:] == [
            ("_check_protocol", b"POST", [(b"host", b"h"), (b"content-length", b"3")]),
            ("_create_stream", b"/path?q", b"1.1"),
        ]
        assert stream.seen == [Body(STREAM_ID, b"abc"), EndBody(STREAM_ID)]
        protocol.connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
        protocol.connection.send(h11.EndOfMessage())
        await protocol.stream_send(StreamClosed(STREAM_ID))
    assert stream.seen[-1] == StreamClosed(STREAM_ID) and protocol.stream is None
    assert isinstance(protocol.seen[-1], Updated) and protocol.seen[-1].idle is True


async def test_a_connection_that_cannot_be_used_again_is_closed_behind_its_answer() -> None:
    async with TaskGroup(asyncio.get_running_loop()) as tasks:
        protocol = OwnStream(tasks)
        await protocol.handle(RawData(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"))
        await protocol.stream_send(StreamClosed(STREAM_ID))
    assert isinstance(protocol.seen[-1], Closed) and protocol.stream is None


async def test_plain_http_would_go_over_to_http2_if_the_check_were_not_skipped() -> None:
    async with TaskGroup(asyncio.get_running_loop()) as tasks:
        protocol = Protocol(tasks)
        with pytest.raises(http1.H2CProtocolRequiredError):
            await protocol.handle(RawData(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n"))


async def test_an_accepted_websocket_has_no_compression_once_its_extensions_are_gone() -> None:
    """`WSStream.handshake.extensions` is what the client offers; `app_send` answers it at `websocket.accept`."""
    for gone in (False, True):
        with pytest.raises(ExceptionGroup):
            async with TaskGroup(asyncio.get_running_loop()) as tasks:
                protocol = Protocol(tasks)
                await protocol.handle(RawData(HANDSHAKE))
                stream = protocol.stream
                assert isinstance(stream, WSStream) and isinstance(protocol.connection, H11WSConnection)
                assert stream.handshake.extensions == ["permessage-deflate"] and not stream.closed
                if gone:
                    stream.handshake.extensions = None
                await asyncio.sleep(0)  # the application accepts it
                written = b"".join(event.data for event in protocol.seen if isinstance(event, RawData))
                assert written.startswith(b"HTTP/1.1 101")
                assert (b"permessage-deflate" in written) is not gone
                stream.closed = True
                sent = len(protocol.seen)
                await stream.app_send({"type": "websocket.send", "bytes": None, "text": "x"})
                await stream.app_send(None)
                assert len(protocol.seen) == sent, "a stream that is closed says nothing more"
                raise ZeroDivisionError  # ends the application, which waits


async def test_the_application_is_called_with_scope_receive_send_and_two_more() -> None:
    called: list[Any] = []

    async def app(*args: Any) -> None:
        called.append(args)

    async with TaskGroup(asyncio.get_running_loop()) as tasks:
        protocol = Protocol(tasks)
        protocol.app = cast(Any, app)
        await protocol.handle(RawData(HANDSHAKE))
    ((scope, _, _, _, _),) = called
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert (scope["type"], scope["path"], scope["client"], scope["server"]) == ("websocket", "/x", ("c", 1), ("s", 2))


SIGNATURES = {
    H11Protocol: "self, app, config, context, task_group, connection_state, ssl, client, server, send",
    WSStream: "self, app, config, context, task_group, ssl, client, server, send, stream_id",
    H11WSConnection: "self, h11_connection",
    WorkerContext: "self, max_requests",
    TaskGroup: "self, loop",
    ASGIWrapper: "self, app",
    Request: "self, stream_id, headers, http_version, method, raw_path, state",
}


@pytest.mark.parametrize("kind", SIGNATURES, ids=lambda kind: kind.__name__)
def test_constructors_take_what_they_are_given(kind: type) -> None:
    assert ", ".join(inspect.signature(vars(kind)["__init__"]).parameters) == SIGNATURES[kind]


async def test_what_else_is_used_is_there() -> None:
    assert STREAM_ID == 1
    assert parse_socket_addr(2, ("127.0.0.1", 5)) == ("127.0.0.1", 5)
    terminated = WorkerContext(None).terminated
    assert not terminated.is_set()
    await terminated.set()
    assert terminated.is_set()
    assert isinstance(Closed(), Closed)
    config = Config()
    assert config.ssl_enabled is False and config.ssl_handshake_timeout > 0
    for name in ("create_sockets", "create_ssl_context"):
        assert callable(getattr(config, name))
