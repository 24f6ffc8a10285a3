"""A restore or an import that is killed at any step leaves the old server, the new one or a refusal, no mixture."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from happy_light import config, data_dir, pending_moves
from happy_light.admin import backup_folder, backup_restore
from happy_light.auth import derivation
from happy_light.auth.keys import Keys
from happy_light.config import Settings
from happy_light.errors import OperatorError
from happy_light.importing import account_import, server_import
from happy_light.importing.sqlite import Sqlite
from tests.importing import SESSION
from tests.other_servers import SECRET, attachment
from tests.test_import_attacks import ALICE, BOB, KEYS, UUID, account, export
from tests.test_import_attacks import SESSION as SESSION_ROW

CHANGES = ("replace", "rename", "link", "unlink", "rmdir", "mkdir", "fsync", "sync")
"""What changes a folder, in the module os; pathlib and shutil call it there."""
KILLED = 99


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derive keys in no time, and leave the disk its cache: these tests do it hundreds of times."""
    monkeypatch.setattr(derivation, "_ROUNDS", 1)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda _: None)


def settings_of(folder: Path) -> Settings:
    return config.load({"HANDY_MASTER_SECRET": ""}, {"data_dir": str(folder)})


def killed_at(step: int, run: Callable[[], Any]) -> bool:
    """Run in a process that ends without any clean-up instead of making its `step`-th change. Return whether it did."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = step

            def count(change: Callable[..., Any]) -> Callable[..., Any]:
                def changed(*arguments: Any, **options: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os._exit(KILLED)
                    return change(*arguments, **options)

                return changed

            for name in CHANGES:
                setattr(os, name, count(getattr(os, name)))
            run()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, KILLED)
    return os.waitstatus_to_exitcode(status) == KILLED


def start(settings: Settings) -> None:
    """Open the folder as a server does before it opens the database."""
    with data_dir.lock_data_dir(settings):
        data_dir.refuse_unfinished(settings)


def server_in(settings: Settings) -> str:
    """Return whose server this is, after checking that database, secret and files are of one server."""
    with closing(sqlite3.connect(f"file:{settings.database}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        accounts = {row[0] for row in connection.execute("SELECT id FROM accounts")}
        (check,) = connection.execute("SELECT value FROM meta WHERE key = 'secret_check'").fetchone()
    assert Keys(settings.secret_file.read_text()).check_value() == check
    files = {ALICE: f"attachments/sessions/c-{ALICE}/{UUID}.enc", BOB: f"attachments/sessions/c-{BOB}/{UUID}.enc"}
    name = next((id for id in files if id in accounts), "another")
    file = files.get(name, f"attachments/{attachment(SESSION).replace('/attachments/', '/')}")
    assert (settings.data_dir / file).is_file()
    assert len(accounts) == (2 if name == "another" else 1)
    return name


def fill(folder: Path, id: str) -> Settings:
    """Make a server with one account, a session and an attachment in a folder."""
    settings = settings_of(folder)
    session = f"c-{id}"
    lines: list[dict[str, Any]] = [
        {"table": "accounts", "row": account(id)},
        {"table": "sessions", "row": {**SESSION_ROW, "id": session, "account_id": id}},
        {"file": f"files/public/users/{id}/a.png", "bytes": "AAAA"},
        {"file": f"attachments/sessions/{session}/{UUID}.enc", "bytes": "AAAA"},
    ]
    file = export(folder.parent / f"{id}.jsonl", *lines, head={"account": id, "publicKey": KEYS[id]})
    account_import.import_account(file, settings, None, lambda *_: None)
    return settings


def run_through(
    before: Path | None, tmp_path: Path, run: Callable[[Settings], Any], *, old: str | None, new: str, least: int
) -> None:
    """Kill `run` at each of its changes, on a fresh copy of `before`; each time look at the folder and run it again."""
    settings = settings_of(tmp_path / "target")
    step, seen = 0, list[str]()
    killed = True
    while killed:
        step += 1
        shutil.rmtree(settings.data_dir, ignore_errors=True)
        if before is not None:
            shutil.copytree(before, settings.data_dir)
        killed = killed_at(step, lambda: run(settings))
        if not settings.data_dir.exists():
            seen.append("nothing")
            continue
        try:
            start(settings)
        except OperatorError as error:
            assert old is None
            assert "was interrupted before it changed anything. Run it again" in str(error)
            seen.append("refused")
        else:
            seen.append(server_in(settings) if settings.database.exists() else "nothing")
            assert not (settings.data_dir / pending_moves.JOURNAL).exists()
        if killed and step % 5 == 0 and seen[-1] != new:
            run(settings)
            start(settings)
            assert server_in(settings) == new
    assert step > least
    assert seen[-1] == new
    turned = seen.index(new)
    assert set(seen[turned:]) == {new}
    assert set(seen[:turned]) <= ({old} if old is not None else {"nothing", "refused"})
    assert turned < step - 3, "no step after the journal was tried"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a backup of Alice's server."""
    settings = fill(tmp_path / "alice", ALICE)
    backup_folder.back_up_to_file(settings, tmp_path / "alice.tgz", True, False, lambda *_: None)
    return tmp_path / "alice.tgz"


@pytest.mark.slow
@pytest.mark.parametrize("filled", [True, False])
def test_a_restore(tmp_path: Path, archive: Path, filled: bool) -> None:
    if filled:
        fill(tmp_path / "bob", BOB)
    run_through(
        tmp_path / "bob" if filled else None, tmp_path,
        lambda settings: backup_restore.restore(settings, archive, True, lambda *_: None),
        old=BOB if filled else None, new=ALICE, least=30,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("filled", [True, False])
def test_a_takeover_of_another_server(tmp_path: Path, old: Path, filled: bool) -> None:
    if filled:
        fill(tmp_path / "bob", BOB)

    def run(settings: Settings) -> None:
        with closing(Sqlite(old / "happy-server-light.sqlite")) as source:
            server_import.take_over(source, settings, SECRET, old / "files", lambda *_: None, force=True)

    run_through(
        tmp_path / "bob" if filled else None, tmp_path, run, old=BOB if filled else None, new="another", least=30
    )


@pytest.mark.slow
def test_an_account_that_is_the_first_one(tmp_path: Path) -> None:
    fill(tmp_path / "made", ALICE)
    run_through(
        None, tmp_path,
        lambda settings: account_import.import_account(tmp_path / f"{ALICE}.jsonl", settings, None, lambda *_: None),
        old=None, new=ALICE, least=20,
    )  # fmt: skip


# -------------------------------------------------------------------------------------- the moves
def test_moves_to_another_disk_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("from/a/b/file", "from/a/other"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "single").write_text("single")
    (tmp_path / "to/a").mkdir(parents=True)
    (tmp_path / "to/a/kept").write_text("kept")
    (tmp_path / "staging").mkdir()

    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    moves = [(tmp_path / "from", tmp_path / "to"), (tmp_path / "single", tmp_path / "new/single")]
    pending_moves.run(tmp_path, "a restore", moves, tmp_path / "staging")
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "to/a/b/file": "from/a/b/file", "to/a/other": "from/a/other", "to/a/kept": "kept", "new/single": "single",
    }  # fmt: skip
    assert not (tmp_path / "from").exists() and not (tmp_path / "staging").exists()


def test_moves_that_cannot_be_finished_are_named_and_finished_later(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging/a").write_text("a")
    moves = [(tmp_path / "staging/a", tmp_path / "a"), (tmp_path / "gone", tmp_path / "b")]
    sentence = rf"A restore into {tmp_path} was interrupted and cannot be finished: No such file .*gone"
    with (
        pytest.raises(OperatorError, match=sentence),
        pending_moves.staging_folder(tmp_path, tmp_path / "staging2") as staging,
    ):
        pending_moves.run(tmp_path, "a restore", moves, staging)
    assert (tmp_path / "a").read_text() == "a"
    assert (tmp_path / "staging2").exists(), "what is left may be needed"
    with pytest.raises(OperatorError, match=sentence), data_dir.lock_data_dir(settings):
        raise AssertionError
    (tmp_path / "gone").write_text("b")
    with data_dir.lock_data_dir(settings):
        assert (tmp_path / "b").read_text() == "b"
    assert not (tmp_path / "staging2").exists()
    (tmp_path / pending_moves.JOURNAL).write_text("{")
    with pytest.raises(OperatorError, match="cannot be read"):
        start(settings)


@pytest.mark.parametrize(("folder", "command"), [(data_dir.IMPORTING, "import"), (data_dir.RESTORING, "restore")])
def test_a_server_makes_no_empty_database_beside_what_was_interrupted(
    tmp_path: Path, folder: str, command: str
) -> None:
    (tmp_path / folder).mkdir()
    settings = settings_of(tmp_path)
    with pytest.raises(OperatorError, match=f"`happy-server-light {command}` into {tmp_path} was interrupted before"):
        start(settings)
    settings.database.touch()
    start(settings)
