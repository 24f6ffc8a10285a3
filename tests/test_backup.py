"""backup and restore: everything, while others write, and every client stays signed in."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import secrets
import sqlite3
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest

from happy_light.admin import backup_archive
from happy_light.admin.progress import ignore_progress
from happy_light.errors import OperatorError
from happy_light.server import Server
from tests.client import Account, World, uid
from tests.commands import ok, run
from tests.conftest import SECRET, Process, Start

Change = Callable[[str, bytes], tuple[str, bytes | None]]

NO_SECRET = {"HANDY_MASTER_SECRET": ""}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def with_files(own: World, process: Process) -> tuple[Account, str]:
    """Return an account with a session, messages, an attachment, a picture and a public file."""
    alice = await own.account()
    session = (await alice.session())["id"]
    await alice.send(session, *(f"l{i}" for i in range(50)))
    picture = f"attachments/projects/p/avatar/{uid()}.enc"
    for path in (
        f"attachments/sessions/{session}/{uid()}.enc",
        picture,
        f"files/public/users/{alice.id}/avatars/a.png",
    ):
        file = process.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode() * 1000)
    return alice, session


async def test_a_backup_under_load_restored_elsewhere_has_everything_and_everyone_signed_in(
    start: Start, process: Process, own: World, tmp_path: Path
) -> None:
    alice, session = await with_files(own, process)
    acknowledged: list[int] = []
    going = True

    async def load() -> None:
        while going:
            (stored,) = await alice.send(session, uid(), content="x" * 2000)
            acknowledged.append(stored["seq"])

    writers = [asyncio.create_task(load()) for _ in range(4)]
    while len(acknowledged) < 20:
        await asyncio.sleep(0)
    before = max(acknowledged)
    made = await ok(process.folder, "backup", str(tmp_path / "backups") + "/")
    after = max(acknowledged)
    going = False
    await asyncio.gather(*writers)
    archive = Path(made["archive"])
    assert after > before, "the backup did not run under load"
    assert mode_of(archive) == 0o600
    assert names_in(archive.parent) == [archive.name]

    restored = await ok(tmp_path / "elsewhere", "restore", str(archive), **NO_SECRET)
    assert (restored["secret"], restored["before"]) == (True, None)
    for name in ("files", "attachments"):
        assert files_of(tmp_path / "elsewhere" / name) == files_of(process.folder / name)
    process.stop()
    second: Process = start(folder=tmp_path / "elsewhere", **NO_SECRET)

    headers = {"Authorization": f"Bearer {alice.token}"}
    async with httpx.AsyncClient(base_url=second.url, headers=headers, trust_env=False, verify=False) as http:
        seqs: list[int] = []
        more = True
        while more:
            params = {"after_seq": seqs[-1] if seqs else 0, "limit": 500}
            page = (await http.get(f"/v3/sessions/{session}/messages", params=params)).json()
            seqs += [message["seq"] for message in page["messages"]]
            more = page["hasMore"]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len(seqs) >= before
    async with World(second.url) as world:
        again = await world.account(alice.key)
        assert again.id == alice.id
        ui = await again.socket()
        (stored,) = await again.send(session, "new")
        assert stored["seq"] == len(seqs) + 1
        assert [body["t"] for body in await ui.updates()] == ["new-message"]
    doctor = sqlite3.connect(tmp_path / "elsewhere" / "happy-server-light.sqlite")
    assert doctor.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    doctor.close()


async def test_a_file_name_is_that_file_and_works_without_a_server(
    start: Start, process: Process, tmp_path: Path
) -> None:
    process.stop()
    made = await ok(process.folder, "backup", str(tmp_path / "b.tgz"))
    assert made["archive"] == str(tmp_path / "b.tgz")
    start(folder=process.folder)


async def test_without_the_secret_the_archive_has_none_and_the_right_one_is_asked_for(
    start: Start, process: Process, own: World, tmp_path: Path
) -> None:
    alice = await own.account()
    archive = tmp_path / "b.tar.gz"
    await ok(process.folder, "backup", str(archive), "--no-secret")
    with tarfile.open(archive) as tar:
        assert sorted(tar.getnames()) == ["database.sqlite", "manifest.json"]
        assert SECRET.encode() not in b"".join(contents(tar, name) for name in tar.getnames())

    wrong = await run(tmp_path / "new", "restore", str(archive), HANDY_MASTER_SECRET="another")
    assert wrong.status == 2
    assert "HANDY_MASTER_SECRET is not the secret" in wrong.err
    told = await run(tmp_path / "new", "restore", str(archive), **NO_SECRET)
    assert told.status == 0
    assert "The archive has no master secret" in told.out
    async with World(start(folder=tmp_path / "new").url) as world:
        assert (await world.account(alice.key)).id == alice.id


async def test_a_secret_that_is_not_the_databases_is_not_backed_up(process: Process, tmp_path: Path) -> None:
    result = await run(process.folder, "backup", str(tmp_path / "b.tar.gz"), HANDY_MASTER_SECRET="another")
    assert result.status == 2
    assert "--no-secret" in result.err
    assert names_in(tmp_path) == ["data"]


async def test_restore_leaves_a_folder_that_is_in_use_alone(
    start: Start, process: Process, own: World, tmp_path: Path
) -> None:
    alice, session = await with_files(own, process)
    archive = tmp_path / "b.tar.gz"
    await ok(process.folder, "backup", str(archive))
    await alice.send(session, "later")

    while_running = await run(process.folder, "restore", str(archive), "--force")
    assert (while_running.status, "Another server" in while_running.err) == (2, True)
    process.stop()
    not_empty = await run(process.folder, "restore", str(archive))
    assert (not_empty.status, "--force" in not_empty.err) == (2, True)

    restored = await ok(process.folder, "restore", str(archive), "--force")

    kept = sqlite3.connect(Path(restored["before"]) / "happy-server-light.sqlite")
    assert kept.execute("SELECT max(seq) FROM messages").fetchone() == (51,)
    kept.close()
    async with World(start(folder=process.folder).url) as world:
        again = await world.account(alice.key)
        page = await again.ok("GET", f"/v3/sessions/{session}/messages?limit=500")
        assert page["messages"][-1]["seq"] == 50
    assert sorted(files_of(process.folder / "files")) == sorted(files_of(Path(restored["before"]) / "files"))


def contents(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def rewritten(archive: Path, change: Change) -> Path:
    """Return the archive with `change(name, bytes)` applied to each member; None leaves it out."""
    target = archive.with_name("changed.tar.gz")
    with tarfile.open(archive) as old, tarfile.open(target, "w:gz") as new:
        for member in old.getmembers():
            name, value = change(member.name, contents(old, member.name))
            if value is not None:
                info = tarfile.TarInfo(name)
                info.size = len(value)
                new.addfile(info, io.BytesIO(value))
    return target


def _newer(name: str, value: bytes) -> tuple[str, bytes]:
    if name != "manifest.json":
        return name, value
    return name, json.dumps({**json.loads(value), "schema": 99, "version": "9.9"}).encode()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_newer, "made by happy-server-light 9.9"),
        (lambda name, value: (name, value[:-1] + b"?" if name == "database.sqlite" else value), "damaged"),
        (lambda name, value: (name, None if name == "manifest.json" else value), "damaged"),
        (lambda name, value: (name, None if name == "master-secret" else value), "damaged"),
        (lambda name, value: ("files/../../evil" if name == "master-secret" else name, value), "no backup"),
        (lambda name, value: ("/etc/evil" if name == "master-secret" else name, value), "no backup"),
    ],
)
async def test_restore_checks_first_and_touches_nothing(
    process: Process, tmp_path: Path, change: Change, text: str
) -> None:
    archive = tmp_path / "b.tar.gz"
    await ok(process.folder, "backup", str(archive))
    result = await run(tmp_path / "new", "restore", str(rewritten(archive, change)), **NO_SECRET)
    assert result.status == 2
    assert text in result.err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["server.pid"]


async def test_an_archive_that_was_cut_off_is_refused(process: Process, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar.gz"
    await ok(process.folder, "backup", str(archive))
    archive.write_bytes(archive.read_bytes()[:-2000])
    result = await run(tmp_path / "new", "restore", str(archive))
    assert result.status == 2
    assert str(archive) in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_what_is_written_is_flushed_steadily(
    inside: Callable[..., Awaitable[Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at the end would keep the disk from commits for seconds, where a database is large."""
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        session = (await alice.session())["id"]
        await alice.send(session, *(f"l{i}" for i in range(50)), content=secrets.token_hex(20_000))
        flushed: list[tuple[str, int]] = []
        monkeypatch.setattr(backup_archive, "_FLUSH_EVERY", 100_000)
        monkeypatch.setattr(backup_archive, "_PAGES", 16)
        monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(written(handle)))
        with (tmp_path / "archive").open("wb") as file:
            await asyncio.to_thread(
                backup_archive.write_archive, server.settings, file, tmp_path / "snapshot", True, ignore_progress
            )
    for name in ("snapshot", "archive"):
        sizes = [size for file, size in flushed if file == name]
        steps = [later - before for before, later in itertools.pairwise(sizes)]
        assert len(sizes) > 5 and max(steps) < 400_000, (name, sizes)


def test_a_database_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    """The running server tries it again with every backup."""
    before = psutil.Process().num_fds()
    with pytest.raises(OperatorError, match="cannot be copied"):
        backup_archive.copy_database(tmp_path / "none", tmp_path / "copy", ignore_progress)
    assert psutil.Process().num_fds() == before


def written(handle: int) -> tuple[str, int]:
    """Return the name of an open file, and how many bytes it has."""
    return Path(f"/proc/self/fd/{handle}").readlink().name, os.fstat(handle).st_size
