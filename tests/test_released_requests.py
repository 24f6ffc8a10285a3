"""Nothing of a request outlives its answer, whichever way it ends: no cycle waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from websockets.frames import Opcode

from happy_light import pace
from happy_light.domains import kv
from happy_light.errors import SESSION_NOT_FOUND, ApiError
from happy_light.server import Server
from happy_light.store import Transaction
from tests.client import Account, World, uid
from tests.raw_connections import Connection, FrameWebsocket

pytestmark = pytest.mark.slow  # looks at all objects, again and again

SIZE = 2_000_000  # bytes of a request
TIMES = 3
Inside = Callable[..., Awaitable[Server]]


@pytest.fixture
def traced() -> Iterator[None]:
    """Python's allocations are counted, and the garbage collector does not run."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


@pytest.fixture
async def server(inside: Inside, traced: None) -> AsyncIterator[Server]:
    # What was cut off would be kept, as it should, for the client to continue.
    yield await inside(recovery_window="0")


async def keeps_nothing(request: Callable[[], Awaitable[None]]) -> None:
    """Make the request several times; what it carried must be gone afterwards. The first time fills caches."""
    await request()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(TIMES):
        await request()
    async with asyncio.timeout(5):
        while tracemalloc.get_traced_memory()[0] > before + SIZE // 2:
            await asyncio.sleep(0.01)


def message(local_id: Any = None) -> dict[str, Any]:
    return {"messages": [{"content": "x" * SIZE, "localId": local_id}]}


def message_request(alice: Account, session: str) -> tuple[bytes, bytes]:
    """Return the head and the body of a request that stores a message."""
    body = json.dumps(message("same")).encode()
    head = (
        f"POST /v3/sessions/{session}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


async def post(server: Server, alice: Account, path: str, body: Any, status: int) -> None:
    """By hand, because httpx keeps what it sent for a while."""
    async with await Connection.open(server.url) as raw:
        headers = {"Authorization": f"Bearer {alice.token}", "Content-Type": "application/json"}
        assert (await raw.request("POST", path, headers, json.dumps(body).encode())).status == status


async def test_over_http(server: Server) -> None:
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        path = f"/v3/sessions/{session}/messages"
        await keeps_nothing(lambda: post(server, alice, path, message("same"), 200))
        await keeps_nothing(lambda: post(server, alice, "/v3/sessions/none/messages", message("1"), 404))
        await keeps_nothing(lambda: post(server, alice, path, message(5), 400))
        await keeps_nothing(lambda: post(server, alice, "/v1/version", {"platform": "x" * SIZE}, 413))
        await keeps_nothing(lambda: post(server, alice, "/nothing", message("1"), 404))


async def test_over_http_when_the_write_fails_after_it_has_begun(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the group runs again with savepoints."""
    whole = kv.mutate

    def fails(tx: Transaction, account_id: str, mutations: list[kv.Mutation]) -> Any:
        whole(tx, account_id, mutations)
        raise ApiError(SESSION_NOT_FOUND)  # an unexpected error is logged, and pytest keeps what is logged

    monkeypatch.setattr(kv, "mutate", fails)
    async with World(server.url) as world:
        alice = await world.account()
        body = {"mutations": [{"key": "k", "value": "eHh4" * (SIZE // 4), "version": -1}]}
        await keeps_nothing(lambda: post(server, alice, "/v1/kv", body, 404))


@pytest.mark.parametrize("whole", [False, True])
async def test_over_http_when_the_client_leaves(server: Server, whole: bool) -> None:
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]

        async def request() -> None:
            head, body = message_request(alice, session)
            raw = await Connection.open(server.url)
            await raw.send(head + (body if whole else body[:-1]))
            raw.writer.transport.abort()

        await keeps_nothing(request)


async def test_over_http_when_the_body_takes_too_long(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "PERIOD", 0.3)
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]

        async def request() -> None:
            head, body = message_request(alice, session)
            async with await Connection.open(server.url) as raw:
                await raw.send(head + body[:-1])
                assert (await raw.answer()).status == 408

        await keeps_nothing(request)


async def call(raw: FrameWebsocket, event: str, data: Any, expected: str) -> None:
    raw.say("421" + json.dumps([event, data]))
    ack = await raw.text()
    assert ack.startswith("431") and expected in ack, ack[:500]


async def registered(server: Server, alice: Account) -> FrameWebsocket:
    """Return a websocket that has registered the method m."""
    target = await (await FrameWebsocket.open(server.url)).enter(alice.token)
    target.say('421["rpc-register",{"method":"m"}]')
    while not (await target.text()).startswith("431"):
        pass
    return target


async def test_over_sockets(server: Server) -> None:
    server.context.rpc.appear = 0.05
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        large = "x" * SIZE

        def metadata(sid: str, version: Any) -> dict[str, Any]:
            return {"sid": sid, "metadata": large, "expectedVersion": version}

        event = "update-metadata"
        await keeps_nothing(lambda: call(raw, event, metadata(session, 99), "version-mismatch"))
        await keeps_nothing(lambda: call(raw, event, metadata("none", 1), '"error"'))
        await keeps_nothing(lambda: call(raw, event, metadata(session, "1"), '"error"'))
        await keeps_nothing(lambda: call(raw, "no-such-event", {"data": large}, "Unknown event"))
        await keeps_nothing(
            lambda: call(raw, "rpc-call", {"method": "none", "params": large}, "RPC method not available")
        )
        raw.writer.close()


async def test_over_sockets_when_an_rpc_call_ends_without_an_answer(server: Server) -> None:
    async with World(server.url) as world:
        alice = await world.account()
        caller = await (await FrameWebsocket.open(server.url)).enter(alice.token)

        async def request() -> None:
            target = await registered(server, alice)
            calling = asyncio.create_task(call(caller, "rpc-call", {"method": "m", "params": "x" * SIZE}, "false"))
            await target.reader.readuntil(b"rpc-request")  # and no more, since this client would keep it
            target.writer.transport.abort()
            await calling

        await keeps_nothing(request)
        caller.writer.close()


async def test_streams(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole upload, a refused one, one whose client leaves, and one that takes too long."""
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        body = b"x" * SIZE

        def head(path: str) -> bytes:
            return (
                f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
                f"Content-Type: application/octet-stream\r\nContent-Length: {SIZE}\r\n\r\n"
            ).encode()

        async def upload(owner: str, status: int, sent: bytes = body) -> None:
            async with await Connection.open(server.url) as raw:
                await raw.send(head(f"/v1/sessions/{owner}/attachments/{uid()}.enc") + sent)
                assert (await raw.answer()).status == status

        async def leave() -> None:
            raw = await Connection.open(server.url)
            await raw.send(head(f"/v1/sessions/{session}/attachments/{uid()}.enc") + body[:-1])
            raw.writer.transport.abort()

        await keeps_nothing(lambda: upload(session, 200))
        await keeps_nothing(lambda: upload("none", 404))
        await keeps_nothing(leave)
        monkeypatch.setattr(pace, "PERIOD", 0.3)
        await keeps_nothing(lambda: upload(session, 408, body[:-1]))


async def test_over_sockets_when_the_write_succeeds(server: Server) -> None:
    """The message is stored once; the others are answered with it."""
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
        message = {"sid": session, "message": "x" * SIZE, "localId": "same"}
        await keeps_nothing(lambda: call(raw, "message", message, '"ok":true'))
        raw.writer.close()


@pytest.mark.parametrize("whole", [False, True])
async def test_over_sockets_when_the_client_leaves(server: Server, whole: bool) -> None:
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        data = {"sid": session, "message": "x" * SIZE, "localId": "same"}

        async def request() -> None:
            raw = await (await FrameWebsocket.open(server.url)).enter(alice.token)
            text = "421" + json.dumps(["message", data])
            raw.send(Opcode.TEXT, text.encode() if whole else text[:-1].encode(), whole)
            await raw.writer.drain()
            raw.writer.transport.abort()

        await keeps_nothing(request)


async def test_over_sockets_when_an_rpc_call_times_out(server: Server) -> None:
    server.context.clients.call_timeouts.seconds = 0.2
    async with World(server.url) as world:
        alice = await world.account()
        caller = await (await FrameWebsocket.open(server.url)).enter(alice.token)

        async def request() -> None:
            target = await registered(server, alice)
            await call(caller, "rpc-call", {"method": "m", "params": "x" * SIZE}, "timed out")
            target.writer.transport.abort()

        await keeps_nothing(request)
        caller.writer.close()


async def test_over_polling(server: Server) -> None:
    """Events of polled connections: a success, a refusal and what does not fit."""
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        path = "/v1/updates/?EIO=4&transport=polling"
        async with await Connection.open(server.url) as raw:
            sid = json.loads((await raw.request("GET", path)).body[1:])["sid"]
            path += f"&sid={sid}"
            await raw.request("POST", path, body=f"40{json.dumps({'token': alice.token})}".encode())
            assert (await raw.request("GET", path)).body.startswith(b"40{")

            async def emit(event: str, data: dict[str, Any], expected: bytes) -> None:
                await raw.request("POST", path, body=("421" + json.dumps([event, data])).encode())
                ack = (await raw.request("GET", path)).body
                while not ack.startswith(b"431"):  # a ping
                    ack = (await raw.request("GET", path)).body
                assert expected in ack

            large = "x" * SIZE
            message = {"sid": session, "message": large, "localId": "same"}
            await keeps_nothing(lambda: emit("message", message, b'"ok":true'))
            await keeps_nothing(lambda: emit("message", {**message, "sid": "none"}, b'"ok":false'))
            await keeps_nothing(lambda: emit("message", {**message, "sid": 5}, b'"ok":false'))
