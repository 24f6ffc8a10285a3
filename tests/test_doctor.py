"""doctor: it finds each fault when it is planted, and says what to do; a healthy server has none."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from happy_light.admin import doctor_local
from tests import other_servers
from tests.client import World, uid
from tests.commands import run
from tests.conftest import Process, Start

SERVICE_USER = 65_534
NO_PUSH = {"HAPPY_SERVER_LIGHT_PUSH": "false"}


def port_of(process: Process) -> str:
    return process.url.rpartition(":")[2]


async def examine(process: Process, *arguments: str, **environ: str) -> tuple[int, dict[str, Any]]:
    """Return the exit status, and the findings that are not ok by their name."""
    result = await run(
        process.folder, "doctor", "--json", "--port", port_of(process), *arguments, **{**NO_PUSH, **environ}
    )
    assert result.out, result
    for finding in result.json:
        assert finding["text"].endswith("."), finding
        assert bool(finding["cure"]) == (finding["level"] != "ok"), finding
    return result.status, {finding["name"]: finding for finding in result.json if finding["level"] != "ok"}


def sql(process: Process, statement: str) -> None:
    connection = sqlite3.connect(process.folder / "happy-server-light.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


async def filled(own: World) -> str:
    alice = await own.account()
    session: str = (await alice.session())["id"]
    await alice.send(session, *(f"l{i}" for i in range(10)))
    await alice.machine()
    return session


async def test_a_healthy_server_has_no_findings_running_or_not(process: Process, own: World) -> None:
    await filled(own)
    assert await examine(process, PUBLIC_URL=process.url) == (0, {})
    text = await run(process.folder, "doctor", "--port", port_of(process), **NO_PUSH)
    assert text.out.endswith("\nNo problems.\n")
    process.stop()
    assert await examine(process) == (0, {})


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("numbering", "DELETE FROM messages WHERE seq = 5"),
        ("numbering", "DELETE FROM messages WHERE seq = 10"),
        ("numbering", "UPDATE sessions SET seq = 20"),
        ("references", "UPDATE machines SET account_id = 'nobody'"),
        ("clock", "UPDATE sessions SET updated_at = updated_at + 3600000"),
        ("secret", "UPDATE meta SET value = 'x' WHERE key = 'secret_check'"),
        ("pictures", "UPDATE sessions SET avatar_ref = 'sessions/x/avatar/a.enc', avatar_preview = 'p'"),
        (
            "files",
            "INSERT INTO uploaded_files (id, account_id, path, created_at, updated_at) "
            "SELECT 'f', id, 'public/users/x/a.png', 1, 1 FROM accounts",
        ),
    ],
)
async def test_faults_of_the_content(process: Process, own: World, name: str, statement: str) -> None:
    await filled(own)
    sql(process, statement)
    status, found = await examine(process)
    assert (status, list(found)) == (1, [name])
    assert found[name]["level"] == "problem"


async def test_gaps_that_came_with_an_import_are_a_warning(start: Start, old: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as source:
        (session, last), *_ = source.execute("SELECT sessionId, max(seq) FROM SessionMessage GROUP BY sessionId")
        source.execute("DELETE FROM SessionMessage WHERE sessionId = ? AND seq = ?", (session, last))
    folder = tmp_path / "data"
    secret = {"HANDY_MASTER_SECRET": other_servers.SECRET}
    assert (await run(folder, "import", str(old), **secret)).status == 0
    process = start(folder=folder, **secret)
    status, found = await examine(process, **secret)
    assert (status, list(found), found["numbering"]["level"]) == (0, ["numbering"], "warning")
    assert session in found["numbering"]["text"]
    sql(process, "UPDATE sessions SET seq = seq + 1")
    status, found = await examine(process, **secret)
    assert (status, list(found), found["numbering"]["level"]) == (1, ["numbering"], "problem")


async def test_messages_that_prune_deleted_are_no_gap(process: Process, own: World) -> None:
    await filled(own)
    sql(process, "DELETE FROM messages WHERE seq < 5")
    assert await examine(process) == (0, {})
    sql(process, "DELETE FROM messages")
    assert await examine(process) == (0, {})


async def test_a_damaged_database(process: Process, own: World) -> None:
    await filled(own)
    process.stop()
    path = process.folder / "happy-server-light.sqlite"
    raw = bytearray(path.read_bytes())
    for page in range(5, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(raw)
    status, found = await examine(process)
    assert status == 1
    assert found.keys() & {"integrity", "database"}


async def test_no_database(process: Process) -> None:
    process.stop()
    (process.folder / "happy-server-light.sqlite").unlink()
    status, found = await examine(process)
    assert (status, list(found)) == (1, ["database"])


@pytest.mark.parametrize(("name", "mode"), [(".", 0o755), ("happy-server-light.sqlite", 0o644), ("secret", 0o640)])
async def test_modes(process: Process, name: str, mode: int) -> None:
    if name == "secret":
        name = "handy-master-secret.txt"
        (process.folder / name).write_text("test-secret")
    path = process.folder / name
    path.chmod(mode)
    status, found = await examine(process)
    assert (status, list(found)) == (1, ["modes"])
    assert str(path) in found["modes"]["cure"]
    await asyncio.to_thread(os.system, found["modes"]["cure"])
    assert await examine(process) == (0, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_file_of_another_user_than_its_folder(process: Process) -> None:
    """Root may look after a service that runs as another user; what matters is that its files are its own."""
    for path in (process.folder, *process.folder.iterdir()):
        os.chown(path, SERVICE_USER, SERVICE_USER)
    assert await examine(process) == (0, {})
    database = process.folder / "happy-server-light.sqlite"
    os.chown(database, 0, 0)
    status, found = await examine(process)
    assert (status, list(found), found["modes"]["cure"]) == (1, ["modes"], f"chown {SERVICE_USER} '{database}'")


async def test_no_secret_and_a_wrong_one(process: Process) -> None:
    for secret in ("", "another"):
        status, found = await examine(process, HANDY_MASTER_SECRET=secret)
        assert (status, list(found)) == (1, ["secret"])


def test_space() -> None:
    where = Path("/data")
    assert doctor_local.space(2**30, 0, where).level == "ok"
    assert doctor_local.space(2**28, 0, where).level == "problem"
    assert doctor_local.space(2**30, 2**31, where).level == "problem"


async def test_leftover_files_are_a_warning_and_prune_is_the_cure(process: Process, own: World) -> None:
    session = await filled(own)
    for owner in (session, "gone"):
        folder = process.folder / "attachments" / "sessions" / owner
        folder.mkdir(parents=True)
        (folder / f"{uid()}.enc").write_bytes(b"x")
        os.utime(folder, (time.time() - 7200,) * 2)
    status, found = await examine(process)
    assert (status, list(found)) == (0, ["leftovers"])
    assert "gone" in found["leftovers"]["text"]
    assert session not in found["leftovers"]["text"]
    assert (await run(process.folder, "prune")).status == 0
    assert await examine(process) == (0, {})


async def test_the_port_of_another_program_and_of_another_server(
    process: Process, start: Start, tmp_path: Path
) -> None:
    other: Process = start(folder=tmp_path / "other")
    status, found = await examine(process, "--port", port_of(other))
    assert (status, list(found)) == (1, ["port"])
    assert "Another server" in found["port"]["text"]
    process.stop()
    status, found = await examine(process, "--port", port_of(other))
    assert (status, list(found)) == (1, ["port"])
    assert "something else" in found["port"]["text"]


async def test_expo_out_of_reach_is_a_warning(process: Process) -> None:
    status, found = await examine(
        process, HAPPY_SERVER_LIGHT_PUSH="true", HAPPY_SERVER_LIGHT_EXPO_URL="http://127.0.0.1:9/send"
    )
    assert (status, list(found), found["push"]["level"]) == (0, ["push"], "warning")
    reached = await examine(process, HAPPY_SERVER_LIGHT_PUSH="true", HAPPY_SERVER_LIGHT_EXPO_URL=process.url)
    assert reached == (0, {})


# ------------------------------------------------------------------------------------ PUBLIC_URL
class Proxy:
    """A reverse proxy that changes the head of the first request of each connection, and limits its body (bytes)."""

    def __init__(self, target: str, change: Callable[[str], str], answer: str = "", limit: int = 2**40) -> None:
        self._limit = limit
        self._port = int(target.rpartition(":")[2])
        self._change = change
        self._answer = answer

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = re.search(r"content-length: (\d+)", head)
            answer = "413 Too large" if size is not None and int(size[1]) > self._limit else self._answer
            if answer:
                writer.write(f"HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
                return
            inside, outside = await asyncio.open_connection("127.0.0.1", self._port)
            outside.write(self._change(head).encode())
            await asyncio.gather(self._pipe(reader, outside), self._pipe(inside, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
        writer.close()


def drop(*names: str) -> Callable[[str], str]:
    return lambda head: "\r\n".join(line for line in head.split("\r\n") if line.partition(":")[0].lower() not in names)


@pytest.mark.parametrize(
    ("change", "name", "text", "expected"),
    [
        (lambda head: head, "", "", 0),
        (drop("upgrade", "connection"), "websocket", "upgrade", 1),
        (lambda head: head.replace("transport=polling", "transport=none"), "polling", "handshake", 1),
        (lambda head: head.replace("\r\nHost: 127", "\r\nHost: inner\r\nX-Old: 127"), "proxy", "Host inner", 0),
        (
            lambda head: head.replace("\r\n\r\n", "\r\nX-Forwarded-Proto: https\r\n\r\n"),
            "proxy", "X-Forwarded-Proto https", 0,
        ),
    ],
)  # fmt: skip
async def test_what_a_proxy_does(process: Process, change: Any, name: str, text: str, expected: int) -> None:
    async with Proxy(process.url, change) as url:
        status, found = await examine(process, PUBLIC_URL=url)
    assert (status, list(found)) == (expected, [name] if name else [])
    if name:
        assert text in found[name]["text"]


async def test_a_proxy_that_is_not_trusted(process: Process) -> None:
    def add(head: str) -> str:
        return head.replace("\r\n\r\n", "\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")

    async with Proxy(process.url, add) as url:
        status, found = await examine(process, PUBLIC_URL=url, TRUSTED_PROXIES="none")
    assert (status, list(found)) == (0, ["proxy"])
    assert "127.0.0.1" in found["proxy"]["cure"]


@pytest.mark.parametrize(
    ("limit", "expected", "text"),
    [
        (2**20, (1, "problem"), "A body of 8 MiB sent to {} is answered with 413, not by this server."),
        (2**24, (0, "warning"), "A body of 100 MiB for {} is refused with 413, but the server would take it."),
    ],
)
async def test_a_proxy_that_limits_bodies(process: Process, limit: int, expected: tuple[int, str], text: str) -> None:
    async with Proxy(process.url, str, limit=limit) as url:
        status, found = await examine(process, PUBLIC_URL=url)
    assert list(found) == ["large bodies"]
    assert (status, found["large bodies"]["level"]) == expected
    assert found["large bodies"]["text"] == text.format(url)


@pytest.mark.parametrize(
    ("answer", "text"), [("308 Permanent\r\nlocation: https://x/", "redirects to https://x/"), ("502 Bad", "502")]
)
async def test_a_public_url_that_does_not_lead_here(process: Process, answer: str, text: str) -> None:
    async with Proxy(process.url, str, answer) as url:
        status, found = await examine(process, PUBLIC_URL=url)
    assert (status, list(found)) == (1, ["public url"])
    assert text in found["public url"]["text"]


async def test_a_public_url_of_another_server_and_of_nobody(process: Process, start: Start, tmp_path: Path) -> None:
    other: Process = start(folder=tmp_path / "other")
    for url, text in ((other.url, "another server"), ("http://127.0.0.1:9", "refused")):
        status, found = await examine(process, PUBLIC_URL=url)
        assert (status, list(found)) == (1, ["public url"])
        assert text in found["public url"]["text"]


async def test_a_public_url_cannot_be_judged_while_no_server_runs(process: Process) -> None:
    process.stop()
    status, found = await examine(process, PUBLIC_URL=process.url)
    assert (status, list(found)) == (0, ["public url"])
    assert found["public url"]["level"] == "warning"
