"""The admin page of a server of two processes: it shows both and their sum, and who signs in at one is at both."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.client import World
from tests.conftest import Process, Start
from tests.test_admin_live import client_of, live, sockets_of
from tests.test_admin_page import REFUSED, SAME, code_of, outcome

pytest_plugins = ["tests.service_fixtures"]


@pytest.fixture
def pair(start: Start, database_url: str, redis_url: str) -> list[Process]:
    """Start two processes of one server."""
    return [start(DATABASE_URL=database_url, REDIS_URL=redis_url) for _ in range(2)]


async def test_the_overview_has_both_processes_and_their_sum(pair: list[Process]) -> None:
    async with World(pair[0].url) as one, World(pair[1].url) as two, client_of(pair[0]) as admin:
        alice = await one.account()
        session = (await alice.session())["id"]
        at_both = [alice, await two.account(alice.key)]
        for account in at_both:
            await account.socket()
        await at_both[1].socket(session=session)
        async with live(admin) as until:
            line = await until(lambda line: sockets_of(line, alice.id) == 3)
            assert {process["pid"] for process in line["processes"]} == {process.pid for process in pair}
            assert len({process["id"] for process in line["processes"]}) == 2
            assert (line["sockets"]["user"], line["sockets"]["session"]) == (2, 1)
            pair[1].kill()  # a process that is gone leaves the page after a while
            await until(lambda line: [process["pid"] for process in line["processes"]] == [pair[0].pid])


async def test_a_sign_in_holds_at_both_and_so_does_a_sign_out(pair: list[Process]) -> None:
    first, second = (process.url for process in pair)
    code = await code_of(pair[0])
    async with httpx.AsyncClient(trust_env=False, headers=SAME, timeout=20) as client:
        assert (await client.post(f"{second}/admin/session", json={"code": code})).status_code == 200
        assert (await client.post(f"{first}/admin/session", json={"code": code})).status_code == 401
        async with client.stream("GET", f"{first}/admin/api/live") as answer:
            lines = answer.aiter_lines()
            assert json.loads(await anext(lines))["accounts"] == 0
            cookies = dict(client.cookies)
            assert (await client.delete(f"{second}/admin/session")).status_code == 200
            async with asyncio.timeout(20):
                with pytest.raises((StopAsyncIteration, httpx.RemoteProtocolError)):
                    while True:
                        await anext(lines)
    async with httpx.AsyncClient(trust_env=False, headers=SAME, cookies=cookies) as client:
        assert outcome(await client.get(f"{first}/admin/api/session")) == (401, REFUSED)
