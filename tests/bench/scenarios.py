"""What is measured: each scenario runs on a new account of one server and returns one row of figures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from tests.bench import load
from tests.bench.servers import Server

Row = dict[str, float]
Operation = Callable[[int], Awaitable[Any]]

TEXT = "x" * 1024
SESSIONS_LISTED = 150  # as many as GET /v1/sessions lists


def percentile(latencies: list[float], share: float) -> float:
    """Return the ms below which that share of the latencies (s) lies; 0 if there are none."""
    ordered = sorted(latencies)
    return ordered[int(len(ordered) * share)] * 1000 if ordered else 0.0


async def measure(server: Server, workers: int, seconds: float, operation: Operation) -> Row:
    """Let `workers` repeat `operation(worker)` for so long; an operation may count for more than one."""
    latencies: list[float] = []
    operations = 0
    end = time.monotonic() + seconds

    async def work(worker: int) -> None:
        nonlocal operations
        while (began := time.monotonic()) < end:
            done = await operation(worker)
            latencies.append(time.monotonic() - began)
            operations += done if isinstance(done, int) else 1

    cpu, began = server.cpu(), time.monotonic()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    took, cpu = time.monotonic() - began, server.cpu() - cpu
    return {
        "per_s": operations / took,
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "cpu_us": cpu / max(operations, 1) * 1e6,
    }


def messages_body(first: int, count: int) -> bytes:
    """Return the body of a POST of messages."""
    messages = [{"content": TEXT, "localId": f"l{number}"} for number in range(first, first + count)]
    return json.dumps({"messages": messages}).encode()


async def post(workers: int, batch: int, server: Server, seconds: float, accounts: int = 1) -> Row:
    """Messages over HTTP, on disk when they are answered, into four sessions of each account."""
    tokens = ["" if server.bare else await load.sign_in(server.url) for _ in range(accounts)]
    sessions = [
        (token, "s" if server.bare else await load.session(server.url, token, f"s{i}"))
        for i in range(4)
        for token in tokens
    ]
    connections = [await load.Http.open(server.url) for _ in range(workers)]
    count = 0

    async def one(worker: int) -> int:
        nonlocal count
        body = messages_body(count, batch)
        count += batch
        token, session = sessions[worker % len(sessions)]
        await connections[worker].request("POST", f"/v3/sessions/{session}/messages", body, token)
        return batch

    result = await measure(server, workers, seconds, one)
    for connection in connections:
        connection.close()
    return result


async def sockmsg(server: Server, seconds: float) -> Row:
    """`message` from 32 sockets, 8 of each under way, with ack, and delivered to one user-scoped socket."""
    token = "x" if server.bare else await load.sign_in(server.url)
    sessions = ["s"] * 32 if server.bare else [await load.session(server.url, token, f"s{i}") for i in range(32)]
    heard = sent = 0

    def hear(_: bytes) -> None:
        nonlocal heard
        heard += 1

    ui = await load.Socket.open(server.url, {"token": token, "clientType": "user-scoped"}, hear)
    senders = [await _session_socket(server, token, session) for session in sessions]

    async def one(worker: int) -> None:
        nonlocal sent
        sent += 1
        await senders[worker % 32].call(_message_event(sessions[worker % 32]))

    result = await measure(server, 256, seconds, one)
    for _ in range(200):
        if heard == sent:
            break
        await asyncio.sleep(0.01)
    assert heard == sent, f"{sent} messages sent, {heard} delivered"
    for socket in (*senders, ui):
        socket.close()
    return result


async def steady(rate: int, server: Server, seconds: float) -> Row:
    """Measure socket messages at a rate, whether or not earlier ones have arrived, until another device has each.

    `disorder`: updates that were not behind all those that had come before them.
    """
    token = await load.sign_in(server.url)
    sessions = [await load.session(server.url, token, f"s{i}") for i in range(32)]
    latencies: list[float] = []
    sent: dict[str, float] = {}
    last = disorder = 0

    def hear(packet: bytes) -> None:
        nonlocal last, disorder
        update = json.loads(packet[packet.index(b"[") :])[1]
        disorder += update["seq"] <= last
        last = max(last, update["seq"])
        latencies.append(time.monotonic() - sent.pop(update["body"]["message"]["content"]["c"]))

    ui = await load.Socket.open(server.url, {"token": token, "clientType": "user-scoped"}, hear)
    senders = [await _session_socket(server, token, session) for session in sessions]
    began = time.monotonic()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        text = f"{number:06}{TEXT}"
        sent[text] = time.monotonic()
        event = json.dumps(["message", {"sid": sessions[number % 32], "message": text}])
        senders[number % 32].call(event.encode())
    for _ in range(500):
        if not sent:
            break
        await asyncio.sleep(0.01)
    assert not sent, f"{len(sent)} messages were not delivered"
    for socket in (*senders, ui):
        socket.close()
    return {"p50_ms": percentile(latencies, 0.5), "p99_ms": percentile(latencies, 0.99), "disorder": float(disorder)}


async def fanout(server: Server, seconds: float) -> Row:
    """Deliveries of one message to 50 user-scoped sockets, 8 messages under way."""
    token = await load.sign_in(server.url)
    session = await load.session(server.url, token, "s")
    missing = 0
    everybody: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(_: bytes) -> None:
        nonlocal missing
        missing -= 1
        if missing == 0:
            everybody.set_result(None)

    auth = {"token": token, "clientType": "user-scoped"}
    devices = [await load.Socket.open(server.url, auth, hear) for _ in range(50)]
    sender = await _session_socket(server, token, session)
    event = _message_event(session)

    async def one(_: int) -> int:
        nonlocal missing, everybody
        everybody = asyncio.get_running_loop().create_future()
        missing = 50 * 8
        for _ in range(8):
            sender.call(event)
        await everybody
        return 50 * 8

    result = await measure(server, 1, seconds, one)
    for socket in (*devices, sender):
        socket.close()
    return result


async def rpc(workers: int, server: Server, seconds: float) -> Row:
    """Measure calls from a phone to a daemon that answers at once."""
    token = await load.sign_in(server.url)
    daemon: load.Socket

    def hear(packet: bytes) -> None:
        if b"rpc-request" in packet[:40]:
            daemon.answer(packet, b'["result"]')

    daemon = await load.Socket.open(
        server.url, {"token": token, "clientType": "machine-scoped", "machineId": "m"}, hear
    )
    await daemon.call(b'["rpc-register",{"method":"m:x"}]')
    phones = [await load.Socket.open(server.url, {"token": token}) for _ in range(min(workers, 8))]

    async def one(worker: int) -> None:
        answer = await phones[worker % len(phones)].call(b'["rpc-call",{"method":"m:x","params":"p"}]')
        assert b"result" in answer

    result = await measure(server, workers, seconds, one)
    for socket in (daemon, *phones):
        socket.close()
    return result


async def read(path: str, server: Server, seconds: float) -> Row:
    """GET requests of one path by 16 clients; {session} has 1,000 messages, {since} is when the last 10 changed."""
    token = await load.sign_in(server.url)
    sessions = [await load.session(server.url, token, f"s{i}", "m" * 600) for i in range(SESSIONS_LISTED)]
    http = await load.Http.open(server.url)
    for first in range(0, 1000, 100):
        await http.request("POST", f"/v3/sessions/{sessions[0]}/messages", messages_body(first, 100), token)
    listed = json.loads(await http.request("GET", "/v1/sessions", b"", token))["sessions"]
    since = sorted(one["updatedAt"] for one in listed)[-10] - 1
    filled = path.format(session=sessions[0], since=since)
    connections = [await load.Http.open(server.url) for _ in range(16)]

    async def one(worker: int) -> None:
        await connections[worker].request("GET", filled, b"", token)

    result = await measure(server, 16, seconds, one)
    for connection in (*connections, http):
        connection.close()
    return result


async def unchanged(server: Server, seconds: float) -> Row:
    """GET of the first screen by 16 clients that have it already (If-None-Match)."""
    token = await load.sign_in(server.url)
    await load.session(server.url, token, "s")
    connections = [await load.Http.open(server.url) for _ in range(16)]
    tag = await connections[0].tag("/v1/sessions", token)
    if tag is None:
        return {}

    async def one(worker: int) -> None:
        await connections[worker].request("GET", "/v1/sessions", b"", token, {"If-None-Match": tag})

    result = await measure(server, 16, seconds, one)
    for connection in connections:
        connection.close()
    return result


async def connect(server: Server, seconds: float) -> Row:
    """Websockets made one after the other by 16 workers, 250 a second of the run, and what an idle one weighs."""
    token = await load.sign_in(server.url)
    opened: list[load.Socket] = []

    async def one(_: int) -> None:
        opened.append(await load.Socket.open(server.url, {"token": token}))

    before = server.memory()
    result = await _count(server, 16, round(250 * seconds), one)
    result["mib_per_1000"] = (server.memory() - before) / len(opened) * 1000
    for socket in opened:
        socket.close()
    return result


async def polling(server: Server, seconds: float) -> Row:
    """Measure connections that begin with polling and change to a websocket, 50 a second of the run, by 8 workers."""
    token = await load.sign_in(server.url)
    opened: list[load.Socket] = []

    async def one(_: int) -> None:
        opened.append(await load.open_by_polling(server.url, {"token": token}))

    result = await _count(server, 8, round(50 * seconds), one)
    for socket in opened:
        socket.close()
    return result


async def heartbeats(server: Server, seconds: float) -> Row:
    """300 sessions and 20 machines that beat every 2 s, and 10 GET and 10 POST requests a second beside them."""
    accounts = []
    for _ in range(10):
        token = await load.sign_in(server.url)
        listener = await load.Socket.open(server.url, {"token": token, "clientType": "user-scoped"})
        beats: list[tuple[load.Socket, bytes]] = []
        for i in range(30):
            session = await load.session(server.url, token, f"s{i}")
            event = b'42["session-alive",{"sid":"%b","time":%%d,"thinking":false}]' % session.encode()
            beats.append((await _session_socket(server, token, session), event))
        for i in range(2):
            auth = {"token": token, "clientType": "machine-scoped", "machineId": f"m{i}"}
            event = b'42["machine-alive",{"machineId":"m%d","time":%%d}]' % i
            beats.append((await load.Socket.open(server.url, auth), event))
        accounts.append((token, listener, beats))
    everybody = [beat for _, _, beats in accounts for beat in beats]
    http = [await load.Http.open(server.url) for _ in range(2)]
    latencies: tuple[list[float], list[float]] = ([], [])
    end = time.monotonic() + max(4, 2 * seconds)

    async def beat() -> None:
        began, sent = time.monotonic(), 0
        while (now := time.monotonic()) < end:
            while sent < (now - began) / 2 * len(everybody):
                socket, event = everybody[sent % len(everybody)]
                socket.say(event % (time.time() * 1000))
                sent += 1
            await asyncio.sleep(0.002)

    async def probe(index: int, method: str, path: str, body: bytes) -> None:
        number = 0
        while time.monotonic() < end:
            began = time.monotonic()
            await http[index].request(method, path, body, accounts[number % 10][0])
            latencies[index].append(time.monotonic() - began)
            number += 1
            await asyncio.sleep(max(0.0, began + 0.1 - time.monotonic()))

    machine = json.dumps({"id": "m0", "metadata": "m"}).encode()
    cpu, began = server.cpu(), time.monotonic()
    await asyncio.gather(beat(), probe(0, "GET", "/v1/sessions", b""), probe(1, "POST", "/v1/machines", machine))
    took, cpu = time.monotonic() - began, server.cpu() - cpu
    for _, listener, beats in accounts:
        for socket in (listener, *(socket for socket, _ in beats)):
            socket.close()
    return {
        "cpu_percent": 100 * cpu / took,
        "get_p99_ms": percentile(latencies[0], 0.99),
        "post_p99_ms": percentile(latencies[1], 0.99),
    }


async def _count(server: Server, workers: int, count: int, operation: Operation) -> Row:
    """Run `operation(worker)` so many times by so many workers."""
    left = iter(range(count))
    latencies: list[float] = []

    async def work(worker: int) -> None:
        for _ in left:
            started = time.monotonic()
            await operation(worker)
            latencies.append(time.monotonic() - started)

    cpu, began = server.cpu(), time.monotonic()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    took, cpu = time.monotonic() - began, server.cpu() - cpu
    return {
        "per_s": count / took,
        "p50_ms": percentile(latencies, 0.5),
        "p99_ms": percentile(latencies, 0.99),
        "cpu_us": cpu / count * 1e6,
    }


async def _session_socket(server: Server, token: str, session: str) -> load.Socket:
    return await load.Socket.open(server.url, {"token": token, "clientType": "session-scoped", "sessionId": session})


def _message_event(session: str) -> bytes:
    return b'["message",' + json.dumps({"sid": session, "message": TEXT}).encode() + b"]"


class Scenario(NamedTuple):
    """A row of the table. `bare`: the bare stack can do it, too."""

    name: str
    run: Callable[[Server, float], Awaitable[Row]]
    bare: bool = False


SCENARIOS = [
    Scenario("post1 c1", partial(post, 1, 1), bare=True),
    Scenario("post1 c32", partial(post, 32, 1), bare=True),
    Scenario("post100 c4", partial(post, 4, 100)),
    Scenario("sockmsg w8", sockmsg, bare=True),
    Scenario("fanout 50", fanout),
    Scenario("rpc c1", partial(rpc, 1)),
    Scenario("rpc c32", partial(rpc, 32)),
    Scenario("reads sessions", partial(read, "/v1/sessions")),
    Scenario("reads v3page", partial(read, "/v3/sessions/{session}/messages?after_seq=400&limit=100")),
    Scenario("reads changedSince", partial(read, "/v2/sessions?changedSince={since}")),
    Scenario("reads unchanged", unchanged),
    Scenario("connect ws", connect),
    Scenario("connect polling", polling),
    Scenario("heartbeats", heartbeats),
]
