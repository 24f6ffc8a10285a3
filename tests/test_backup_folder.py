"""Backups in a folder: names, --keep, what is refused, several at once, killed runs, the schedule, verify."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
import tarfile
from pathlib import Path

import pytest

from happy_light import config, store
from happy_light.admin import backup_folder
from happy_light.admin.progress import part_of
from happy_light.errors import OperatorError
from tests import programs
from tests.client import World
from tests.commands import environment, ok, run
from tests.conftest import SECRET, Start

pytestmark = pytest.mark.slow  # every test starts the program

NAME = re.compile(r"happy-server-light-[0-9a-f]{8}-\d{8}T\d{6}Z(-\d+)?\.tar\.gz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a data folder with a database, a file and a configuration file; no server has run on it."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    store.create_or_migrate(folder / "happy-server-light.sqlite")
    file = folder / "files" / "public" / "a.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(random.Random(1).randbytes(300_000))
    (folder / "happy-server-light.toml").write_text('registration = "first"\n')
    return folder


def settings_of(folder: Path, **flags: str) -> config.Settings:
    environ = {"HANDY_MASTER_SECRET": SECRET}
    return config.load(environ, {"data_dir": str(folder), **flags}, folder / "none")


def back_up(folder: Path, target: Path, keep: int | None = None) -> backup_folder.Backup:
    return backup_folder.back_up_to_folder(settings_of(folder), target, True, keep, lambda done, total: None)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def set_id(folder: Path, id: str) -> None:
    connection = sqlite3.connect(folder / "happy-server-light.sqlite")
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('server_id', ?)", (id,))
    connection.commit()
    connection.close()


# --------------------------------------------------------------------------------------------------- keep
def test_keep_counts_only_whole_archives_of_this_server(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    set_id(folder, "aaaaaaaa")
    own = [back_up(folder, target).archive for _ in range(3)]
    set_id(folder, "bbbbbbbb")
    other = back_up(folder, target).archive
    set_id(folder, "aaaaaaaa")
    cut = target / "happy-server-light-aaaaaaaa-20990101T000000Z.tar.gz"
    cut.write_bytes(own[0].read_bytes()[:-1000])
    (target / "mine.tar.gz").write_text("not ours")
    made = back_up(folder, target, keep=2)
    assert made.removed == own[:2]
    assert names_in(target) == sorted([own[2].name, made.archive.name, other.name, cut.name, "mine.tar.gz"])
    assert all(NAME.fullmatch(path.name) for path in [*own, other])


def test_the_id_stays_with_the_database(folder: Path, tmp_path: Path) -> None:
    set_id(folder, "0123abcd")
    assert back_up(folder, tmp_path / "b").archive.name.startswith("happy-server-light-0123abcd-")


# ------------------------------------------------------------------------------------------------ refused
async def test_a_file_that_exists_is_only_replaced_with_force(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.tgz"
    target.write_text("precious")
    refused = await run(folder, "backup", str(target))
    assert (refused.status, target.read_text()) == (2, "precious")
    assert refused.err == (
        f"happy-server-light: {target} exists already. Name another file, or replace it with --force.\n"
    )
    await ok(folder, "backup", str(target), "--force")
    assert (await ok(folder, "backup", "verify", str(target)))["entries"] == 4


def test_a_folder_inside_of_the_data_is_refused(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder / "files")
    for target in (folder, folder / "backups", folder / "files" / "x", link, tmp_path / "x" / ".." / "data"):
        with pytest.raises(OperatorError, match="which is what is backed up"):
            back_up(folder, target)
    assert not (folder / "backups").exists()


def test_a_missing_database_makes_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "happy-server-light.sqlite").unlink()
    with pytest.raises(OperatorError, match="There is no database"):
        back_up(folder, tmp_path / "backups")
    assert names_in(tmp_path) == ["data"]


# ----------------------------------------------------------------------------------------------- contents
async def test_the_configuration_file_is_in_it_and_comes_back(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "b.tgz"
    await ok(folder, "backup", str(archive))
    await ok(tmp_path / "new", "restore", str(archive))
    assert (tmp_path / "new" / "happy-server-light.toml").read_text() == 'registration = "first"\n'

    there = tmp_path / "there"
    there.mkdir()
    (there / "happy-server-light.toml").write_text("port = 4000\n")
    told = await run(there, "restore", str(archive))
    assert told.status == 0 and "happy-server-light.toml.restored" in told.out
    assert (there / "happy-server-light.toml").read_text() == "port = 4000\n"


async def test_a_secret_in_the_configuration_file_stays_out_with_no_secret(folder: Path, tmp_path: Path) -> None:
    (folder / "happy-server-light.toml").write_text(f'master_secret = "{SECRET}"\n')
    await ok(folder, "backup", str(tmp_path / "b.tgz"), "--no-secret")
    with tarfile.open(tmp_path / "b.tgz") as tar:
        assert "happy-server-light.toml" not in tar.getnames()


async def test_quiet_is_for_cron(folder: Path, tmp_path: Path) -> None:
    done = await run(folder, "backup", str(tmp_path / "b.tgz"), "--quiet")
    assert done == (0, "", "")


async def test_verify_says_what_an_archive_is(folder: Path, tmp_path: Path) -> None:
    archive = back_up(folder, tmp_path / "b").archive
    assert "is whole: 4 files, with the master secret" in (await run(folder, "backup", "verify", str(archive))).out
    archive.write_bytes(archive.read_bytes()[:-1000])
    cut = await run(folder, "backup", "verify", str(archive))
    assert cut.status == 2 and "cannot be read" in cut.err
    missing = await run(folder, "backup", "verify", str(tmp_path / "nowhere"))
    assert missing.status == 2 and "There is no archive" in missing.err
    assert (await run(folder, "backup", "verify")).status == 2
    assert not (tmp_path / "verify").exists()


def test_the_progress_goes_once_from_0_to_100_percent(folder: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    backup_folder.back_up_to_folder(
        settings_of(folder), tmp_path / "b", True, None, lambda done, total: seen.append(done / total)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0 and len(seen) > 10
    part_of(lambda done, total: seen.append(done / total), 0, 3)(0, 0)
    assert seen[-1] == 0.0, "a total that is not known"


# ---------------------------------------------------------------------------------- several and killed runs
async def test_several_at_once_are_all_whole(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    made = await asyncio.gather(*(asyncio.to_thread(back_up, folder, target) for _ in range(10)))
    assert names_in(target) == sorted(each.archive.name for each in made), "ten names, and nothing beside them"
    for each in made[:3]:
        assert (await ok(folder, "backup", "verify", str(each.archive)))["secret"] is True


def test_leftovers_of_a_killed_run_go_unless_a_run_is_under_way(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    target.mkdir()
    leftovers = [f".happy-server-light-backup.0123456789ab.{end}" for end in ("part", "database", "database-journal")]
    kept = [".happy-server-light-backup.0123456789ab.other", ".mine.part"]
    for name in (*leftovers, *kept):
        (target / name).touch()
    with backup_folder._prepared(settings_of(folder), target):  # removes them, and is a run itself
        assert names_in(target) == sorted(kept)
        (target / leftovers[0]).touch()
        back_up(folder, target)
        assert leftovers[0] in names_in(target), "it may be of the run that is under way"
    back_up(folder, target)
    assert [name for name in names_in(target) if name.startswith(".")] == sorted(kept)


async def test_a_run_that_is_killed_leaves_no_archive_that_is_not_whole(folder: Path, tmp_path: Path) -> None:
    (folder / "files" / "public" / "b.bin").write_bytes(random.Random(2).randbytes(8_000_000))
    target = tmp_path / "backups"
    chance = random.Random(3)
    killed = 0
    for _ in range(6):
        process = programs.Program(["backup", f"{target}/", "--data-dir", str(folder)], environment(folder))
        while process.poll() is None and not (target.is_dir() and any(target.glob(".happy-*.database"))):
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.random() * 0.2)
        if process.poll() is None:
            process.kill()
            killed += 1
        process.wait(20)
    assert killed
    assert names_in(target), "a kill leaves something"
    last = back_up(folder, target)
    archives = names_in(target)
    assert last.archive.name in archives
    for name in archives:
        assert NAME.fullmatch(name), "what a killed run left is gone, and nothing else has a name"
        await ok(folder, "backup", "verify", str(target / name))
    await ok(tmp_path / "restored", "restore", str(last.archive))


# ----------------------------------------------------------------------------------------------- schedule
async def test_the_server_makes_backups_by_itself_and_tells_how_it_went(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "backups"
    given = {"HAPPY_SERVER_LIGHT_BACKUP_EVERY": "1s", "HAPPY_SERVER_LIGHT_BACKUP_KEEP": "2",
             "HAPPY_SERVER_LIGHT_BACKUP_DIR": str(target)}  # fmt: skip
    server = start(**given)
    async with World(server.url) as world:
        while "backup" not in (health := (await world.http.get("/health")).json()):
            await asyncio.sleep(0.05)
        assert health["status"] == "ok" and health["backup"]["ok"] is True
        stats = await ok(server.folder, "stats")
        archive = Path(stats["server"]["backup"]["archive"])
        await ok(server.folder, "backup", "verify", str(archive))
        while archive.exists():  # two newer ones
            await asyncio.sleep(0.05)
        assert len([name for name in names_in(target) if not name.startswith(".")]) in (2, 3)

        for path in target.iterdir():
            path.unlink()
        target.rmdir()
        target.write_text("in the way")
        while (await world.http.get("/health")).json()["backup"]["ok"]:
            await asyncio.sleep(0.05)
        health = (await world.http.get("/health")).json()
        assert health["status"] == "ok", "the server works"
        metrics = next(line.split()[1] for line in server.printed if line.startswith("  Metrics"))
        text = (await world.http.get(metrics)).text
        assert "\nbackup_last_result 0.0\n" in text and "\nbackup_last_success_timestamp_seconds " in text
        assert "FAILED: The folder" in (await run(server.folder, "stats")).out
    assert server.stop() == 0
    assert any("the scheduled backup failed: The folder" in line for line in server.log)


def test_a_restart_waits_until_the_next_backup_is_due(start: Start, tmp_path: Path) -> None:
    server = start(HAPPY_SERVER_LIGHT_BACKUP_EVERY="1h")
    folder = server.folder.with_name("data-backups")
    while not folder.is_dir() or not any(NAME.fullmatch(name) for name in names_in(folder)):
        pass
    made = names_in(folder)
    assert server.stop() == 0
    again = start(HAPPY_SERVER_LIGHT_BACKUP_EVERY="1h")
    assert again.stop() == 0
    assert names_in(folder) == [name for name in made if not name.startswith(".")]
