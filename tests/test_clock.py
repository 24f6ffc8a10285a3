"""Wrong clocks: behind the database at a start, set while the server runs, and far ahead of what was there before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from happy_light import clock, config
from happy_light.admin import account_admin, clock_check, prune
from happy_light.domains.presence.operations import end_session
from happy_light.server import Server
from tests.client import World
from tests.conftest import SECRET

pytestmark = pytest.mark.slow  # starts a server for each test

Inside = Callable[..., Awaitable[Server]]
DAY = 86_400_000  # ms
REAL = time.time_ns


def set_clock(monkeypatch: pytest.MonkeyPatch, ms: int) -> None:
    """Set the computer's clock ahead by so many ms, or back."""
    monkeypatch.setattr(time, "time_ns", lambda: REAL() + ms * 1_000_000)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Server]:
    """Run a server on a data folder in this process."""
    flags = {"data_dir": str(folder), "port": "0", "metrics_enabled": "false"}
    server = Server(config.load({"HANDY_MASTER_SECRET": SECRET}, flags))
    await server.start()
    ready = asyncio.Event()
    serving = asyncio.create_task(server.serve(ready.set))
    await ready.wait()
    try:
        yield server
    finally:
        server.stop()
        await serving


@pytest.mark.parametrize("behind", [DAY, 29 * DAY, 20_000 * DAY])
async def test_a_start_with_a_clock_that_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, behind: int
) -> None:
    """The last is about that of a computer without a battery, which begins in 1970."""
    async with running(tmp_path) as server, World(server.url) as world:
        alice = await world.account()
        session = await alice.session("s")
        token = alice.token
        late = server.keys.tokens.signer.mint(alice.id, clock.now_ms() // 1000 + 3600)  # an hour after the last entry
    set_clock(monkeypatch, -behind)
    async with running(tmp_path) as server, World(server.url) as world:
        assert "behind the newest entry" in caplog.text
        alice = await world.account(alice.key)
        renewed = alice.token
        for alice.token in (late, token):
            await alice.ok("GET", "/v1/account/profile")
        changed = await alice.ok("GET", f"/v2/sessions?changedSince={session['updatedAt']}")
        assert changed["sessions"] == []
        await alice.send(session["id"], "l")
        changed = await alice.ok("GET", f"/v2/sessions?changedSince={session['updatedAt']}")
        assert [each["id"] for each in changed["sessions"]] == [session["id"]], "times do not go back"
        ui = await alice.socket()
        ack = await ui.call("session-alive", {"sid": session["id"], "time": REAL() // 1_000_000, "thinking": False})
        assert ack == {"ok": True}
        # The network has told it the time: nothing is left of it.
        set_clock(monkeypatch, 0)
        assert not clock.is_behind()
        assert abs(clock.now_ms() - REAL() // 1_000_000) < 60_000
        for alice.token in (token, renewed):
            await alice.ok("GET", "/v1/account/profile")


async def test_a_database_from_the_far_future_moves_no_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It was written while the clock was wrong; heartbeats of clients would be too old for years."""
    set_clock(monkeypatch, 400 * DAY)
    async with running(tmp_path) as server, World(server.url) as world:
        alice = await world.account()
        session = (await alice.session("s"))["id"]
    set_clock(monkeypatch, 0)
    async with running(tmp_path) as server, World(server.url) as world:
        assert "399 days ahead" in caplog.text
        alice = await world.account(alice.key)
        ui = await alice.socket()
        now = REAL() // 1_000_000
        assert await ui.call("session-alive", {"sid": session, "time": now, "thinking": False}) == {"ok": True}


@pytest.mark.parametrize("ms", [-400 * DAY, -DAY, DAY, 400 * DAY])
async def test_a_clock_that_is_set_while_the_server_runs(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, ms: int
) -> None:
    """Tokens, ids, seqs, sign-outs and challenges go on."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        ui = await alice.socket()
        await alice.send(session, "before")
        set_clock(monkeypatch, ms)
        await alice.send(session, "after")
        page = await alice.ok("GET", f"/v3/sessions/{session}/messages")
        assert [(each["localId"], each["seq"]) for each in page["messages"]] == [("before", 1), ("after", 2)]
        assert [each["id"] for each in page["messages"]] == sorted(each["id"] for each in page["messages"])
        assert len(await ui.updates()) == 2
        await server.database.write(alice.id, account_admin.sign_out)
        assert (await alice.get("/v1/account/profile")).status_code == 401
        alice = await world.account(alice.key)
        await alice.ok("GET", "/v1/account/profile")
        set_clock(monkeypatch, max(0, ms))  # where it was behind, it is set right
        await alice.ok("GET", "/v1/account/profile")


async def test_a_clock_far_ahead_prunes_nothing_until_somebody_says_that_it_is_right(inside: Inside) -> None:
    server = await inside()
    database = server.database
    now = clock.now_ms()
    later = now + 40 * DAY

    async def jumped(at: int) -> int | None:
        return await database.write_for((), clock_check.jumped_from, at)

    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        assert await jumped(now + DAY) is None
        assert await jumped(later) == now + DAY
        # What clients do with that clock does not make it right, nor does a start.
        await database.write_for(
            (alice.id,),
            lambda tx: tx.execute("UPDATE sessions SET updated_at = ? WHERE id = ?", (later, session)),
        )
        assert await jumped(later) == now + DAY
        await database.write_for((), clock_check.trust)
        assert await jumped(now + 29 * DAY) is None


async def test_a_clock_that_jumps_while_the_server_runs_prunes_nothing(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Although the database then has times of that clock, too."""
    server = await inside(prune_sessions_inactive="30d")
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        await server.database.write(alice.id, end_session, session, clock.now_ms())
        assert await server.database.write_for((), clock_check.jumped_from, clock.now_ms()) is None
        set_clock(monkeypatch, 100 * DAY)
        await alice.session("a new one")
        await prune.prune_if_clock_fits(server.context, prune.PruneRequest(30 * DAY // 1000))
        assert "nothing is pruned" in caplog.text
        await alice.ok("GET", f"/v1/sessions/{session}")
        await server.database.write_for((), clock_check.trust)
        await prune.prune_if_clock_fits(server.context, prune.PruneRequest(30 * DAY // 1000))
        assert (await alice.get(f"/v1/sessions/{session}")).status_code == 404
