"""The HTTP edge: what every route shares, whatever arrives."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from tests import databases
from tests.client import World
from tests.conftest import Process
from tests.raw_connections import Connection, HttpAnswer

JSON = {"Content-Type": "application/json"}


async def once(
    world: World, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> HttpAnswer:
    """One request on a connection of its own."""
    async with await Connection.open(world.url) as connection:
        return await connection.request(method, path, headers, body)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nosuch"), ("GET", "/v1/nosuch?x=1&y=%2F"), ("PUT", "/v1/sessions"), ("PATCH", "/v1/sessions"),
        ("GET", "/v1/sessions/"), ("GET", "/V1/sessions"), ("GET", "//v1/sessions"), ("GET", "/v1//sessions"),
        ("POST", "/health"), ("GET", "/v1"), ("GET", "/v1/sessions/x/y/z"), ("DELETE", "/v1/machines/"),
        ("FOO", "/health"), ("GET", "/%2e%2e/etc/passwd"), ("GET", "/v1/%73essions"), ("HEAD", "/nosuch"),
        ("GET", "/a%00b"), ("GET", "/%ff"),
    ],
)  # fmt: skip
async def test_what_is_no_route_is_a_404_with_its_path(world: World, method: str, path: str) -> None:
    answer = await once(world, method, path)
    assert answer.status == 404
    if method == "HEAD":
        return
    body = answer.json()
    assert body.keys() == {"error", "path", "method"}
    assert (body["error"], body["method"]) == ("Not found", method)
    assert body["path"] == path or not path.isascii()


async def test_head_works_where_get_does_and_has_no_body(world: World) -> None:
    alice = await world.account()
    async with await Connection.open(world.url) as connection:
        auth = {"Authorization": f"Bearer {alice.token}"}
        for path, headers, status in (("/health", {}, 200), ("/v1/machines", auth, 200), ("/v1/machines", {}, 401)):
            head = await connection.request("HEAD", path, headers)
            get = await connection.request("GET", path, headers)  # the connection is not out of step
            assert (head.status, get.status) == (status, status)
            assert head.headers["content-type"] == get.headers["content-type"]
            assert get.body


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 400), (JSON, b"", 400), (JSON, b" ", 400), (JSON, b"{", 400), (JSON, b"\xff", 400),
        (JSON, b"nul", 400), (JSON, b"[1", 400), (JSON, b"{}{}", 400), (JSON, b'"x"', 400), (JSON, b"\x00", 400),
        (JSON, b'{"tag":"t","metadata":"m"}', 200),
        ({"Content-Type": "application/json; charset=utf-8"}, b'{"tag":"t","metadata":"m"}', 200),
        ({"Content-Type": "APPLICATION/JSON"}, b'{"tag":"t","metadata":"m"}', 200),
        ({"Content-Type": "text/plain"}, b'{"tag":"t","metadata":"m"}', 400),
        ({"Content-Type": "application/xml"}, b"<x/>", 415), ({"Content-Type": "multipart/form-data"}, b"x", 415),
        ({"Content-Type": "application/octet-stream"}, b"x", 415), ({"Content-Type": ""}, b"{}", 415),
        (JSON, b'{"tag":"t","metadata":"m","unknown":{"x":[1]}}', 200),
        (JSON, b'{"tag":"t","tag":"u","metadata":"m"}', 200),
        (JSON, b'{"tag":"t","metadata":"m","agentState":NaN}', 400),
    ],
)  # fmt: skip
async def test_bodies_and_content_types(world: World, headers: dict[str, str], body: bytes, status: int) -> None:
    alice = await world.account()
    answer = await once(world, "POST", "/v1/sessions", {"Authorization": f"Bearer {alice.token}", **headers}, body)
    assert answer.status == status, answer.body
    if status != 200:
        assert answer.json().keys() == {"error", "message", "statusCode"}
        assert answer.json()["statusCode"] == status
        assert answer.headers["content-type"].startswith("application/json")


async def test_a_get_may_declare_json_and_a_body_is_not_needed_where_none_is_used(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    auth = {"Authorization": f"Bearer {alice.token}"}
    assert (await once(world, "GET", f"/v3/sessions/{session}/messages", {**auth, **JSON})).status == 200
    archive = f"/v1/sessions/{session}/archive"
    for headers, body in (({}, b""), (JSON, b""), (JSON, b"{}"), (JSON, b"[5]")):
        assert (await once(world, "POST", archive, {**auth, **headers}, body)).status == 200
    for headers, body in (({}, b""), (JSON, b""), (JSON, b"{}"), ({}, b"x")):
        answer = await once(world, "DELETE", "/v1/machines/nosuch", {**auth, **headers}, body)
        assert (answer.status, answer.json()) == (404, {"error": "Machine not found"})


async def test_authorization_is_checked_before_the_body(world: World) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}):
        assert (await once(world, "POST", "/v1/sessions", {**headers, **JSON}, b"{")).status == 401
        assert (await once(world, "GET", "/v2/sessions?limit=x", headers)).status == 401


NESTED = b"[" * 100_000 + b"]" * 100_000
STRINGS = [b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\xff"', b'"\x00"',
           '"\U0001f642\u202e\ufeff"'.encode(), b'"' + b"x" * 2_000_000 + b'"']  # fmt: skip
NUMBERS = [b"1e400", b"-1e400", b"9" * 400, b"9" * 5000, b"9223372036854775808", b"-9223372036854775809", b"1.5",
           b"-0", b"1e-400", b"0x10", b"01", b"Infinity", b"-", b"+1", NESTED,
           b'{"a":' * 20_000 + b"1" + b"}" * 20_000]  # fmt: skip


@pytest.mark.parametrize("value", STRINGS + NUMBERS)
async def test_unusual_strings_and_numbers_are_stored_or_refused(world: World, value: bytes) -> None:
    """Python raises RecursionError and UnicodeError, which are no errors of decoding for msgspec and SQLite."""
    alice = await world.account()
    session = (await alice.session())["id"]
    headers = {"Authorization": f"Bearer {alice.token}", **JSON}
    for path, body in (
        ("/v1/sessions", b'{"tag":%s,"metadata":%s}' % (value, value)),
        ("/v1/machines", b'{"id":%s,"metadata":"m"}' % value),
        (f"/v3/sessions/{session}/messages", b'{"messages":[{"content":%s,"localId":%s}]}' % (value, value)),
        ("/v1/version", b'{"platform":"ios","version":%s,"app_id":%s}' % (value, value)),
        ("/v1/auth", b'{"publicKey":%s,"challenge":%s,"signature":%s}' % (value, value, value)),
        ("/v1/auth/request", b'{"publicKey":%s,"supportsV2":%s}' % (value, value)),
        ("/v1/auth/response", b'{"publicKey":%s,"response":%s}' % (value, value)),
        ("/v1/usage/query", b'{"startTime":%s,"endTime":%s}' % (value, value)),
        ("/v1/account/settings", b'{"settings":null,"expectedVersion":%s}' % value),
        ("/v1/account/settings", b'{"settings":%s,"expectedVersion":0}' % value),
        ("/v1/push-tokens", b'{"token":%s}' % value),
        ("/v1/kv", b'{"mutations":[{"key":%s,"value":null,"version":%s}]}' % (value, value)),
        ("/v1/sessions", value),
    ):
        answer = await once(world, "POST", path, headers, body)
        assert answer.status in (200, 400, 401, 404, 409, 413), (path, answer.status, answer.body[:300])
    for path in ("/v1/sessions", "/v1/machines", f"/v3/sessions/{session}/messages", "/v1/push-tokens"):
        assert (await once(world, "GET", path, headers)).status == 200
    with contextlib.suppress(UnicodeDecodeError):
        text = quote(value[:2000].decode())
        for path in (f"/v2/sessions?cursor={text}", f"/v2/sessions?limit={text}", f"/v1/kv?prefix={text}",
                     f"/v3/sessions/{session}/messages?after_seq={text}", f"/v1/machines/{text}",
                     f"/v1/user/search?query={text}", f"/v1/feed?before={text}"):  # fmt: skip
            answer = await once(world, "GET", path, headers)
            assert answer.status in (200, 400, 404), (path, answer.status, answer.body[:300])


@pytest.mark.parametrize(
    "id", ["x" * 1024, "ü" * 200, "a/b", "a%b", "%2F", "a?b#c", ".", "..", " ", "\x00", "+", "🙂" * 80]
)
async def test_path_parameters_are_decoded_once_and_may_be_long(world: World, id: str) -> None:
    alice = await world.account()
    if not databases.storable([id]):
        assert (await alice.get(f"/v1/machines/{quote(id, safe='')}")).status_code == 400
        return
    await alice.machine(id)
    auth = {"Authorization": f"Bearer {alice.token}"}
    path = f"/v1/machines/{quote(id, safe='').replace('.', '%2E')}"
    answer = await once(world, "GET", path, auth)
    assert (answer.status, answer.json().get("machine", {}).get("id")) == (200, id)
    assert (await once(world, "DELETE", path, auth)).status == 200
    assert (await once(world, "GET", path, auth)).status == 404


@pytest.mark.parametrize("path", ["%", "%zz", "%f", "%ff%fe", "%ed%a0%80", "a%", "%00"])
async def test_broken_percent_encoding_is_an_unknown_id(world: World, path: str) -> None:
    alice = await world.account()
    answer = await once(world, "GET", f"/v1/machines/{path}", {"Authorization": f"Bearer {alice.token}"})
    assert answer.status in (400, 404)


async def test_a_target_may_be_a_whole_url(world: World) -> None:
    """As RFC 9112 (3.2.2) has it; some proxies and HTTP libraries write it so."""
    alice = await world.account()
    auth = {"Authorization": f"Bearer {alice.token}"}
    for target, status in (("/v1/machines?x=1", 200), ("/health", 200), ("", 200), ("/v1/nosuch?x=%2F", 404)):
        answer = await once(world, "GET", world.url + target, auth)
        assert answer.status == status, (target, answer.body)
        if status == 404:
            assert answer.json() == {"error": "Not found", "path": target, "method": "GET"}
    assert (await once(world, "GET", f"{world.url}/v1/updates/?EIO=4&transport=polling")).body.startswith(b"0{")
    assert (await once(world, "OPTIONS", "*")).status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=05", 200), ("limit=0", 400), ("limit=00", 400), ("limit=1.0", 200), ("limit=%205", 200),
        ("limit=1&limit=2", 400), ("cursor=&cursor=", 400), ("x=1&x=2", 200), ("&&limit=1&", 200), ("", 200),
        ("limit[]=x", 200), ("LIMIT=x", 200),
    ],
)  # fmt: skip
async def test_malformed_queries(world: World, query: str, status: int) -> None:
    alice = await world.account()
    answer = await alice.get(f"/v2/sessions?{query}")
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json().keys() == {"error", "message", "statusCode"}


async def test_a_whole_number_with_a_fraction_of_zero_is_an_integer(world: World) -> None:
    """JSON has one kind of number, and clients with doubles write 1 as 1.0."""
    alice = await world.account()
    ui = await alice.socket()
    headers = {"Authorization": f"Bearer {alice.token}", **JSON}
    path = "/v1/account/settings"
    first = await once(world, "POST", path, headers, b'{"settings":"a","expectedVersion":0.0}')
    second = await once(world, "POST", path, headers, b'{"settings":"b","expectedVersion":1e0}')
    assert (first.json(), second.json()) == ({"success": True, "version": 1}, {"success": True, "version": 2})
    for wrong in (b"2.5", b'"2"', b"true", b"[2.0]"):
        answer = await once(world, "POST", path, headers, b'{"settings":"c","expectedVersion":%s}' % wrong)
        assert answer.status == 400
    assert [body["settings"] for body in await ui.updates()] == [
        {"value": "a", "version": 1}, {"value": "b", "version": 2},
    ]  # fmt: skip
    session = (await alice.session())["id"]
    await ui.heard()
    data = {"sid": session, "metadata": "m", "expectedVersion": 0.0}
    assert await ui.call("update-metadata", data) == {"result": "success", "version": 1, "metadata": "m"}
    assert await ui.call("update-metadata", {**data, "expectedVersion": 1.5}) == {"result": "error"}
    assert [body["metadata"] for body in await ui.updates()] == [{"value": "m", "version": 1}]


async def test_any_origin_may_ask(world: World) -> None:
    origin = {"Origin": "https://app.example"}
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
        asked = {**origin, "Access-Control-Request-Method": method,
                 "Access-Control-Request-Headers": "authorization,x-happy-client,x-anything"}  # fmt: skip
        answer = await once(world, "OPTIONS", "/v1/sessions", asked)
        assert 200 <= answer.status < 300
        assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
        assert method in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"].lower()
        assert all(name in allowed for name in ("authorization", "x-happy-client", "x-anything"))
    asked["Access-Control-Request-Private-Network"] = "true"
    answer = await once(world, "OPTIONS", "/v1/sessions", asked)
    assert (answer.status, answer.headers["access-control-allow-private-network"]) == (200, "true")
    for path, status in (("/health", 200), ("/nosuch", 404), ("/v1/sessions", 401)):
        answer = await once(world, "GET", path, origin)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, "*")


async def test_a_body_without_a_token_may_have_64_kib(world: World) -> None:
    for size, status in ((65_536, 200), (65_537, 413)):
        body = b'{"platform":"ios","version":"1.0.0","app_id":"a"'.ljust(size - 1) + b"}"
        answer = await once(world, "POST", "/v1/version", {"Content-Type": "application/json"}, body)
        assert answer.status == status


async def test_a_body_over_the_limit_is_413_declared_or_not(world: World) -> None:
    alice = await world.account()
    head = f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n" \
           "Content-Type: application/json\r\n"  # fmt: skip
    async with await Connection.open(world.url) as connection:
        await connection.send(f"{head}Content-Length: 104857601\r\n\r\n".encode())
        answer = await connection.answer()
        assert (answer.status, answer.json()["statusCode"]) == (413, 413)
        assert await connection.ended()
    async with await Connection.open(world.url) as connection:
        await connection.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        answering = asyncio.create_task(connection.answer(timeout=60))
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(120):
                if answering.done():
                    break
                await connection.send(piece)
        assert (await answering).status == 413


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "99999999999999999999999", "", "0x10"])
async def test_a_malformed_content_length_is_refused(world: World, length: str) -> None:
    alice = await world.account()
    async with await Connection.open(world.url) as connection:
        await connection.send(
            f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        with contextlib.suppress(EOFError, ConnectionError):
            assert 400 <= (await connection.answer()).status < 500


@pytest.mark.parametrize(("path", "status"), [("/v1/sessions", 401), ("/nosuch", 404), ("/v1/auth/response", 401)])
async def test_a_large_body_that_nobody_wants_does_not_hang_the_connection(
    world: World, path: str, status: int
) -> None:
    """Hypercorn hangs a connection for good when more than ten pieces of 64 KiB of a body stay unread."""
    body = b"x" * 5_000_000
    async with await Connection.open(world.url) as connection:
        for _ in range(3):
            sending = asyncio.create_task(
                connection.send(
                    f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
            )
            assert (await connection.answer()).status == status
            await sending


async def test_a_client_that_leaves_in_the_middle_leaks_nothing(world: World, server: Process) -> None:
    """Hypercorn keeps the file handle of a client that left until the keep-alive time is over."""
    process = psutil.Process(server.pid)
    alice = await world.account()
    await alice.session()

    async def leave(data: bytes) -> None:
        async with await Connection.open(world.url) as connection:
            await connection.send(data)
            await asyncio.sleep(0.01)

    head = f"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n".encode()
    json_head = head + b"Content-Type: application/json\r\n"
    before = process.num_fds()
    for data in (
        b"", b"GET", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02garbage",
        b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/updates/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n",
        json_head + b"Content-Length: 1000\r\n\r\nabc", json_head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        head + b"Content-Length: 5000000\r\n\r\n" + b"x" * 3_000_000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):  # fmt: skip
        await asyncio.gather(*(leave(data) for _ in range(5)), return_exceptions=True)
    async with asyncio.timeout(40):  # engine connections without CONNECT are closed after 20 s
        while process.num_fds() > before + 3:
            await asyncio.sleep(0.1)


async def test_a_connection_serves_many_requests_and_pipelined_ones(world: World) -> None:
    alice = await world.account()
    request = f"GET /v1/machines HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n\r\n".encode()
    async with await Connection.open(world.url) as connection:
        for _ in range(50):
            await connection.send(request)
            assert (await connection.answer()).body == b"[]"
        await connection.send(request * 20)
        for _ in range(20):
            assert (await connection.answer()).body == b"[]"


@pytest.mark.parametrize("settings", ["AAMAAABkAAQAAP__", "A AAMAAABk", "", "x"])
async def test_http2_is_not_spoken_and_asking_for_it_harms_nothing(world: World, settings: str) -> None:
    asked = {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": settings}
    answer = await once(world, "GET", "/health", asked)
    assert (answer.status, answer.json()["status"]) == (200, "ok")
    async with await Connection.open(world.url) as connection:
        await connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        assert 400 <= (await connection.answer()).status < 506
        assert await connection.ended()


async def test_the_server_does_not_say_what_it_is_made_of(world: World) -> None:
    answer = await once(world, "GET", "/health")
    assert "server" not in answer.headers
    body: Any = json.loads(answer.body)
    assert body.keys() == {"status", "timestamp", "service"}
