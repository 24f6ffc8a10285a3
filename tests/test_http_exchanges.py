"""What a connection of the HTTP edge does from request to request: who waits for whom, how it ends, what it keeps."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httptools
import pytest
from websockets.frames import Frame, Opcode

from happy_light.stack import httptools_connection, httptools_parser
from tests.client import World
from tests.http_edge import LARGE, Edge
from tests.raw_connections import Connection

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = b"Host: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" \
          b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"  # fmt: skip


@pytest.fixture
async def edge(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Edge]:
    """Return an edge, and check that it logged no warning, whatever was sent to it."""
    async with Edge() as edge:
        yield edge
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def until(fact: Any) -> None:
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.005)


def text(data: str) -> bytes:
    """Return a websocket's text frame, as clients send it."""
    return Frame(Opcode.TEXT, data.encode()).serialize(mask=True)


# -------------------------------------------------------------------------------------------- pipelining
async def test_pipelined_requests_are_answered_in_order(edge: Edge) -> None:
    requests = []
    for number in range(300):
        if number % 3 == 0:
            requests.append(b"GET /r%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        elif number % 3 == 1:
            requests.append(b"POST /r%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\r\n\r\n" % number)
        else:
            body = b"4\r\n\r\n\r\n\r\n0\r\n\r\n"
            requests.append(b"POST /r%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%b" % (number, body))
    async with await edge.open() as connection:
        await connection.send(b"".join(requests))
        for number in range(300):
            answer = (await connection.answer()).json()
            assert (answer["path"], answer["body"]) == (f"/r{number}", "\r\n\r\n" if number % 3 else "")


async def test_a_pipelined_request_is_not_looked_at_before_the_first_is_answered(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(SLOW + GET + b"A : b\r\n\r\n")
        await edge.app.asked.wait()
        assert (await edge.asked(GET + b"\r\n")).status == 200
        assert edge.app.heads == [("GET", "/slow"), ("GET", "/echo"), ("GET", "/next")]
        edge.app.go_on.set()
        assert [(await connection.answer()).status, (await connection.answer()).status] == [200, 400]
        assert await connection.ended()


async def test_what_is_pipelined_behind_a_slow_request_waits_in_the_network(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(SLOW)
        await edge.app.asked.wait()
        (transport,) = edge.config.transports
        large = GET + b"A: " + b"b" * 60_000 + b"\r\n\r\n"
        sending = asyncio.create_task(connection.send(large * 100))
        await until(lambda: not transport.is_reading())  # type: ignore[attr-defined]
        assert edge.app.heads == [("GET", "/slow")]
        edge.app.go_on.set()
        assert (await connection.answer()).json()["path"] == "/slow"
        for _ in range(100):
            assert (await connection.answer()).json()["path"] == "/echo"
        await sending


async def test_a_client_that_leaves_with_requests_unread_leaves_nothing_behind(edge: Edge) -> None:
    """Hypercorn waits for ever behind an answer that is never finished, if a request waits there."""
    async with await edge.open() as connection:
        await connection.send(b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"\r\n")
        await connection.reader.readuntil(b"xxx\r\n")
        connection.writer.transport.abort()
    await until(lambda: not edge.config.transports)
    assert edge.app.heads == [("GET", "/watch")]


async def test_a_stop_ends_a_connection_on_which_requests_wait(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(SLOW + GET + b"\r\n" + GET + b"\r\n")
        await edge.app.asked.wait()
        edge.stop.set()
        await until(lambda: edge.config.ending)
        edge.app.go_on.set()
        assert (await connection.answer()).json()["path"] == "/slow"
        assert await connection.ended()
    await until(edge.task.done)
    assert edge.app.heads == [("GET", "/slow")]


# --------------------------------------------------------------------------------------- bodies, answers
async def test_a_client_that_expects_100_continue_gets_it_before_it_sends_the_body(edge: Edge) -> None:
    async with await edge.open() as connection:
        for expect in (b"100-continue", b"a, 100-Continue"):
            await connection.send(POST + b"Expect: %b\r\nContent-Length: 3\r\n\r\n" % expect)
            assert (await connection.answer()).status == 100
            await connection.send(b"abc")
            answer = await connection.answer()
            assert (answer.status, answer.json()["body"]) == (200, "abc")
        await connection.send(POST + b"Expect: something\r\nContent-Length: 3\r\n\r\nabc")
        assert (await connection.answer()).status == 200
    async with await edge.open() as connection:
        await connection.send(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
        assert (await connection.answer()).status == 200


async def test_what_has_no_body_leaves_the_connection_in_step(edge: Edge) -> None:
    async with await edge.open() as connection:
        for path in ("/echo", "/stream"):
            head = await connection.request("HEAD", path)
            get = await connection.request("GET", path)
            assert head.status == get.status == 200
            assert head.headers.get("transfer-encoding") == get.headers.get("transfer-encoding")
        assert head.headers["transfer-encoding"] == "chunked"
        for status in (204, 304):
            answer = await connection.request("GET", f"/{status}")
            assert (answer.status, answer.body) == (status, b"")
            assert "transfer-encoding" not in answer.headers
        assert (await connection.request("POST", "/stream", body=b"abc")).json()["body"] == "abc"
        assert (await connection.request("GET", "/echo")).headers["date"].endswith(" GMT")


async def test_an_answer_before_the_body_ends_the_connection(edge: Edge) -> None:
    """What comes behind is the rest of the body, not a request."""
    async with await edge.open() as connection:
        await connection.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        assert (await connection.answer()).status == 200
        await connection.send(GET + b"\r\n")
        assert await connection.ended()
    assert edge.app.heads == [("POST", "/early")]


async def test_an_answer_before_a_large_body_ends_the_connection(edge: Edge) -> None:
    """What has arrived of the body is more than may wait for the application, which does not receive it."""
    async with await edge.open() as connection:
        head = b"POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.send(head + bytes(20_000_000)), 0.3)
        edge.app.go_on.set()
        assert (await connection.answer()).status == 200
        assert await connection.ended()
    async with asyncio.timeout(10):
        while edge.config.room.open:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("path", ["/fails", "/silent", "/head"])
async def test_an_application_that_sends_no_answer_is_a_500(edge: Edge, path: str) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
    assert await edge.refused(request) == 500
    assert await edge.refused(request + GET) == 500, "what is pipelined behind it is not answered"
    assert [name for _, name in edge.app.heads] == [path, path]


async def test_an_answer_that_ends_too_early_is_cut_off(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")
        received = await connection.reader.read()
    assert received.startswith(b"HTTP/1.1 200 ") and received.endswith(b"half")


async def test_a_body_that_the_application_does_not_receive_waits_in_the_network(edge: Edge) -> None:
    """And arrives whole once it is received, or is dropped when the client leaves."""
    size = 20_000_000
    head = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    leaving = await edge.open()
    async with await edge.open() as connection:
        for each in (leaving, connection):
            with pytest.raises(TimeoutError):  # much of it is not taken
                await asyncio.wait_for(each.send(head + b"x" * size), 0.3)
        leaving.writer.transport.abort()
        edge.app.go_on.set()
        assert (await connection.answer()).json()["body"] == "x" * size
        assert (await connection.request("GET", "/echo")).status == 200
    assert [len(body) for body in edge.app.bodies] == [size, 0]


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 3_000_000])
async def test_bodies_of_any_size_arrive_whole(edge: Edge, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    async with await edge.open() as connection:
        for _ in range(2):
            await connection.send(POST + b"Content-Length: %d\r\n\r\n%b" % (size, body[:size]))
            assert (await connection.answer()).json()["body"].encode("latin-1") == body[:size]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1], body[1:size]) if part)
        await connection.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await connection.answer()).json()["body"].encode("latin-1") == body[:size]


# ---------------------------------------------------------------------------------------------- the end
@pytest.mark.parametrize("headers", [b"", b"Connection: keep-alive\r\n", b"Host: x\r\n"])
async def test_http_1_0_gets_one_answer(edge: Edge, headers: bytes) -> None:
    async with await edge.open() as connection:
        await connection.send(b"GET /stream HTTP/1.0\r\n" + headers + b"\r\n")
        answer = await connection.reader.read()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert json.loads(body)["version"] == "1.0"
        assert b"connection: close" in head.lower()
        assert b"transfer-encoding" not in head.lower()


async def test_connection_close_is_kept_to_and_other_words_are_not_close(edge: Edge) -> None:
    for headers in (b"Connection: close\r\n", b"connection: a, CLOSE\r\n", b"Connection: a\r\nConnection: close\r\n"):
        async with await edge.open() as connection:
            await connection.send(GET + headers + b"\r\n")
            assert (await connection.answer()).headers["connection"] == "close"
            assert await connection.ended()
    for headers in (b"Connection: closed\r\n", b"Connection: keep-alive\r\n", b"X-Connection: close\r\n"):
        answer = await edge.asked(GET + headers + b"\r\n")
        assert (answer.status, answer.headers.get("connection")) == (200, None)


async def test_nothing_is_a_request_behind_the_last(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(GET + b"Connection: close\r\n\r\n" + GET + b"\r\n")
        await connection.answer()
        assert await connection.reader.read() == b""
    assert len(edge.app.heads) == 1


@pytest.mark.parametrize("sent", [b"GET", GET, POST + b"Content-Length: 5\r\n\r\nabc",
                                  POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"])  # fmt: skip
async def test_a_client_that_says_no_more_than_half_is_told(edge: Edge, sent: bytes) -> None:
    async with await edge.open() as connection:
        await connection.send(sent)
        connection.writer.write_eof()
        assert (await connection.answer()).status == 400
        assert await connection.reader.read() == b""
    assert edge.app.bodies == []


# -------------------------------------------------------------------------------------------- websockets
async def test_frames_reach_the_application_from_the_upgrade_on(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(GET + b"\r\n")
        assert (await connection.answer()).status == 200
        await connection.send(b"GET /ws HTTP/1.1\r\n" + UPGRADE)
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for byte in text("a") + text("b"):
            await connection.send(bytes((byte,)))
        assert await connection.reader.readexactly(6) == b"\x81\x01a\x81\x01b"


async def test_an_upgrade_that_nobody_wants_is_a_plain_request(edge: Edge) -> None:
    for headers in (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"):
        answer = await edge.asked(POST + headers + b"Content-Length: 3\r\n\r\nabc")
        assert answer.json()["body"] == "abc"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        assert (await edge.asked(POST + headers + chunked)).json()["body"] == "abc"


async def test_a_connection_that_is_taken_over_hears_frames_of_any_cut(world: World) -> None:
    """The real server: a message POST and a socket on one connection after the other."""
    alice = await world.account()
    async with await Connection.open(world.url) as connection:
        assert (await connection.request("GET", "/health")).status == 200
        await connection.send(b"GET /v1/updates/?EIO=4&transport=websocket HTTP/1.1\r\n" + UPGRADE)
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await connection.reader.readuntil(b"}"))[2:3] in (b"0", b"\x00")
        for byte in text("40" + json.dumps({"token": alice.token})):
            await connection.send(bytes((byte,)))
        assert b"40{" in await connection.reader.readuntil(b"}")


# ------------------------------------------------------------------------------------------------ memory
def locals_of(task: asyncio.Task[Any]) -> Iterator[Any]:
    """Return what the local names of a waiting task refer to."""
    coroutine: Any = task.get_coro()
    while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
        yield from coroutine.cr_frame.f_locals.values()
        coroutine = coroutine.cr_await


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[Any]]]:
    """Every connection and parser made in this test, which must end without the garbage collector."""
    made: list[weakref.ref[Any]] = []

    class Watched(httptools_connection.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    class WatchedParser(httptools.HttpRequestParser):
        def __init__(self, protocol: object) -> None:
            super().__init__(protocol)
            made.append(weakref.ref(self))

    monkeypatch.setattr(httptools_connection, "Connection", Watched)
    monkeypatch.setattr(httptools_parser, "HttpRequestParser", WatchedParser)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


async def test_a_large_answer_is_not_copied_as_a_whole(edge: Edge) -> None:
    async with await edge.open() as connection:
        gc.collect()
        tracemalloc.start()
        try:
            await connection.send(GET.replace(b"/echo", b"/large") + b"\r\n")
            await connection.reader.readexactly(1000)  # it is under way, and waits for the rest to be read
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < len(LARGE) / 2
        assert (await connection.reader.readexactly(len(LARGE) - 1000)).count(0) == len(LARGE) - 1000


LEFT = {
    "at once": b"",
    "within a head": GET + b"A: " + b"b" * 50_000,
    "behind a request": GET + b"\r\n",
    "behind a refusal": GET + b"A : b\r\n\r\n",
    "within a body": POST + b"Content-Length: 100000\r\n\r\n" + b"b" * 50_000,
    "within a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n20000\r\n" + b"b" * 50_000,
    "behind a bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    "with a request that waits": SLOW + GET + b"A: " + b"b" * 50_000 + b"\r\n\r\n",
    "within a websocket's frame": b"GET /ws HTTP/1.1\r\n" + UPGRADE,
}


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", LEFT.values(), ids=LEFT.keys())
async def test_a_connection_that_ends_is_freed_at_once(
    made: list[weakref.ref[Any]], edge: Edge, sent: bytes, abort: bool
) -> None:
    connection = await edge.open()
    await connection.send(sent)
    if b"/ws" in sent:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(text("a" * 50_000)[:-1])
    elif b"/slow" in sent:
        await edge.app.asked.wait()
    elif b": b\r\n" in sent or sent.endswith((b"\r\n\r\n", b"x\r\n")):
        await connection.reader.readuntil(b"\r\n\r\n")
    await until(lambda: made)
    if abort:
        connection.writer.transport.abort()
    else:
        connection.writer.close()
    edge.app.go_on.set()
    await until(lambda: not edge.config.transports)
    await until(lambda: not any(each() for each in made))


async def test_nothing_of_a_request_is_kept_while_the_next_is_waited_for(
    made: list[weakref.ref[Any]], edge: Edge
) -> None:
    requests = [GET + b"\r\n", POST + b"Content-Length: 3\r\n\r\nabc",
                POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n"]  # fmt: skip
    async with await edge.open() as connection:
        for request in requests:
            await connection.send(request)
            assert (await connection.answer()).status == 200
            await until(lambda: len(edge.config.idle) == 1)
            (kept,) = [each() for each in made if each() is not None]
            assert isinstance(kept, httptools_connection.Connection)
            held = [getattr(kept, name) for name in kept.__slots__ if name != "__weakref__"]
            assert [each for each in held if isinstance(each, bytes) and each] == []
            assert not any(isinstance(each, httptools_parser.ChunkedBody) for each in held)
            held = [
                each for task in asyncio.all_tasks() if task is not asyncio.current_task() for each in locals_of(task)
            ]
            assert len(held) > 5
            assert [each for each in held if isinstance(each, bytes) and b"Host: x" in each] == []
