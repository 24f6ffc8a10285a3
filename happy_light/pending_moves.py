"""Move several files into place so that an interruption is made good: all of them end up where they belong.

Before the first move all of them are written to a journal in the data folder, and each is struck out when it is
done. Whoever locks the data folder next finishes what a journal still lists. Until the journal is written nothing
has changed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from happy_light.atomic_write import atomic_file, sync_folder, write_atomic
from happy_light.errors import OperatorError

log = logging.getLogger(__name__)

JOURNAL: Final = "pending-moves.json"
_CANNOT_RENAME: Final = (errno.EXDEV, errno.EBUSY)  # to another disk; a folder that a disk is mounted on


class _Move(msgspec.Struct):
    """Paths relative to the data folder, absolute outside of it."""

    source: str
    target: str


class _Journal(msgspec.Struct):
    """What is under way, such as "a restore", the moves that are left, and the folder to remove after them."""

    what: str
    moves: list[_Move]
    staging: str


def unused(path: Path) -> Path:
    """Return the path, with a number behind it if something is there already."""
    numbered = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in itertools.count(1))
    return next(path for path in numbered if not path.exists())


@contextlib.contextmanager
def staging_folder(data_dir: Path, folder: Path) -> Iterator[Path]:
    """Create an empty folder to build in what `run` then moves; remove it at the end, unless moves are left."""
    shutil.rmtree(folder, ignore_errors=True)  # from an operation that was interrupted before `run`
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        if not (data_dir / JOURNAL).exists():
            shutil.rmtree(folder, ignore_errors=True)


def run(data_dir: Path, what: str, moves: Sequence[tuple[Path, Path]], staging: Path) -> None:
    """Move files and folders from the first to the second path of each pair, in order; then remove `staging`.

    A file replaces one with its target's name, a folder is merged into one. `what` names the operation, such as
    "a restore", in messages. Raises OSError, and nothing was moved; OperatorError, and `finish` does the rest.
    """
    os.sync()  # what is about to get its name is on disk
    stored = [_Move(_stored(data_dir, source), _stored(data_dir, target)) for source, target in moves]
    journal = _Journal(what, stored, _stored(data_dir, staging))
    _write(data_dir, journal)
    _carry_out(data_dir, journal)


def finish(data_dir: Path) -> None:
    """Make the moves that a journal in the data folder still lists; return at once without one.

    Raises OperatorError if that cannot be done.
    """
    path = data_dir / JOURNAL
    try:
        journal = msgspec.json.decode(path.read_bytes(), type=_Journal)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError) as error:
        raise OperatorError(f"{path}, the journal of an interrupted operation, cannot be read: {error}.") from error
    log.warning("finishing %s into %s, which was interrupted", journal.what, data_dir)
    _carry_out(data_dir, journal)


def _carry_out(data_dir: Path, journal: _Journal) -> None:
    try:
        while journal.moves:
            move = journal.moves[0]
            _move(data_dir / move.source, data_dir / move.target)
            del journal.moves[0]
            _write(data_dir, journal)
        shutil.rmtree(data_dir / journal.staging, ignore_errors=True)
        (data_dir / JOURNAL).unlink()
        sync_folder(data_dir)
    except OSError as error:
        raise OperatorError(
            f"{journal.what.capitalize()} into {data_dir} was interrupted and cannot be finished: "
            f"{error.strerror or error} ({error.filename}). Make that possible and start again."
        ) from error


def _write(data_dir: Path, journal: _Journal) -> None:
    write_atomic(data_dir / JOURNAL, msgspec.json.encode(journal))


def _stored(data_dir: Path, path: Path) -> str:
    return str(path.relative_to(data_dir) if path.is_relative_to(data_dir) else path.absolute())


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder. It may have been interrupted before, at any point."""
    if not source.exists() and not source.is_symlink():
        if not target.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        return
    for folder in [folder for folder in target.parents if not folder.exists()][::-1]:
        folder.mkdir(mode=0o700)
    try:
        if target.is_dir():
            _merge(source, target)
        else:
            source.replace(target)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME:
            raise
        if source.is_dir():
            _merge(source, target)
        else:
            _copy(source, target)
    sync_folder(target.parent)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(source.parent)


def _merge(source: Path, target: Path) -> None:
    """Move everything in a folder into another one, and remove the empty folder."""
    target.mkdir(mode=0o700, exist_ok=True)
    for entry in sorted(source.iterdir()):
        _move(entry, target / entry.name)
    with contextlib.suppress(OSError):  # a folder that a disk is mounted on stays
        source.rmdir()


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, atomic_file(target) as writer:
        shutil.copyfileobj(reader, writer)
    source.unlink()
