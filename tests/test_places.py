"""Folders and files that this user may not use: a sentence and 2 from every command, and no process that stays."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_start import command, environ, refused

pytestmark = pytest.mark.slow

_DROP, _OVERRIDE, _SEARCH = 24, 1, 2  # prctl's PR_CAPBSET_DROP, and what lets root ignore the modes of files


def _as_everyone() -> None:
    """In a child of root: modes of files count for it too. For others it does nothing."""
    for right in (_OVERRIDE, _SEARCH):
        ctypes.CDLL(None).prctl(_DROP, right, 0, 0, 0)


def sentence(folder: Path, *arguments: str, **more: str) -> str:
    """With what a command ends in 2, for a user whom the modes of files bind."""
    ended = subprocess.run(
        [sys.executable, "-m", "happy_light", *arguments],
        env=environ(folder, **more), capture_output=True, text=True, timeout=60, preexec_fn=_as_everyone,
    )  # fmt: skip
    assert ended.returncode == 2 and not ended.stdout, ended
    assert ended.stderr.startswith("happy-server-light: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removeprefix("happy-server-light: ").strip()


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Return a data folder with an empty database."""
    command(tmp_path, "migrate", "--data-dir", str(tmp_path / "data"))
    return str(tmp_path / "data")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Return a path in a folder that may not be looked into."""
    (tmp_path / "closed").mkdir(mode=0)
    return tmp_path / "closed" / "x"


@pytest.mark.parametrize(
    "arguments",
    [
        ("accounts", "list", "--database-url", "CLOSED"),
        ("backup", "CLOSED"),
        ("restore", "CLOSED", "--data-dir", "DATA-2"),
        ("import", "CLOSED"),
        ("export", "account", "CLOSED"),
        ("doctor", "--files-dir", "CLOSED"),
    ],
)
def test_commands_say_which_place_they_may_not_use(
    arguments: tuple[str, ...], data: str, closed: Path, tmp_path: Path
) -> None:
    given = [word.replace("CLOSED", str(closed)).replace("DATA", data) for word in arguments]
    said = sentence(tmp_path, "--data-dir", data, *given)
    assert str(closed) in said and said.endswith("Permission denied.")


def test_a_web_app_folder_that_may_not_be_looked_into_is_a_warning(closed: Path, tmp_path: Path) -> None:
    more = {"HAPPY_SERVER_UI_DIR": str(closed), "PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "happy_light", "--data-dir", str(tmp_path / "data")],
        env=environ(tmp_path, **more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=_as_everyone,
    )  # fmt: skip
    assert process.stdout is not None
    assert "is ready" in process.stdout.readline()
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in log
    assert f"the web app's folder {closed} has no index.html" in log


def test_a_files_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused(tmp_path, "--files-dir", str(tmp_path / "file"))
    assert said == (
        f"The files folder {tmp_path / 'file'} cannot be written: File exists. Choose another with --files-dir."
    )


def test_a_database_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    said = refused(tmp_path, "--database-url", str(tmp_path / "none" / "db"))
    assert said == (
        f"The folder {tmp_path / 'none'} cannot hold the lock db.pid: No such file or directory. It has to exist and "
        "be writable; --data-dir and --database-url choose another."
    )
    ended = command(tmp_path, "doctor", "--database-url", str(tmp_path / "none" / "db"), "--data-dir", str(tmp_path))
    assert ended.returncode == 1 and "There is no database" in ended.stdout and not ended.stderr


def test_a_secret_file_that_is_no_text(data: str, tmp_path: Path) -> None:
    file = Path(data, "handy-master-secret.txt")
    file.write_bytes(b"\xff\xfe")
    text = f"The master secret file {file} is not text; put the secret back into it."
    assert refused(tmp_path, "--data-dir", data) == text
    assert sentence(tmp_path, "backup", str(tmp_path / "b"), "--data-dir", data) == text
    ended = command(tmp_path, "doctor", "--data-dir", data)
    assert ended.returncode == 1 and f"secret: {text}" in ended.stdout and not ended.stderr


def test_a_backup_does_not_take_the_place_of_what_is_no_file(data: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    said = sentence(tmp_path, "backup", str(tmp_path / "pipe"), "--data-dir", data)
    assert said == f"{tmp_path / 'pipe'} is neither a file nor a folder; name one of those."
    assert (tmp_path / "pipe").is_fifo()
