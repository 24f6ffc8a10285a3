"""`import` takes all or nothing: the right secret, no folder in use, and a kill in the middle changes nothing."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.client import World
from tests.conftest import Start
from tests.importing import HOLDER, ONE, SESSION, command, imported, refused, signed_in
from tests.other_servers import SECRET, insert

pytestmark = pytest.mark.slow


# ------------------------------------------------------------------------------------------ secrets
@pytest.mark.parametrize("way", ["--secret", "--secret-file", "environment", "beside"])
async def test_the_secret_is_found_where_it_was(way: str, old: Path, tmp_path: Path, start: Start) -> None:
    beside = old / "handy-master-secret.txt"
    elsewhere = tmp_path / "master-secret"
    beside.rename(old / "master-secret" if way == "beside" else elsewhere)
    ways: dict[str, list[str | Path]] = {
        "--secret": ["--secret", SECRET],
        "--secret-file": ["--secret-file", elsewhere],
    }
    arguments = ways.get(way, [])

    imported(old, *arguments, "--data-dir", tmp_path / "data",
             HANDY_MASTER_SECRET=SECRET if way == "environment" else "")  # fmt: skip

    async with World(start(**HOLDER).url) as world:
        assert (await signed_in(world, ONE).get("/v1/account/profile")).status_code == 200


def test_without_the_right_secret_nothing_is_taken(old: Path, tmp_path: Path) -> None:
    target = ["--data-dir", tmp_path / "data"]
    assert "opens none of 4 stored tokens" in refused(old, "--secret", "wrong", *target)
    (old / "handy-master-secret.txt").unlink()
    assert "master secret is needed" in refused(old, *target)
    (old / "handy-master-secret.txt").write_text(" \n")
    assert "is empty" in refused(old, *target)
    assert not (tmp_path / "data/happy-server-light.sqlite").exists()
    assert not (tmp_path / "data/handy-master-secret.txt").exists()


def test_no_secret_is_printed(old: Path, tmp_path: Path) -> None:
    done = command("import", old, "--secret", SECRET, "--data-dir", tmp_path / "data")
    assert done.returncode == 0
    assert SECRET not in done.stdout + done.stderr
    assert "  messages                            12\n" in done.stdout


# ------------------------------------------------------------------------------------ all or nothing
def test_a_dry_run_counts_and_changes_nothing(old: Path, tmp_path: Path) -> None:
    dry = imported(old, "--data-dir", tmp_path / "data", "--dry-run")

    assert not (tmp_path / "data").exists()
    real = imported(old, "--data-dir", tmp_path / "data")
    assert (dry.pop("dryRun"), real.pop("dryRun")) == (True, False)
    assert {**dry, "seconds": 0} == {**real, "seconds": 0}


def test_a_running_server_and_a_filled_folder_are_left_alone(old: Path, tmp_path: Path, start: Start) -> None:
    target = ["--data-dir", tmp_path / "data"]
    imported(old, *target)
    server = start(**HOLDER)
    assert f"pid {server.pid}" in refused(old, "--force", *target)
    assert server.stop() == 0
    assert "already has 2 accounts" in refused(old, *target)

    database = tmp_path / "data/happy-server-light.sqlite"
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("DELETE FROM messages WHERE id = 'msg1-1'")
    (tmp_path / "data/handy-master-secret.txt").write_text("another secret")
    summary = imported(old, "--force", *target)

    (kept,) = (tmp_path / "data").glob("happy-server-light.sqlite.before-import-*")
    (secret,) = (tmp_path / "data").glob("handy-master-secret.txt.before-import-*")
    assert secret.read_text() == "another secret"
    assert any(kept.name in note for note in summary["notes"])
    for file, count in ((kept, 11), (database, 12)):
        with closing(sqlite3.connect(file)) as reader:
            assert reader.execute("SELECT count(*) FROM messages").fetchone() == (count,)


def test_a_killed_import_leaves_the_old_state_and_the_next_one_works(old: Path, tmp_path: Path) -> None:
    target = tmp_path / "data"
    imported(old, "--data-dir", target)
    before = {name: (target / name).read_bytes() for name in ("happy-server-light.sqlite", "handy-master-secret.txt")}
    with closing(sqlite3.connect(old / "happy-server-light.sqlite", isolation_level=None)) as writer:
        many = ({"id": f"n{i}", "sessionId": SESSION, "seq": 100 + i, "content": {"t": "encrypted", "c": "x" * 300}}
                for i in range(60_000))  # fmt: skip
        insert(writer, [("SessionMessage", row) for row in many])
    process = subprocess.Popen(
        [sys.executable, "-m", "happy_light", "import", str(old), "--force", "--data-dir", str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    staged = target / ".importing/database"
    until = time.monotonic() + 60
    while not (staged.exists() and staged.stat().st_size > 1_000_000) and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    assert staged.exists()
    assert {name: (target / name).read_bytes() for name in before} == before
    summary = imported(old, "--force", "--data-dir", target)
    assert summary["tables"]["SessionMessage"]["taken"] == 60_012
    assert not staged.exists()


def test_what_is_no_server_is_refused(old: Path, tmp_path: Path) -> None:
    target = ["--data-dir", tmp_path / "data", "--secret", SECRET]
    (tmp_path / "text").write_text("hello\n")
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    (tmp_path / "pg/pglite").mkdir(parents=True)
    assert "does not exist" in refused(tmp_path / "missing", *target)
    assert "neither a SQLite database nor an account's export" in refused(tmp_path / "text", *target)
    assert "has no table Account, Session" in refused(tmp_path / "other.sqlite", *target)
    assert "pglite-socket" in refused(tmp_path / "pg", *target)
    assert "does not exist" in refused(old, "--files", tmp_path / "missing", *target)
    assert not (tmp_path / "data/happy-server-light.sqlite").exists()
    # The old server's folder is the new one's: its database has to be moved away first.
    assert "move it away" in refused(old, "--data-dir", old)
    shutil.copy(old / "happy-server-light.sqlite", tmp_path / "copy.sqlite")
    assert "move it away" in refused(tmp_path / "copy.sqlite", "--data-dir", old, "--secret", SECRET)
