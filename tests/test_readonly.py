"""A database that cannot be written: refused at the start, refused for each write, never a lie, and forgiven."""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.client import World, b64, uid
from tests.conftest import SECRET, Start

CANNOT = "The server cannot write to its database"
FAILURE = {"error": "Service Unavailable", "message": CANNOT, "statusCode": 503}


def heed_permissions() -> None:
    """Make the permissions of files apply to root too, in what this process then runs (capabilities(7))."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def start_on(folder: Path) -> subprocess.CompletedProcess[str]:
    """Start a server that is to be refused."""
    return subprocess.run(
        [sys.executable, "-m", "happy_light", "--port", "0", "--data-dir", str(folder)],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "METRICS_ENABLED": "false",
             "HANDY_MASTER_SECRET": SECRET},
        preexec_fn=heed_permissions, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, start: Start) -> Iterator[Path]:
    """Return the folder of a server that has run, with an account; writable again at the end."""
    folder = tmp_path / "data"
    assert start(folder=folder).stop() == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    yield folder
    for path, mode in modes.items():
        if path.exists():
            path.chmod(mode)


@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
@pytest.mark.parametrize("what", ["file", "folder", "both"])
def test_a_start_that_could_not_write_is_refused_in_a_sentence(folder: Path, what: str, start: Start) -> None:
    database = folder / "happy-server-light.sqlite"
    before = database.read_bytes()
    if what != "folder":
        database.chmod(0o400)
    if what != "file":
        folder.chmod(0o500)
    ended = start_on(folder)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("happy-server-light: ") and ended.stderr.count("\n") == 1, ended.stderr
    assert str(folder) in ended.stderr and ("written" in ended.stderr or "denied" in ended.stderr), ended.stderr
    assert database.read_bytes() == before
    folder.chmod(0o700)
    database.chmod(0o600)
    assert start(folder=folder).stop() == 0


async def test_writes_are_refused_while_the_disk_takes_none_and_work_again_without_a_restart(
    start: Start,
) -> None:
    server = start()
    process = psutil.Process(server.pid)
    async with World(server.url) as world:
        alice = await world.account()
        session = await alice.session()
        id, machine = session["id"], (await alice.machine())["id"]
        ui, sender = await alice.socket(), await alice.socket(session=id)
        await alice.send(id, "before")
        seqs = [frame["seq"] for _, frame in await ui.heard("update")]
        await sender.heard()
        _, hard = process.rlimit(resource.RLIMIT_FSIZE)
        # No byte of any file can be written by the running server, as on a file system that became read-only.
        process.rlimit(resource.RLIMIT_FSIZE, (0, hard))
        for _ in range(3):
            for method, path, body in (
                ("POST", f"/v3/sessions/{id}/messages", {"messages": [{"content": "x", "localId": "lost"}]}),
                ("POST", "/v1/kv", {"mutations": [{"key": "k", "value": "eA==", "version": -1}]}),
                ("POST", "/v1/sessions", {"tag": "lost", "metadata": "m"}),
                ("POST", "/v1/machines", {"id": uid(), "metadata": "m"}),
                ("POST", f"/v1/sessions/{id}/archive", {}),
                ("DELETE", f"/v1/machines/{machine}", None),
                ("POST", "/v1/artifacts", {"id": uid(), "header": "eA==", "body": "eA==", "dataEncryptionKey": "eA=="}),
                ("POST", "/v1/account/settings", {"settings": "lost", "expectedVersion": 0}),
                ("POST", "/v1/push-tokens", {"token": "lost"}),
                ("POST", "/v1/auth/request", {"publicKey": b64(os.urandom(32))}),
            ):
                response = await alice.request(method, path, body)
                assert (response.status_code, response.json()) == (503, FAILURE), path
            ack = await sender.call("message", {"sid": id, "message": "lost"})
            assert ack == {"ok": False, "error": CANNOT}
            ack = await sender.call("update-metadata", {"sid": id, "metadata": "lost", "expectedVersion": 0})
            assert ack == {"result": "error"}
            response = await alice.put(
                f"/v1/sessions/{id}/attachments/{uid()}.enc", content=b"x",
                headers={"Content-Type": "application/octet-stream"},
            )  # fmt: skip
            assert response.status_code == 503
        assert await ui.heard() == []
        assert await sender.heard() == []
        # Who is known is let in, and reads what is there.
        page = await alice.ok("GET", f"/v3/sessions/{id}/messages")
        assert [message["localId"] for message in page["messages"]] == ["before"]
        assert [row["id"] for row in await alice.ok("GET", "/v1/machines")] == [machine]
        assert await (await alice.socket()).call("ping") == {}
        health = await world.http.get("/health")
        assert (health.status_code, health.json()["error"]) == (503, CANNOT), "a monitor hears of it"
        process.rlimit(resource.RLIMIT_FSIZE, (hard, hard))
        await alice.send(id, "after")
        assert (await sender.call("message", {"sid": id, "message": "later"}))["seq"] == 3
        ack = await ui.call("update-metadata", {"sid": id, "metadata": "new", "expectedVersion": 0})
        assert ack["result"] == "success"
        seqs += [frame["seq"] for _, frame in await ui.heard("update")]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log), "".join(server.log)
    server = start()
    async with World(server.url) as world:
        alice = await world.account(alice.key)
        page = await alice.ok("GET", f"/v3/sessions/{id}/messages")
        assert [message["localId"] for message in page["messages"]] == ["before", "after", None]
        assert [message["seq"] for message in page["messages"]] == [1, 2, 3]


async def test_a_stop_while_nothing_can_be_written_ends(start: Start) -> None:
    server = start()
    process = psutil.Process(server.pid)
    async with World(server.url) as world:
        alice = await world.account()
        id = (await alice.session())["id"]
        await alice.send(id, "before")
        sender = await alice.socket(session=id)
        await sender.call("session-alive", {"sid": id, "time": 10**13})  # what would be written at the stop
        process.rlimit(resource.RLIMIT_FSIZE, (0, process.rlimit(resource.RLIMIT_FSIZE)[1]))
        assert server.stop() == 0
    assert "Traceback" not in "".join(server.log), "".join(server.log)
    server = start()
    async with World(server.url) as world:
        page = await (await world.account(alice.key)).ok("GET", f"/v3/sessions/{id}/messages")
        assert [message["localId"] for message in page["messages"]] == ["before"]
