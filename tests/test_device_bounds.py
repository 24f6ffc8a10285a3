"""How many devices an account may have, and that those are signed out that nobody uses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from happy_light import clock
from happy_light.admin import devices as admin_devices
from happy_light.auth import devices
from happy_light.server import Server
from happy_light.store import Transaction
from tests.client import World
from tests.commands import ok
from tests.test_devices import again, jti, refused

Inside = Callable[..., Awaitable[Server]]


async def test_too_many_devices_sign_out_the_one_that_was_idle_for_longest(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "DEVICES_MAX", 3)
    server = await inside()
    async with World(server.url) as world:
        accounts = [alice := await world.account(), *[await again(alice) for _ in range(2)]]

        def age(tx: Transaction) -> None:
            for index, account in enumerate(accounts):
                tx.execute("UPDATE devices SET last_seen_at = ? WHERE id = ?", ((7, 5, 6)[index], jti(account)))

        await server.database.write_for((), age)
        socket = await accounts[1].socket()
        newest = await again(alice)
        async with asyncio.timeout(10):
            await socket.dropped.wait()
        assert [await refused(each) for each in (*accounts, newest)] == [False, True, False, False]


async def test_prune_signs_out_what_was_idle_for_a_year(inside: Inside, tmp_path: Path) -> None:
    server = await inside()
    folder = tmp_path / "data"
    async with World(server.url) as world:
        alice = await world.account()
        phone, active, year = await again(alice), await again(alice), devices.IDLE_MAX
        await server.context.devices.flush(everything=True)

        def age(tx: Transaction) -> None:
            recent, old = tx.now - year + 60_000, tx.now - year - 60_000
            tx.execute("UPDATE devices SET last_seen_at = ? WHERE id <> ?", (old, jti(alice)))
            tx.execute("UPDATE devices SET last_seen_at = ? WHERE id = ?", (recent, jti(alice)))

        await server.database.write_for((), age)
        socket = await active.socket()  # it is in use, whatever was written
        server.context.devices._written.clear()
        assert (await ok(folder, "prune", "--dry-run"))["devices"] == 1
        assert (await ok(folder, "prune"))["devices"] == 1
        assert await refused(phone)
        assert not await refused(alice) and not await refused(active)
        assert await socket.call("ping") == {}


async def test_a_device_that_comes_back_while_idle_ones_are_signed_out_stays(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        phone, before = await again(alice), clock.now_ms() - devices.IDLE_MAX
        # Both were idle when they were looked for; one was seen before it was its turn.
        monkeypatch.setattr(admin_devices, "find_idle", lambda *_: [(alice.id, jti(alice)), (alice.id, jti(phone))])

        def age(tx: Transaction) -> None:
            tx.execute("UPDATE devices SET last_seen_at = ? WHERE id = ?", (before - 1, jti(phone)))

        await server.database.write_for((), age)
        assert await admin_devices.forget_idle(server.context, before, dry_run=False) == 1
        assert await refused(phone) and not await refused(alice)
