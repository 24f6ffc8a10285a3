"""The admin API on the unix socket: for its owner only; progress, bounds, the log. test_admin_page.py has the rest."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import pytest

from happy_light.admin import api
from happy_light.admin.progress import ProgressCallback, stream
from happy_light.http.router import Route
from happy_light.server.side_listener import ACTIVE_MAX
from tests.client import World
from tests.commands import ok, run
from tests.conftest import Process, Start

ROUTES = api.routes()
NONSENSE = [b"", b"5", b'"x"', b"[]", b"null", b"{}", b"{", b"\xff", b'{"seconds":1e99}', b'{"key":"\\ud800"}']


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route, value: str = "x") -> str:
    return "/".join(value if part.startswith(":") else part for part in route.path.split("/"))


@pytest.fixture
async def admin(server: Process) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the shared server's unix socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.folder / api.SOCKET_NAME), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://admin", trust_env=False) as client:
        yield client


def test_the_socket_is_for_its_owner_only(server: Process) -> None:
    assert (server.folder / api.SOCKET_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("route", ROUTES, ids=named)
async def test_what_does_not_fit_is_refused(admin: httpx.AsyncClient, route: Route) -> None:
    if route.path in ("/admin/api/prune", "/admin/api/backups", "/admin/api/doctor"):
        pytest.skip("an empty request is a good one")
    if route.path == "/admin/api/live":
        pytest.skip("it takes nothing, and does not end")
    for body in NONSENSE if route.method == "POST" else [b""]:
        headers = {"content-type": "application/json"}
        answer = await admin.request(route.method, path_of(route), content=body, headers=headers)
        assert answer.status_code < 500, (body, answer.text)
        if route.body is not None:
            assert answer.status_code == 400, (body, answer.text)
    for value in ("%00", "%ff", "..%2f..", "x" * 1024):
        assert (await admin.request(route.method, path_of(route, value))).status_code < 500


async def test_an_unknown_path_is_404(admin: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/sessions", "/admin/api/format-disk"):
        assert (await admin.get(path)).status_code == 404


async def test_a_deletion_reports_its_progress_and_who_asked_is_logged(process: Process, own: World) -> None:
    alice = await own.account()
    session = (await alice.session())["id"]
    for start in range(0, 2_100, 100):
        await alice.send(session, *(f"l{i}" for i in range(start, start + 100)))
    transport = httpx.AsyncHTTPTransport(uds=str(process.folder / api.SOCKET_NAME), verify=False)
    headers = {"x-happy-operator": "zoe"}
    async with httpx.AsyncClient(transport=transport, trust_env=False, headers=headers) as client:
        answer = await client.delete(f"http://admin/admin/api/accounts/{alice.id}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    *progress, last = map(json.loads, answer.text.splitlines())
    assert progress and all(line["total"] == 2_100 and 0 < line["done"] <= 2_100 for line in progress)
    assert last == {"result": {"id": alice.id, "messages": 2_100, "bytes": 0}}
    await process.wait_for_log(f"operator zoe: DELETE /admin/api/accounts/{alice.id}")


@pytest.mark.parametrize("name", ["a b", "x" * 65, "[31m", "a\tb", ""])
async def test_a_name_that_would_spoil_the_log_is_not_written(process: Process, name: str) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(process.folder / api.SOCKET_NAME), verify=False)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        await client.delete("http://admin/admin/api/registration/window", headers={"x-happy-operator": name})
    await process.wait_for_log("operator unknown: DELETE /admin/api/registration/window")


async def test_a_control_character_in_a_name_is_refused(process: Process) -> None:
    """No header may have one, so the parser refuses the request and nothing is done or logged."""
    transport = httpx.AsyncHTTPTransport(uds=str(process.folder / api.SOCKET_NAME), verify=False)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        url = "http://admin/admin/api/registration/window"
        response = await client.delete(url, headers={"x-happy-operator": "\x1b[31m"})
    assert response.status_code == 400
    assert "\x1b" not in "".join(process.log)


async def test_too_many_requests_at_once_are_refused(process: Process) -> None:
    path = str(process.folder / api.SOCKET_NAME)
    head = b"POST /admin/api/probes HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    waiting = [await asyncio.open_unix_connection(path) for _ in range(ACTIVE_MAX)]
    for _, writer in waiting:
        writer.write(head)  # the body never comes
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        while (answer := await client.get("http://admin/admin/api/registration")).status_code == 200:
            pass  # until the server has read the eight heads
        assert (answer.status_code, answer.json()["message"][:8]) == (503, "Too many")
        for _, writer in waiting:
            writer.close()
        while (await client.get("http://admin/admin/api/registration")).status_code == 503:
            pass
    assert process.stop() == 0
    assert not (process.folder / api.SOCKET_NAME).exists()
    assert "Traceback" not in "".join(process.log)


async def test_a_folder_with_a_long_path_works(start: Start, tmp_path: Path) -> None:
    server: Process = start(folder=tmp_path / ("long" * 30))
    assert (await ok(server.folder, "stats"))["server"] is not None


async def test_a_server_without_the_socket_is_not_worked_around(process: Process) -> None:
    (process.folder / api.SOCKET_NAME).unlink()
    result = await run(process.folder, "registration")
    assert (result.status, f"(pid {process.pid})" in result.err) == (2, True)


async def test_a_server_that_ends_in_the_middle_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "happy-server-light.sqlite").touch()
    answers = [
        b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: application/json\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: application/x-ndjson\r\n\r\n"
        b'15\r\n{"done":1,"total":2}\n\r\n',
    ]  # fmt: skip

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / api.SOCKET_NAME):
        while answers:
            result = await run(tmp_path, "prune")
            assert (result.status, result.out) == (2, "")
            assert "The server stopped before the work was done" in result.err


async def test_work_is_cancelled_when_its_reader_goes(process: Process) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work(progress: ProgressCallback) -> None:
        try:
            progress(1, 2)
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    response = stream(work)
    lines = cast(AsyncGenerator[str], response.body_iterator)
    assert json.loads(await anext(lines)) == {"done": 1, "total": 2}
    await lines.aclose()
    async with asyncio.timeout(10):
        await ended.wait()
    assert begun.is_set()


def test_nobody_else_can_take_the_place_of_a_killed_servers_socket(process: Process) -> None:
    """A new server binds again; what the killed one left refuses connections meanwhile."""
    process.kill()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(process.folder / api.SOCKET_NAME))
