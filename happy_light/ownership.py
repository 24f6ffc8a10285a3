"""What root makes in the data folder of another user is given to that user, whose server could not use it else."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def kept(folder: Path, also: Iterable[Path] = ()) -> Iterator[None]:
    """Give what root makes in `folder` and in the folders `also` during the block to the owner of `folder`.

    Nothing happens if another user runs this, or if root owns the folder.
    """
    owner, begun = _owner(folder), time.time() - 1  # the clock of file systems may be a little behind
    try:
        yield
    finally:
        if owner is not None:
            for place in filter(Path.is_dir, {folder, *also}):
                _give(place, begun, *owner)


def _owner(folder: Path) -> tuple[int, int] | None:
    """Return the user and group of the folder if they are to get what root makes."""
    if os.geteuid() != 0 or not folder.is_dir():
        return None
    status = folder.stat()
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def _give(folder: Path, since: float, user: int, group: int) -> None:
    """Change the owner of everything in the folder that root has made or changed since that time (s).

    The other user may write there, so links are not followed, and a file that has a second name is left alone.
    """
    for _, folders, names, place in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *names):
            with contextlib.suppress(OSError):
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
                try:
                    status = os.fstat(file)
                    alone = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1
                    if status.st_uid == 0 and status.st_ctime >= since and alone:
                        os.fchown(file, user, group)
                finally:
                    os.close(file)
