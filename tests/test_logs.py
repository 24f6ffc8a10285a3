"""Log entries of clients: accepted only if configured, and limited in size."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import httpx
import pytest

from tests.client import World
from tests.conftest import Process, Start

PATH = "/logs-combined-from-cli-and-mobile-for-simple-ai-debugging"
ENTRY = {"timestamp": "2026-01-01T00:00:00Z", "level": "info", "message": "line\nbreak", "source": "cli"}
ON = {"DANGEROUSLY_LOG_TO_SERVER_FOR_AI_AUTO_DEBUGGING": "true"}


@pytest.mark.parametrize("body", [ENTRY, {}, "x"])
async def test_the_route_does_not_exist_by_default(world: World, server: Process, body: Any) -> None:
    answer = await world.http.post(PATH, json=body)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not found", "path": PATH, "method": "POST"})
    assert not list(server.folder.glob("clients.log*"))


async def test_each_entry_is_appended_as_one_line(start: Start) -> None:
    server = start(**ON)
    full = {**ENTRY, "source": "mobile", "platform": "ios", "messageRawObject": [{"a": 1}, None]}
    async with World(server.url) as world:
        for entry in (ENTRY, full, {**ENTRY, "platform": None, "extra": 1}):
            answer = await world.http.post(PATH, json=entry)
            assert (answer.status_code, answer.json()) == (200, {"success": True})
    file = server.folder / "clients.log"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line.pop("received") for line in lines)
    assert lines == [ENTRY, full, {**ENTRY, "platform": None}]
    assert file.stat().st_mode & 0o777 == 0o600


async def test_invalid_entries_are_rejected(start: Start) -> None:
    server = start(**ON)
    async with World(server.url) as world:
        for change in ({"source": "web"}, {"timestamp": 5}, {"level": None}, {"message": ["x"]}):
            assert (await world.http.post(PATH, json={**ENTRY, **change})).status_code == 400
        assert (await world.http.post(PATH, json={})).status_code == 400
        with contextlib.suppress(httpx.NetworkError):  # the connection may close before the client is done
            answer = await world.http.post(PATH, json={**ENTRY, "message": "x" * 1_100_000})
            assert answer.status_code == 413
    assert not (server.folder / "clients.log").exists()


async def test_a_full_file_is_renamed_and_a_new_one_begins(start: Start) -> None:
    server = start(**ON)
    async with World(server.url) as world:
        for number in range(25):
            entry = {**ENTRY, "message": f"{number:02}" + "x" * 1_000_000}
            assert (await world.http.post(PATH, json=entry)).status_code == 200
    files = {file.name: file.read_text() for file in server.folder.glob("clients.log*")}
    assert files.keys() == {"clients.log", "clients.log.1"}
    assert all(len(text) <= 10 * 1024 * 1024 for text in files.values())
    kept = [
        json.loads(line)["message"][:2] for name in sorted(files, reverse=True) for line in files[name].splitlines()
    ]
    assert kept == [f"{number:02}" for number in range(10, 25)]
