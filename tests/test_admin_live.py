"""What the admin page reads: the event stream, lists in short, backups, doctor, the log and the settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from happy_light.admin import api, backup_folder, backups, inspection, overview
from happy_light.admin.overview import _sum
from happy_light.admin.progress import ignore_progress
from happy_light.counters import SAMPLES, Counters
from happy_light.errors import ApiError, OperatorError
from happy_light.server import Server
from tests.client import World
from tests.commands import ok
from tests.conftest import Process, Start

Inside = Callable[..., Awaitable[Server]]
BASE = "http://admin/admin/api"


@pytest.fixture
async def admin(server: Process) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the shared server's unix socket."""
    async with client_of(server) as client:
        yield client


def client_of(process: Process) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(process.folder / api.SOCKET_NAME))
    return httpx.AsyncClient(transport=transport, base_url=BASE, trust_env=False, timeout=30)


def sockets_of(line: Any, account_id: str) -> int:
    """Return how many sockets of an account an overview has."""
    return sum(line["connected"].get(account_id, {}).values())


async def get(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def result_of(client: httpx.AsyncClient, path: str, body: Any) -> Any:
    """Return the last line of long work."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text.splitlines()[-1])


@contextlib.asynccontextmanager
async def live(client: httpx.AsyncClient) -> AsyncIterator[Callable[[Callable[[Any], bool]], Any]]:
    """Yield a function that waits until a line of the event stream fits."""
    async with client.stream("GET", "/live") as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.aiter_lines()

        async def until(fits: Callable[[Any], bool]) -> Any:
            async with asyncio.timeout(20):
                async for line in lines:
                    if fits(json.loads(line)):
                        return json.loads(line)
            raise AssertionError("the stream has ended")

        yield until


async def test_the_stream_follows_accounts_and_sockets(admin: httpx.AsyncClient, world: World) -> None:
    alice = await world.account()
    async with live(admin) as until:
        first = await until(lambda line: True)
        assert alice.id not in first["connected"]
        session = (await alice.session())["id"]
        socket, other = await alice.socket(), await alice.socket(session=session)
        line = await until(lambda line: sockets_of(line, alice.id) == 2)
        assert line["sockets"]["user"] >= 1 and line["sockets"]["session"] >= 1 and line["sessionsActive"] >= 1
        assert line["database"]["database"] > 0 and line["step"] == 10
        for each in (socket, other):
            await each.close()
        await until(lambda line: alice.id not in line["connected"])
        bob = await world.account()
        line = await until(lambda line: line["newestAccount"] >= bob.id)
        assert line["accounts"] > 1
        for process in line["processes"]:
            assert process["memory"] > 10_000_000 and process["pid"] > 1


async def test_streams_are_few_and_end_with_the_server(start: Start) -> None:
    process = start()
    async with client_of(process) as admin, contextlib.AsyncExitStack() as opened:
        streams = [await opened.enter_async_context(live(admin)) for _ in range(overview.STREAMS_MAX - 1)]
        for until in streams:
            await until(lambda line: True)
        head = await admin.head("/live")
        assert head.status_code == 200
        assert process.stop() == 0  # at once, not after the grace of requests in flight
    assert "aborting" not in "".join(process.log) and "Traceback" not in "".join(process.log)


def test_counts_of_the_last_hour_are_bounded() -> None:
    counters = Counters()
    for index in range(SAMPLES + 5):
        counters.messages += index
        counters.call("ok")
        counters.sample()
    assert len(counters.history) == SAMPLES
    assert counters.history[-1] == (SAMPLES + 4, 1) and counters.history[0] == (5, 1)


def test_counts_of_processes_are_added_from_their_ends() -> None:
    assert _sum([[1, 2, 3], [10], []]) == [1, 2, 13]
    assert _sum([[]]) == []


async def test_messages_are_counted(start: Start) -> None:
    process = start()
    async with World(process.url) as world, client_of(process) as admin:
        alice = await world.account()
        session = (await alice.session())["id"]
        await alice.send(session, *(f"l{index}" for index in range(7)))
        socket = await alice.socket(session=session)
        await socket.call("message", {"sid": session, "message": "text"})
        async with live(admin) as until:
            assert (await until(lambda line: sum(line["messages"]) > 0))["messages"][-1] == 8


async def test_accounts_are_found_by_what_they_are_called(admin: httpx.AsyncClient, world: World) -> None:
    alice, bob = await world.account(), await world.account()
    await admin.put(f"/accounts/{alice.id}/label", json={"label": f"Phone {alice.id[-6:]}"})
    listed = (await get(admin, "/account-summaries"))["accounts"]
    assert {alice.id, bob.id} <= {each["id"] for each in listed} or len(listed) == 200
    for search in (f"phone {alice.id[-6:].upper()}", alice.id):
        (found,) = (await get(admin, f"/account-summaries?search={search}"))["accounts"]
        assert (found["id"], found["label"]) == (alice.id, f"Phone {alice.id[-6:]}")
    await alice.session()
    for _ in range(201):  # more than a list has
        await alice.machine()
    activity = await get(admin, f"/accounts/{alice.id}/activity")
    assert activity == {"sessionsActive": 1, "machines": 201, "machinesOnline": 0}
    none = {"sessionsActive": 0, "machines": 0, "machinesOnline": 0}
    assert await get(admin, f"/accounts/{bob.id}/activity") == none


@pytest.mark.sqlite_only
async def test_backups_are_made_listed_and_downloaded(start: Start, tmp_path: Path) -> None:
    process = start()
    async with client_of(process) as admin:
        assert (await get(admin, "/backups"))["archives"] == []
        one, other = await asyncio.gather(*(result_of(admin, "/backups", {"secret": False}) for _ in range(2)))
        assert {"error": "A backup is being made already"} in (one, other)
        (archive,) = (await get(admin, "/backups"))["archives"]
        assert {"result": archive} in (one, other)
        content = await admin.get(f"/backups/{archive['name']}")
        assert content.headers["content-disposition"] == f'attachment; filename="{archive["name"]}"'
        assert len(content.content) == archive["bytes"]
        for name in ("x", "..%2fdata%2fhandy-master-secret.txt", "%2fetc%2fpasswd", archive["name"].replace("2", "1")):
            assert (await admin.get(f"/backups/{name}")).status_code == 404
    (tmp_path / "one.tar.gz").write_bytes(content.content)
    verified = await ok(process.folder, "backup", "verify", str(tmp_path / "one.tar.gz"))
    assert verified["secret"] is False


async def test_an_archive_that_goes_while_it_is_listed_is_a_sentence(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a scheduled backup deletes the oldest one."""
    server = await inside()
    monkeypatch.setattr(backup_folder, "archives", lambda *_: [tmp_path / "gone"])
    with pytest.raises(OperatorError, match=r"cannot be read: .*No such file"):
        backups.list_archives(server.context.settings)


async def test_doctor_runs_inside_the_server(start: Start) -> None:
    process = start(HAPPY_SERVER_LIGHT_PUSH="false")
    process.folder.chmod(0o755)
    async with client_of(process) as admin:
        found = {each["name"]: each for each in (await result_of(admin, "/doctor", {}))["result"]}
        assert found["modes"]["level"] == "problem" and "chmod 700" in found["modes"]["cure"]
        assert found["secret"]["level"] == "ok"
        async with live(admin) as until:
            line = await until(lambda line: True)
        assert [each["name"] for each in line["warnings"]] == ["modes"] and line["doctorAt"] > 0


async def test_doctor_runs_once_at_a_time(inside: Inside) -> None:
    server = await inside(push_enabled="false")
    with server.context.doctor.running, pytest.raises(ApiError, match="Doctor is running already"):
        await inspection.examine(server.context, ignore_progress)
    assert await inspection.examine(server.context, ignore_progress)


async def test_the_log_has_no_secrets(start: Start) -> None:
    process = start()
    async with World(process.url) as world, client_of(process) as admin:
        alice = await world.account()
        await admin.delete("/registration/window")
        lines = (await get(admin, "/log"))["lines"]
        assert lines[-1].endswith("DELETE /admin/api/registration/window") and len(lines) <= 200
        assert alice.token not in "\n".join(lines)


async def test_settings_are_shown_with_their_origin(admin: httpx.AsyncClient) -> None:
    settings = {each["name"]: each for each in (await get(admin, "/settings"))["settings"]}
    assert settings["master_secret"]["value"] == "********"
    assert (settings["port"]["value"], settings["port"]["origin"]) == ("0", "--port")


async def test_registration_is_chosen_in_the_place_of_the_setting(start: Start) -> None:
    process = start()
    async with World(process.url) as world:
        await ok(process.folder, "registration", "set", "closed")
        with pytest.raises(AssertionError):
            await world.account()
        page = await world.http.get("/", headers={"accept": "text/html"})
        assert "Closed: no new accounts" in page.text
        assert process.stop() == 0
    again = start(folder=process.folder)
    assert any("closed: nobody" in line for line in again.printed)
    state = await ok(again.folder, "registration", "set", "default")
    assert (state["setting"], state["mode"], state["accepts"]) == ("open", "open", True)
    async with World(again.url) as world:
        await world.account()
