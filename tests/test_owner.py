"""Operator commands that root runs on the folder of a service leave it to the service's user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Start
from tests.test_start import command

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sqlite_only,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can act on what others own"),
]
USER = 65_534


def everything(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.rglob("*")


def owners(folder: Path) -> dict[str, int]:
    """Return the users, other than that of the service, who own something in the folder."""
    found = {str(path.relative_to(folder)): path.lstat().st_uid for path in everything(folder)}
    return {name: user for name, user in found.items() if user != USER}


@pytest.fixture
def service(start: Start) -> Path:
    """Make the data folder of a service that runs as USER and is stopped."""
    server = start(HANDY_MASTER_SECRET="")
    assert server.stop() == 0
    for path in everything(server.folder):
        os.chown(path, USER, USER)
    return server.folder


@pytest.mark.parametrize(
    "words",
    ["accounts list", "registration open --for 1m", "prune", "migrate", "secret rotate --yes", "restore --force {} "],
)
def test_the_owner_stays(service: Path, tmp_path: Path, words: str) -> None:
    archive = tmp_path / "backup.tar.gz"
    assert command(tmp_path, "backup", str(archive), "--data-dir", str(service)).returncode == 0
    assert archive.stat().st_uid == 0, "what root makes elsewhere is root's"
    done = command(tmp_path, *words.format(archive).split(), "--data-dir", str(service))
    assert done.returncode == 0, done.stderr
    assert owners(service) == {}


def test_only_what_the_command_made_is_given_away(service: Path, tmp_path: Path) -> None:
    """The service's user may put links into its folder: root's files behind them stay root's."""
    outside = tmp_path / "outside"
    outside.write_text("root's")
    (service / "soft").symlink_to(outside)
    (service / "hard").hardlink_to(outside)
    os.lchown(service / "soft", USER, USER)
    assert command(tmp_path, "secret", "rotate", "--yes", "--data-dir", str(service)).returncode == 0
    assert owners(service) == {"hard": 0} and outside.stat().st_uid == 0
