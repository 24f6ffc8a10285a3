"""Signing out a device by command, over the ends of processes, and in several processes that are one server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from happy_light.auth.devices import sign_out_device
from happy_light.auth.keys import Keys
from happy_light.bus import Bus
from happy_light.config import postgres_url
from happy_light.store import Database
from happy_light.store.postgres.engine import PostgresEngine
from tests.client import Account, World
from tests.commands import ok, run
from tests.conftest import SECRET, Process, Start
from tests.test_devices import again, jti, paired, refused

pytest_plugins = ["tests.service_fixtures"]


class Pair:
    """Two processes, and an account that is signed in at both."""

    def __init__(self, processes: list[Process], worlds: list[World], accounts: list[Account]) -> None:
        self.processes = processes
        self.worlds = worlds
        self.first, self.second = accounts


@pytest.fixture
async def pair(start: Start, database_url: str, redis_url: str) -> AsyncIterator[Pair]:
    """Start two processes."""
    processes = [start(DATABASE_URL=database_url, REDIS_URL=redis_url) for _ in range(2)]
    async with World(processes[0].url) as one, World(processes[1].url) as two:
        account = await one.account()
        yield Pair(processes, [one, two], [account, await two.account(account.key)])


# --------------------------------------------------------------------------------------- commands
async def test_commands(process: Process, own: World) -> None:
    alice = await own.account()
    phone = await again(alice)
    terminal, _ = await paired(phone)
    await ok(process.folder, "accounts", "label", alice.id, "Mum")
    rows = await ok(process.folder, "accounts", "devices", alice.id)
    assert {row["id"] for row in rows} == {jti(alice), jti(phone), jti(terminal)}
    text = (await run(process.folder, "accounts", "devices", alice.id)).out.splitlines()
    assert text[0].split("  ")[0] == "DEVICE" and len(text) == 4
    (line,) = [line for line in text if line.startswith(jti(terminal))]
    assert line.split()[1:4] == ["terminal", jti(phone), "cli/1.2"]
    done = await run(process.folder, "accounts", "sign-out", alice.id, "--device", jti(phone))
    assert (done.status, done.out) == (0, f"Device {jti(phone)} of {alice.id} is signed out.\n")
    assert await refused(phone) and not await refused(alice) and not await refused(terminal)
    done = await run(process.folder, "accounts", "sign-out", alice.id, "--device", jti(phone))
    assert (done.status, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "The account has no device with this id" in done.err
    await process.wait_for_log(f"account {alice.id}: device {jti(phone)} is signed out")
    await process.wait_for_log(f"an operator has signed out device {jti(phone)} of account {alice.id} (Mum)")
    assert alice.token not in "".join(process.log)
    await ok(process.folder, "accounts", "sign-out", alice.id)
    assert (await run(process.folder, "accounts", "devices", alice.id)).out == "No device is signed in.\n"
    assert await refused(alice) and await refused(terminal)


async def test_a_token_that_was_made_with_the_master_secret_is_listed(start: Start) -> None:
    process = start()
    async with World(process.url) as world:
        alice = await world.account()
        other = Account(world, Keys(SECRET).tokens.signer.mint(alice.id), alice.key)
        assert not await refused(other)
    process.stop()  # which writes who was seen
    found = await run(process.folder, "accounts", "devices", alice.id)
    (line,) = [line for line in found.out.splitlines() if line.startswith("unknown")]
    assert (found.status, "made with the master secret" in line) == (0, True)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_sign_out_outlives_the_server(start: Start, killed: bool) -> None:
    process = start()
    async with World(process.url) as world:
        alice = await world.account()
        phone = await again(alice)
        await ok(process.folder, "accounts", "sign-out", alice.id, "--device", jti(phone))
    process.kill() if killed else process.stop()
    stopped = await ok(process.folder, "accounts", "devices", alice.id)
    assert [row["id"] for row in stopped] == [jti(alice)], "the command works without a server"
    process = start(folder=process.folder)
    async with World(process.url) as world:
        alice.world = phone.world = world
        assert await refused(phone) and not await refused(alice)


# -------------------------------------------------------------------------------- several processes
async def test_a_sign_out_of_a_device_holds_in_all_processes(pair: Pair) -> None:
    """The phone has a socket at the second process, which knows its token, and is signed out at the first one."""
    phone = await pair.worlds[1].account(pair.first.key)
    socket, others = await phone.socket(), [await pair.first.socket(), await pair.second.socket()]
    await phone.ok("GET", "/v1/machines")
    environ = {"DATABASE_URL": "", "REDIS_URL": ""}  # over the admin socket, so that neither is needed
    arguments = ("accounts", "sign-out", pair.first.id, "--device", phone.claims["jti"])
    done = await run(pair.processes[0].folder, *arguments, **environ)
    assert done.status == 0, done.err
    async with asyncio.timeout(1):
        await socket.dropped.wait()
    for world in pair.worlds:
        phone.world = world
        assert (await phone.get("/v1/sessions")).status_code == 401
        with pytest.raises(ConnectionError, match="Invalid authentication token"):
            await phone.socket()
    await asyncio.sleep(2.5)  # the sweeps look for sign-outs that were not heard of, and there is none
    for account, other in zip((pair.first, pair.second), others, strict=True):
        assert await other.heard() == []
        assert not other.dropped.is_set()
        assert (await account.get("/v1/sessions")).status_code == 200


async def test_a_sign_out_of_a_device_that_nobody_was_told_of_is_found(pair: Pair, database_url: str) -> None:
    phone = await pair.worlds[1].account(pair.first.key)
    socket, other = await phone.socket(), await pair.second.socket()
    database = Database(PostgresEngine(postgres_url.parse(database_url)), Bus())  # whose bus leads to no process
    await database.open()
    assert await database.write(phone.id, sign_out_device, jti(phone))
    await database.close()
    async with asyncio.timeout(20):
        await asyncio.gather(socket.dropped.wait(), other.dropped.wait())
    assert (await phone.get("/v1/sessions")).status_code == 401
    assert (await pair.second.get("/v1/sessions")).status_code == 200
    other = await pair.second.socket()  # as clients do by themselves
    await asyncio.sleep(2.5)
    assert not other.dropped.is_set(), "it was found once"
