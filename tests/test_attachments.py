"""Attachments: stored on disk, private, limited in size, deleted with their session."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Callable

import pytest

from happy_light.domains import upload_rate
from happy_light.errors import TOO_MANY_UPLOADS, ApiError
from tests.client import Account, World, uid
from tests.conftest import Process, Start

OCTETS = {"Content-Type": "application/octet-stream"}
SIZE_MAX = 10 * 1024 * 1024
TOO_LARGE = {"error": "File too large (max 10MB)"}


async def request(account: Account, session: str, **headers: str) -> str:
    """Return the upload URL of a new attachment."""
    body = {"filename": "f.png", "size": 10}
    answer = await account.ok("POST", f"/v1/sessions/{session}/attachments/request-upload", body, headers=headers)
    assert re.fullmatch(rf"sessions/{session}/attachments/[0-9a-f-]{{36}}\.enc", answer["ref"])
    assert answer["uploadUrl"].endswith(f"/v1/{answer['ref']}")
    assert answer.keys() == {"ref", "uploadUrl", "method"}
    assert answer["method"] == "PUT"
    url: str = answer["uploadUrl"]
    return url


async def put(account: Account, url: str, content: bytes | AsyncIterator[bytes], **headers: str) -> int:
    return (await account.request("PUT", url, content=content, headers={**OCTETS, **headers})).status_code


async def until(condition: Callable[[], bool]) -> None:
    """For what the server does to its folder without telling anybody."""
    while not condition():
        await asyncio.sleep(0.02)


async def test_an_upload_is_returned_and_a_second_one_replaces_it(world: World, server: Process) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    ui = await alice.socket()
    url = await request(alice, session)
    blob = os.urandom(3_000_000)

    assert (await alice.get(url)).json() == {"error": "Attachment not found"}
    assert await put(alice, url, blob) == 200
    ref = url.partition("/v1/")[2]
    down = await alice.ok("POST", f"/v1/sessions/{session}/attachments/request-download", {"ref": ref})
    assert down == {"downloadUrl": url}
    got = await alice.get(url)
    assert got.content == blob
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "public" not in got.headers["cache-control"]
    assert await put(alice, url, b"second") == 200
    assert (await alice.get(url)).content == b"second"
    part = await alice.get(url, headers={"Range": "bytes=2-3"})
    assert (part.status_code, part.content) == (206, b"co")
    assert await ui.heard() == []

    file = server.folder / "attachments" / ref.replace("/attachments/", "/")
    assert file.read_bytes() == b"second"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [folder.stat().st_mode & 0o777 for folder in list(file.parents)[:3]] == [0o700] * 3
    assert list(file.parent.iterdir()) == [file]


async def test_attachments_are_inaccessible_to_others(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    session, other = (await alice.session())["id"], (await alice.session())["id"]
    url = await request(alice, session)
    assert await put(alice, url, b"secret") == 200
    base = f"/v1/sessions/{session}/attachments"
    ref = url.partition("/v1/")[2]
    missing = {"error": "Session not found"}

    assert (await bob.get(url)).json() == missing
    answer = await bob.request("PUT", url, content=b"bad", headers=OCTETS)
    assert (answer.status_code, answer.json()) == (404, missing)
    for path, body in (("request-upload", {"filename": "f", "size": 1}), ("request-download", {"ref": ref})):
        answer = await bob.post(f"{base}/{path}", body)
        assert (answer.status_code, answer.json()) == (404, missing)
    assert (await world.http.get(url)).status_code == 401
    assert (await alice.get(url.replace(session, other))).json() == {"error": "Attachment not found"}
    for public in (f"/files/{ref}", f"/files/../attachments/{ref}", f"/files/attachments/{ref}"):
        assert (await world.http.get(public)).status_code == 404
    assert (await alice.get(url)).content == b"secret"


@pytest.mark.parametrize(
    "body",
    [{}, {"filename": "f"}, {"size": 1}, {"filename": 1, "size": 1}, {"filename": "f", "size": "1"},
     {"filename": "f", "size": -1}, {"filename": "f", "size": 1.5}, {"filename": "f", "size": True}],
)  # fmt: skip
async def test_invalid_upload_requests_are_rejected(world: World, body: object) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    answer = await alice.post(f"/v1/sessions/{session}/attachments/request-upload", body)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error", "message", "statusCode"}


@pytest.mark.parametrize("size", [SIZE_MAX + 1, 2**40, 1e300])
async def test_a_size_over_the_limit_is_refused_after_the_owner_is_known(world: World, size: float) -> None:
    alice, mallory = await world.account(), await world.account()
    path = f"/v1/sessions/{(await alice.session())['id']}/attachments/request-upload"
    answer = await alice.post(path, {"filename": "f", "size": size})
    assert (answer.status_code, answer.json()) == (413, TOO_LARGE)
    assert (await mallory.post(path, {"filename": "f", "size": size})).status_code == 404


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        (OCTETS, b"", 400),
        ({}, b"", 400),
        ({"Content-Type": "application/json"}, b"{}", 400),
        ({"Content-Type": "text/plain"}, b"x", 400),
        ({"Content-Type": "image/png"}, b"x", 415),
    ],
)
async def test_invalid_bodies_leave_no_file(
    world: World, server: Process, headers: dict[str, str], content: bytes, status: int
) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    url = await request(alice, session)
    answer = await alice.request("PUT", url, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "message", "statusCode"}
    assert (await alice.get(url)).status_code == 404
    folder = server.folder / "attachments" / "sessions" / session
    assert not folder.exists() or list(folder.iterdir()) == []


async def test_the_size_limit_is_enforced_while_reading(world: World, server: Process) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    url = await request(alice, session)
    sent = 0

    async def endless(total: int) -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(total // 65536):
            sent += 65536
            yield b"x" * 65536

    assert await put(alice, url, endless(SIZE_MAX)) == 200  # chunked, exactly the limit
    first = (await alice.get(url)).content
    assert len(first) == SIZE_MAX
    for content in (endless(SIZE_MAX + 65536), b"x" * (SIZE_MAX + 1)):
        answer = await alice.request("PUT", url, content=content, headers=OCTETS)
        assert (answer.status_code, answer.json()) == (413, TOO_LARGE)
    folder = server.folder / "attachments" / "sessions" / session
    assert [file.name for file in folder.iterdir()] == [url.rpartition("/")[2]]
    assert (await alice.get(url)).content == first


async def test_an_interrupted_upload_keeps_the_older_file(world: World, server: Process) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    url = await request(alice, session)
    assert await put(alice, url, b"first") == 200
    folder = server.folder / "attachments" / "sessions" / session
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"PUT {url.removeprefix(server.url)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {alice.token}\r\n"
        "Content-Type: application/octet-stream\r\nContent-Length: 500000\r\n\r\n"
    )
    writer.write(head.encode() + b"x" * 200_000)
    await writer.drain()
    async with asyncio.timeout(20):
        await until(lambda: bool(list(folder.glob(".*.part"))))
        writer.close()
        await until(lambda: not list(folder.glob(".*.part")))
    assert (await alice.get(url)).content == b"first"


@pytest.mark.parametrize("name", ["..%2f..%2fx", "%2e%2e", "a%2fb", "a..b", "a%5cb", "a%00b.enc", "%00"])
async def test_a_name_with_a_path_is_rejected(world: World, name: str) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    url = f"/v1/sessions/{session}/attachments/{name}"
    for answer in (await alice.get(url), await alice.request("PUT", url, content=b"x", headers=OCTETS)):
        assert (answer.status_code, answer.json()) == (404, {"error": "Invalid attachment file"})


async def test_only_uuid_names_can_be_stored(world: World) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    for name in ("x.enc", f"{uid()}.txt", uid(), f"{uid()}.enc.enc"):
        url = f"/v1/sessions/{session}/attachments/{name}"
        answer = await alice.request("PUT", url, content=b"x", headers=OCTETS)
        assert (answer.status_code, answer.json()) == (404, {"error": "Invalid attachment file"})
        assert (await alice.get(url)).json() == {"error": "Attachment not found"}


async def test_a_ref_must_belong_to_the_session(world: World) -> None:
    alice = await world.account()
    session, other = (await alice.session())["id"], (await alice.session())["id"]
    path = f"/v1/sessions/{session}/attachments/request-download"
    file = f"{uid()}.enc"
    for ref in (f"sessions/{other}/attachments/{file}", "x", "", f"/sessions/{session}/attachments/{file}"):
        answer = await alice.post(path, {"ref": ref})
        assert (answer.status_code, answer.json()) == (400, {"error": "Ref does not belong to this session"})
    for rest in ("", "a/b.enc", "../x", "a\\b", "x\0"):
        answer = await alice.post(path, {"ref": f"sessions/{session}/attachments/{rest}"})
        assert (answer.status_code, answer.json()) == (400, {"error": "Invalid attachment ref"})
    for body in ({}, {"ref": 5}):
        answer = await alice.post(path, body)
        assert answer.json().keys() == {"error", "message", "statusCode"}
    assert (await alice.post(path, {"ref": f"sessions/{session}/attachments/{file}"})).status_code == 200


async def test_each_account_may_request_sixty_uploads_per_minute(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    session = (await alice.session())["id"]
    path, body = f"/v1/sessions/{session}/attachments/request-upload", {"filename": "f", "size": 1}
    assert [(await alice.post(path, body)).status_code for _ in range(60)] == [200] * 60
    answer = await alice.post(path, body)
    assert answer.status_code == 429
    assert answer.json() == {"error": "Too many upload requests. Try again in a minute."}
    assert (await bob.post(path, body)).status_code == 404


async def test_the_upload_window_ends_and_the_number_of_counts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(upload_rate, "ACCOUNTS_MAX", 100)
    uploads = upload_rate.UploadRate("attachments", TOO_MANY_UPLOADS)
    for _ in range(60):
        await uploads.count("alice")
    with pytest.raises(ApiError):
        await uploads.count("alice")
    now = 60.0
    await uploads.count("alice")
    for number in range(1000):
        await uploads.count(str(number))
    assert len(uploads._counts) <= 101


async def test_attachments_are_deleted_with_their_session(world: World, server: Process) -> None:
    alice = await world.account()
    session, other = (await alice.session())["id"], (await alice.session())["id"]
    url, kept = await request(alice, session), await request(alice, other)
    assert await put(alice, url, b"x") == await put(alice, kept, b"y") == 200
    folder = server.folder / "attachments" / "sessions"
    await alice.ok("DELETE", f"/v1/sessions/{session}")
    assert not (folder / session).exists()
    for answer in (await alice.get(url), await alice.request("PUT", url, content=b"x", headers=OCTETS)):
        assert (answer.status_code, answer.json()) == (404, {"error": "Session not found"})
    assert not (folder / session).exists()
    assert (await alice.get(kept)).content == b"y"


async def test_an_upload_that_outlives_its_session_leaves_nothing(world: World, server: Process) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    url = await request(alice, session)

    async def slow() -> AsyncIterator[bytes]:
        yield b"first"
        await alice.ok("DELETE", f"/v1/sessions/{session}")
        yield b"second"

    assert await put(alice, url, slow()) == 404
    assert not (server.folder / "attachments" / "sessions" / session).exists()


async def test_a_rejected_delete_keeps_the_files(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    session = (await alice.session())["id"]
    url = await request(alice, session)
    assert await put(alice, url, b"x") == 200
    assert (await bob.delete(f"/v1/sessions/{session}")).status_code == 404
    assert (await alice.get(url)).content == b"x"


async def test_urls_begin_with_the_requested_address(world: World, server: Process) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    assert (await request(alice, session)).startswith(f"{server.url}/v1/")
    assert (await request(alice, session, host="happy.lan:8080")).startswith("http://happy.lan:8080/v1/")
    proxied = {"x-forwarded-proto": "https", "x-forwarded-host": "happy.example.com, inner"}
    assert (await request(alice, session, **proxied)).startswith("https://happy.example.com/v1/")
    assert (await request(alice, session, host="a.b", **{"x-forwarded-proto": "https"})).startswith("https://a.b/v1/")
    for proto, host in (("javascript", "evil/path"), ("", ""), ("http:", "a b"), ("ftp", "user@evil")):
        headers = {"x-forwarded-proto": proto, "x-forwarded-host": host}
        assert (await request(alice, session, **headers)).startswith(f"{server.url}/v1/")


async def test_forwarded_headers_count_from_trusted_proxies_only(start: Start) -> None:
    server = start(TRUSTED_PROXIES="10.0.0.0/8, fd00::/8")
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        proxied = {"x-forwarded-proto": "https", "x-forwarded-host": "happy.example.com"}
        assert (await request(alice, session, **proxied)).startswith(f"{server.url}/v1/")


async def test_an_explicit_public_url_wins(start: Start) -> None:
    server = start(PUBLIC_URL="https://happy.example.com/")
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        proxied = {"x-forwarded-proto": "http", "x-forwarded-host": "other"}
        assert (await request(alice, session, **proxied)).startswith("https://happy.example.com/v1/sessions/")
