"""The command `accounts`: it takes effect in a running server at once, and works without one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from tests import databases
from tests.client import Account, World, uid
from tests.commands import ok, run
from tests.conftest import Process, Start


async def filled(world: World, process: Process) -> tuple[Account, str]:
    """Return an account with a bit of everything, and its session."""
    alice = await world.account()
    project = await alice.ok("POST", "/v1/projects", {"externalId": "e", "metadata": "m" * 40})
    session = (await alice.session())["id"]
    await alice.send(session, *(f"l{i}" for i in range(25)), content="x" * 100)
    await alice.machine()
    attachment = process.folder / "attachments" / "sessions" / session / f"{uid()}.enc"
    avatar = process.folder / "files" / "public" / "users" / alice.id / "avatars" / "a.png"
    pictures = [
        process.folder / "attachments" / owner / "avatar" / f"{uid()}.enc"
        for owner in (f"sessions/{session}", f"projects/{project['id']}")
    ]
    for file, size in ((attachment, 1000), (avatar, 500), (pictures[0], 200), (pictures[1], 70)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    return alice, session


async def test_list_says_what_each_account_has(process: Process, own: World) -> None:
    bob = await own.account()
    alice, _ = await filled(own, process)

    rows = await ok(process.folder, "accounts", "list")

    assert [row["id"] for row in rows] == [alice.id, bob.id]
    row = rows[0]
    assert (row["sessions"], row["messages"], row["machines"], row["artifacts"]) == (1, 25, 1, 0)
    assert row["projects"] == 1
    assert row["databaseBytes"] == 25 * 100 + len("meta") * 2 + 40
    assert row["fileBytes"] == 1770
    assert re.fullmatch(r"([0-9a-f]{4}-){4}[0-9a-f]{4}", row["fingerprint"])
    assert row["lastActiveAt"] >= row["createdAt"]
    assert (rows[1]["messages"], rows[1]["fileBytes"], rows[1]["databaseBytes"]) == (0, 0, 0)
    text = (await run(process.folder, "accounts", "list")).out
    assert [line.split()[0] for line in text.splitlines()] == ["ACCOUNT", alice.id, bob.id]


async def test_show_finds_an_account_by_id_key_and_fingerprint(process: Process, own: World) -> None:
    alice = await own.account()
    await own.account()
    by_id = await ok(process.folder, "accounts", "show", alice.id)
    public = bytes(alice.key.verify_key).hex()
    for name in (public, public.upper(), by_id["fingerprint"], by_id["fingerprint"].replace("-", "")):
        assert (await ok(process.folder, "accounts", "show", name)) == by_id
    result = await run(process.folder, "accounts", "show", "nobody")
    assert (result.status, result.out) == (2, "")
    assert result.err == "happy-server-light: No account has this id, username, public key or fingerprint.\n"


@pytest.mark.slow
async def test_an_imported_id_means_its_own_account_only(tmp_path: Path) -> None:
    await run(tmp_path, "migrate")
    insert = "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES (?, ?, 0, 0)"
    for id, key in (("a_1", "01" * 32), ("ab1", "02" * 32), ("A_1", "03" * 32)):
        databases.query(tmp_path, insert, (id, key))
    assert (await ok(tmp_path, "accounts", "show", "a_1"))["id"] == "a_1"
    assert len(await ok(tmp_path, "accounts", "list")) == 3


@pytest.mark.parametrize("transports", [("websocket",), ("polling",)])
async def test_sign_out_ends_sockets_and_tokens_at_once(
    process: Process, own: World, transports: tuple[str, ...]
) -> None:
    """Tokens that were found good are remembered, and sockets are asked for theirs only once."""
    alice, bob = await own.account(), await own.account()
    socket, other = await alice.socket(transports=transports), await bob.socket()
    await alice.ok("GET", "/v1/account/profile")

    done = await ok(process.folder, "accounts", "sign-out", alice.id)

    assert done["id"] == alice.id
    await asyncio.wait_for(socket.dropped.wait(), 10)
    assert (await alice.get("/v1/account/profile")).status_code == 401
    with pytest.raises(ConnectionError, match="Invalid authentication token"):
        await alice.socket()
    again = await own.account(alice.key)
    assert again.id == alice.id
    await again.ok("GET", "/v1/account/profile")
    await again.socket()
    await bob.ok("GET", "/v1/account/profile")
    assert await other.heard() == []


async def test_delete_takes_everything_and_leaves_others_alone(process: Process, own: World) -> None:
    alice, session = await filled(own, process)
    bob, theirs = await filled(own, process)
    socket = await alice.socket()

    done = await ok(process.folder, "accounts", "delete", alice.id, "--yes")

    assert done == {"id": alice.id, "messages": 25, "bytes": 1770}
    await asyncio.wait_for(socket.dropped.wait(), 10)
    assert (await alice.get("/v1/sessions")).status_code == 401
    assert not (process.folder / "attachments" / "sessions" / session).exists()
    assert not (process.folder / "files" / "public" / "users" / alice.id).exists()
    assert (process.folder / "attachments" / "sessions" / theirs).exists()
    (kept,) = (await bob.ok("GET", "/v1/projects"))["projects"]
    assert [folder.name for folder in (process.folder / "attachments" / "projects").iterdir()] == [kept["id"]]
    (row,) = await ok(process.folder, "accounts", "list")
    assert (row["id"], row["messages"], row["fileBytes"]) == (bob.id, 25, 1770)
    again = await own.account(alice.key)
    assert again.id != alice.id
    assert (await again.ok("GET", "/v1/sessions"))["sessions"] == []
    assert "Traceback" not in "".join(process.log)


async def test_delete_of_an_id_that_is_a_path_deletes_no_files(process: Process, own: World) -> None:
    """As an import that believed its file would have let in."""
    alice, session = await filled(own, process)
    columns = "account_id, tag, metadata, active_at, created_at, updated_at"
    with contextlib.closing(sqlite3.connect(process.folder / "happy-server-light.sqlite")) as connection, connection:
        connection.execute(
            "INSERT INTO accounts (id, public_key, created_at, updated_at) VALUES ('..', ?, 1, 1)", ("AB" * 32,)
        )
        for id in ("..", f"x/../{session}"):
            connection.execute(f"INSERT INTO sessions (id, {columns}) VALUES (?, '..', ?, 'm', 1, 1, 1)", (id, id))

    process.stop()  # no client puts such an id into the path of a request
    assert await ok(process.folder, "accounts", "delete", "AB" * 32, "--yes") == {"id": "..", "messages": 0, "bytes": 0}

    assert list((process.folder / "attachments/sessions" / session).iterdir())
    assert list((process.folder / "files/public/users" / alice.id).iterdir())
    (row,) = await ok(process.folder, "accounts", "list")
    assert row["id"] == alice.id


async def test_delete_asks_first_and_nobody_there_means_no(process: Process, own: World) -> None:
    alice = await own.account()
    result = await run(process.folder, "accounts", "delete", alice.id)
    assert (result.status, result.out) == (2, "")
    assert "--yes" in result.err
    await alice.ok("GET", "/v1/sessions")


async def test_sign_out_and_delete_work_while_no_server_runs(start: Start, process: Process, own: World) -> None:
    alice, bob = await own.account(), await own.account()
    process.stop()

    await ok(process.folder, "accounts", "sign-out", alice.id)
    await ok(process.folder, "accounts", "delete", bob.id, "--yes")

    async with World(start(folder=process.folder).url) as world:
        headers = {"Authorization": f"Bearer {alice.token}"}
        assert (await world.http.get("/v1/sessions", headers=headers)).status_code == 401
        assert (await world.account(alice.key)).id == alice.id
        assert (await world.account(bob.key)).id != bob.id


async def test_a_killed_servers_socket_does_not_keep_commands_from_working(process: Process, own: World) -> None:
    alice = await own.account()
    process.kill()
    assert (process.folder / "admin.sock").exists()
    await ok(process.folder, "accounts", "sign-out", alice.id)


async def test_a_label_is_in_lists_and_in_the_log_of_what_operators_do(process: Process, own: World) -> None:
    alice = await own.account()

    done = await ok(process.folder, "accounts", "label", alice.id, " Mum's phone ")

    assert done == {"id": alice.id, "label": "Mum's phone"}
    assert (await ok(process.folder, "accounts", "show", alice.id))["label"] == "Mum's phone"
    assert "Mum's phone" in (await run(process.folder, "accounts", "list")).out
    await ok(process.folder, "accounts", "sign-out", alice.id)
    await process.wait_for_log(f"account {alice.id} (Mum's phone) is signed out everywhere")
    for wrong in ("x" * 101, "two\nlines"):
        refused = await run(process.folder, "accounts", "label", alice.id, wrong)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err == "happy-server-light: A label has at most 100 characters, all of them printable.\n"
    assert (await ok(process.folder, "accounts", "label", alice.id, ""))["label"] is None
    assert (await ok(process.folder, "accounts", "show", alice.id))["label"] is None
