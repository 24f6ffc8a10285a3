"""The socket handshake, and what a client can do to it that no client should."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from happy_light.live import transport
from happy_light.server import Server
from tests.client import Socket, World, uid
from tests.raw_connections import Connection, PacketWebsocket

Inside = Callable[[], Awaitable[Server]]


async def alive(world: World) -> None:
    """Check that the server still serves."""
    assert await (await (await world.account()).socket()).call("ping") == {}


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        (None, "Missing authentication token"),
        ({}, "Missing authentication token"),
        ([], "Missing authentication token"),
        ("x", "Missing authentication token"),
        ({"token": ""}, "Missing authentication token"),
        ({"token": 5}, "Missing authentication token"),
        ({"clientType": "session-scoped"}, "Missing authentication token"),
        ({"token": "x", "clientType": "session-scoped"}, "Session ID required for session-scoped clients"),
        ({"token": "x", "clientType": "session-scoped", "sessionId": ""},
         "Session ID required for session-scoped clients"),
        ({"token": "x", "clientType": "session-scoped", "sessionId": 5},
         "Session ID required for session-scoped clients"),
        ({"token": "x", "clientType": "machine-scoped"}, "Machine ID required for machine-scoped clients"),
        ({"token": "x", "clientType": "machine-scoped", "machineId": None},
         "Machine ID required for machine-scoped clients"),
        ({"token": "x"}, "Invalid authentication token"),
        ({"token": "x", "clientType": "session-scoped", "sessionId": "s"}, "Invalid authentication token"),
        ({"token": "x" * 60_000}, "Invalid authentication token"),
    ],
)  # fmt: skip
async def test_refusals_come_in_order_as_connect_errors(world: World, auth: Any, text: str) -> None:
    async with await PacketWebsocket.open(world.url) as wire:
        answer = await wire.connect(auth)
        assert answer.startswith("44")
        assert json.loads(answer[2:])["message"] == text
        with pytest.raises(TimeoutError):  # and nothing else is said to it
            await wire.packet(timeout=0.3)


async def test_the_client_library_is_told_why(world: World) -> None:
    with pytest.raises(ConnectionError, match="Invalid authentication token"):
        await world.socket({"token": "x"})


async def test_a_refused_client_may_try_again_on_its_connection(world: World) -> None:
    alice = await world.account()
    async with await PacketWebsocket.open(world.url) as wire:
        assert (await wire.connect({"token": "x"})).startswith("44")
        assert (await wire.connect({"token": alice.token})).startswith("40")
        await wire.send('421["ping"]')
        assert await wire.packet() == "431[{}]"


async def test_no_and_unknown_client_types_are_user_scoped(world: World) -> None:
    alice = await world.account()
    sockets = [
        await world.socket({"token": alice.token}),
        await world.socket({"token": alice.token, "clientType": "unknown"}),
        await world.socket({"token": alice.token, "clientType": 5, "sessionId": 5, "happyClient": {}, "appState": []}),
        await world.socket({"token": alice.token, "clientType": "user-scoped"}),
    ]
    await alice.session()
    for socket in sockets:
        assert [body["t"] for body in await socket.updates()] == ["new-session"]


async def test_both_spellings_of_the_path_work(world: World) -> None:
    alice = await world.account()
    for path in ("/v1/updates", "/v1/updates/"):
        async with await PacketWebsocket.open(world.url, path=path) as wire:
            assert (await wire.connect({"token": alice.token})).startswith("40")


async def test_settings_are_those_of_the_protocol(world: World) -> None:
    async with aiohttp.ClientSession() as http:
        answer = await http.get(f"{world.url}/v1/updates/?EIO=4&transport=polling", headers={"Origin": "https://a.b"})
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.b"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        opened = json.loads((await answer.text())[1:])
    assert (opened["pingInterval"], opened["pingTimeout"]) == (15_000, 45_000)
    assert opened["maxPayload"] >= 100_000_000
    assert opened["upgrades"] == ["websocket"]


async def test_what_is_sent_at_once_after_connecting_is_not_lost(world: World) -> None:
    alice = await world.account()
    async with await PacketWebsocket.open(world.url) as wire:
        # In one go, as clients do in the tick of their connect.
        await wire.send(f"40{json.dumps({'token': alice.token})}")
        assert (await wire.packet()).startswith("40")
        await wire.send('42["rpc-register",{"method":"m"}]')
        await wire.send('427["ping"]')
        # With several processes they are told of the method first.
        assert {await wire.packet(), await wire.packet()} == {'42["rpc-registered",{"method":"m"}]', "437[{}]"}


async def test_nothing_overtakes_the_connect_packet(world: World) -> None:
    """In its rooms before its CONNECT is answered, a socket hears events too early, and JavaScript drops it."""
    alice = await world.account()
    session = (await alice.session())["id"]
    stop = False

    async def chatter() -> None:
        count = 0
        while not stop:
            await alice.send(session, f"{(count := count + 1)}")

    task = asyncio.create_task(chatter())
    try:
        for _ in range(20):
            async with await PacketWebsocket.open(world.url) as wire:
                assert (await wire.connect({"token": alice.token})).startswith("40")
                assert (await wire.packet()).startswith('42["update"')
    finally:
        stop = True
        await task


async def test_another_namespace_is_refused(world: World) -> None:
    alice = await world.account()
    async with await PacketWebsocket.open(world.url) as wire:
        refusal = await wire.connect({"token": alice.token}, "/admin,")
        assert refusal == '44/admin,{"message":"Invalid namespace"}'
        assert (await wire.connect({"token": alice.token})).startswith("40")
        await wire.send('42/admin,5["ping"]')  # to a namespace that it is not in
        await wire.send('421["ping"]')
        assert await wire.packet() == "431[{}]"


async def test_connecting_twice_on_one_connection_is_one_socket(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    machine = uid()
    async with await PacketWebsocket.open(world.url) as wire:
        auth = {"token": alice.token, "clientType": "machine-scoped", "machineId": machine}
        assert (await wire.connect(auth)).startswith("40")
        assert (await ui.wait("ephemeral"))["active"] is True
        await wire.send(f"40{json.dumps(auth)}")
        await wire.send('421["ping"]')
        async with asyncio.timeout(10):
            while await wire.packet() != "431[{}]":
                pass
    async with asyncio.timeout(10):
        while (await ui.wait("ephemeral"))["active"]:
            pass
    assert [body for _, body in await ui.heard("ephemeral")] == []
    await alive(world)


async def test_a_connection_without_connect_is_closed_in_time(inside: Inside) -> None:
    assert transport.CONNECT_TIMEOUT == 20
    server = await inside()
    server.app.live.connections.connect_timeouts.seconds = 0.5
    async with World(server.url) as world:
        alice = await world.account()
        async with await PacketWebsocket.open(world.url) as silent, await PacketWebsocket.open(world.url) as refused, \
                await PacketWebsocket.open(world.url) as good:  # fmt: skip
            await good.connect({"token": alice.token})
            await refused.connect({"token": "x"})
            assert all(await asyncio.gather(silent.ended(), refused.ended()))
            await good.send('421["ping"]')
            assert await good.packet() == "431[{}]"


@pytest.mark.parametrize("event", ["connect", "disconnect", "*", "__disconnect_final", "connect_error", "nonsense", ""])
async def test_no_event_name_is_special(world: World, event: str) -> None:
    alice = await world.account()
    ui = await alice.socket()
    answer = await ui.call(event, {"token": "x"})
    assert answer["ok"] is False
    assert event in answer["error"]
    await ui.emit(event, 1, 2, 3)
    await alice.session()
    assert [body["t"] for body in await ui.updates()] == ["new-session"]


GARBAGE = [
    "", "4", "42", "49", "4x", "42x", "42[", "42[]", "42[5]", "42[null]", "42{}", '42"x"', "42[[]]", '421["ping"',
    "43", "43[]", "431", "4399999999999999999999[1]", "431[{}]", "44", '44{"message":"x"}', "45", "451-", '451-["x"]',
    '45-1["ping"]', '4599999999999-["x",{"_placeholder":true,"num":0}]', '451-["x",{"_placeholder":true,"num":5}]',
    '42["ping"', "5", "6", "0", "00", "7", "9", "x", "3probe", "2probe", "\x00", "\ud7ff",
    '42["message",' + "[" * 5000 + "]" * 5000 + "]", '42["\\ud800",1]', '421["update-metadata",{"sid":"\\ud800"}]',
    '421["session-alive",{"sid":"x","time":1e999}]', '421["session-alive",{"sid":"x","time":' + "9" * 5000 + "}]",
    "42" + "9" * 400 + '["ping"]', '42-1["ping"]', "42" + "9" * 5000 + '["ping"]', "40", "41", "41/x,", "40/x,{}",
]  # fmt: skip


@pytest.mark.parametrize("packet", GARBAGE)
@pytest.mark.parametrize("connected", [True, False])
async def test_garbage_is_answered_ignored_or_ends_that_connection_only(
    world: World, packet: str, connected: bool
) -> None:
    alice = await world.account()
    other = await alice.socket()
    async with await PacketWebsocket.open(world.url) as wire:
        if connected:
            await wire.connect({"token": alice.token})
        try:
            await wire.send(packet)
            await wire.send('4277["ping"]')
            if connected:
                async with asyncio.timeout(3):
                    while await wire.packet() != "4377[{}]":
                        pass
        except (EOFError, aiohttp.ClientError, ConnectionError):
            pass
        except TimeoutError:
            # CLOSE and DISCONNECT end it in the words of the protocol; then nobody answers.
            assert packet in ("41", "451-", "5", '451-["x"]') or packet.startswith(("45", "40", "0", "6")), packet
    assert await other.call("ping") == {}


async def test_binary_frames_and_arguments(world: World) -> None:
    alice = await world.account()
    other = await alice.socket()
    ui = await alice.socket()
    for data in (b"", b"\x00\xff", {"sid": b"x", "message": b"y"}, [b"x"]):
        for event in ("message", "ping", "rpc-call", "session-alive", "usage-report", "update-state"):
            answer = await ui.call(event, data)
            assert isinstance(answer, dict)
    for frame in (b"", b"\x00", b"4", b"\xff" * 1000):
        async with await PacketWebsocket.open(world.url) as wire:
            await wire.connect({"token": alice.token})
            await wire.send(frame)
            try:
                await wire.send('421["ping"]')
                assert await wire.packet() == "431[{}]"
            except (EOFError, aiohttp.ClientError, ConnectionError):
                pass
    assert await other.call("ping") == {}


@pytest.mark.parametrize("transports", [("polling",), ("polling", "websocket"), ("websocket",)])
async def test_every_transport_carries_everything_in_order(world: World, transports: tuple[str, ...]) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui = await Socket().connect(world.url, {"token": alice.token}, transports)
    world.sockets.append(ui)
    sender = await alice.socket(session=session)
    for i in range(99):
        await ui.emit("message", {"sid": session, "message": f"{i}"})
    assert (await ui.call("message", {"sid": session, "message": "99"}))["seq"] == 100
    updates = await sender.updates()
    assert [body["message"]["content"]["c"] for body in updates] == [f"{i}" for i in range(100)]
    await alice.send(session, *(f"l{i}" for i in range(100)))
    frames = [frame for _, frame in await ui.heard("update")]
    assert [frame["body"]["message"]["seq"] for frame in frames] == list(range(101, 201))
    assert (await ui.call("message", {"sid": session, "message": "x" * 3_000_000}, timeout=30))["seq"] == 201


async def test_a_polling_burst_in_one_payload(world: World) -> None:
    alice = await world.account()
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        await http.post(f"{base}&sid={sid}", data=f"40{json.dumps({'token': alice.token})}")
        assert (await (await http.get(f"{base}&sid={sid}")).text()).startswith("40")
        answer = await http.post(f"{base}&sid={sid}", data="\x1e".join(f'42{i}["ping"]' for i in range(1000)))
        assert answer.status == 200
        got: list[str] = []
        async with asyncio.timeout(20):
            while len(got) < 1000:
                got += (await (await http.get(f"{base}&sid={sid}")).text()).split("\x1e")
        assert got == [f"43{i}[{{}}]" for i in range(1000)]


@pytest.mark.parametrize("connection", ["Upgr\\e", "keep-alive", "close, x"])
async def test_an_upgrade_that_is_none_is_a_bad_request(world: World, connection: str) -> None:
    async with await Connection.open(world.url) as raw:
        headers = {"Upgrade": "websocket", "Connection": connection, "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "eDAwMDAwMDAwMDAwMDAwMA=="}  # fmt: skip
        assert (await raw.request("GET", "/v1/updates/?EIO=4&transport=websocket", headers)).status == 400
    async with await Connection.open(world.url) as raw:  # a proxy that leaves it in a poll does no harm
        answer = await raw.request("GET", "/v1/updates/?EIO=4&transport=polling", headers)
        assert (answer.status, answer.body[:1]) == (200, b"0")


async def test_every_poll_ends_with_its_connection(world: World) -> None:
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        polls = [asyncio.create_task(http.get(f"{base}&sid={sid}")) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert (await http.post(f"{base}&sid={sid}", data="1")).status == 200
        async with asyncio.timeout(10):  # not a minute later
            await asyncio.gather(*polls)


async def test_odd_polling_requests_are_refused_and_leave_the_server_well(world: World) -> None:
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/"
        for query in ("", "?EIO=3&transport=polling", "?EIO=4", "?EIO=4&transport=carrier-pigeon",
                      "?EIO=4&transport=polling&sid=nosuch", "?EIO=4&transport=websocket", "?EIO=x&transport=polling",
                      "?EIO=4&transport=polling&j=x", "?EIO=4&transport=polling&sid=%00"):  # fmt: skip
            answer = await http.get(base + query)
            assert answer.status in (400, 200), (query, answer.status)
        # Upgrade without its Connection header, as a proxy leaves it that takes that one away.
        other = await http.get(f"{base}?EIO=4&transport=websocket", headers={"Upgrade": "websocket"})
        assert (other.status, await other.text()) == (400, '"Invalid websocket upgrade"')
        for query in ("", "?EIO=4&transport=polling", "?EIO=4&transport=polling&sid=nosuch"):
            assert (await http.post(base + query, data="4")).status == 400
        for method in ("PUT", "DELETE", "PATCH"):
            assert 400 <= (await http.request(method, base + "?EIO=4&transport=polling")).status < 500
        sid = json.loads((await (await http.get(base + "?EIO=4&transport=polling")).text())[1:])["sid"]
        polling = f"{base}?EIO=4&transport=polling&sid={sid}"
        assert (await http.post(polling, data=b"\xff\xfe4")).status == 400
        # A poll that is already waiting when the connection ends is answered with nothing; after that it is gone.
        assert [(await http.get(polling)).status for _ in range(2)][1] == 400
    await alive(world)


@pytest.mark.parametrize(
    "body", [b"\x00", b"x", b"9", b"2", b"0{}", b"4\x1e", b"\x1e", b"d=", b"d=9", b"\xff", b"4" + b"[" * 9999]
)
async def test_a_polling_body_that_is_no_packet_ends_that_connection(world: World, body: bytes) -> None:
    alice = await world.account()
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        await http.post(f"{base}&sid={sid}", data=f"40{json.dumps({'token': alice.token})}")
        async with asyncio.timeout(10):  # nobody polls, and it must not wait for that
            answer = await http.post(f"{base}&sid={sid}", data=body)
        assert answer.status in (200, 400)
        async with asyncio.timeout(20):
            while (await http.get(f"{base}&sid={sid}")).status != 400:
                pass
    await alive(world)


async def test_strangers_cannot_post_large_bodies(world: World) -> None:
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        for url in (base, f"{base}&sid=nosuch", f"{base}&sid={sid}"):
            with contextlib.suppress(aiohttp.ClientError):  # the answer may come before all is written
                assert (await http.post(url, data=b"4" * 5_000_000)).status == 413
    await alive(world)


@pytest.mark.parametrize("packet", ["2probe", "3probe", "x", "\ud7ff", "", "2"])
async def test_an_upgrade_that_goes_wrong_ends_or_leaves_polling(world: World, packet: str) -> None:
    alice = await world.account()
    async with aiohttp.ClientSession() as http:
        base = f"{world.url}/v1/updates/?EIO=4&transport=polling"
        sid = json.loads((await (await http.get(base)).text())[1:])["sid"]
        await http.post(f"{base}&sid={sid}", data=f"40{json.dumps({'token': alice.token})}")
        async with await PacketWebsocket.open(world.url, sid) as wire:
            await wire.send(packet)
            with contextlib.suppress(EOFError, TimeoutError, aiohttp.ClientError, ConnectionError):
                assert await wire.packet(1) == "3probe"
                await wire.send("x")
                await wire.packet(1)
    await alive(world)


async def test_attachments_do_not_pile_up(world: World) -> None:
    alice = await world.account()
    for head, frames in (('4599999999-["x"]', 1), ('4516-["x",{"_placeholder":true,"num":0}]', 3)):
        async with await PacketWebsocket.open(world.url) as wire:
            await wire.connect({"token": alice.token})
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                await wire.send(head)
                for _ in range(frames):
                    await wire.send(bytes(45_000_000 if frames > 1 else 1))
            assert await wire.ended(20)
    await alive(world)
