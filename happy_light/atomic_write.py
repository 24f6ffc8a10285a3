"""Write files that are either complete and on disk or not there at all.

The content goes to a temporary file beside the target (`.<name>.<12 hex digits>.part`, mode 0600, created with
O_EXCL), is flushed with fsync, and takes the target's name in one step; then the folder is flushed, too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Final

TEMPORARY_SUFFIX: Final = ".part"
"""How the names of unfinished files end, so that backups and clean-ups recognise them."""


@contextlib.contextmanager
def atomic_file(target: Path, *, overwrite: bool = True) -> Iterator[BufferedWriter]:
    """Yield a file for writing that becomes `target` when the block ends; after an exception nothing is left.

    Raises OSError, and FileExistsError if `overwrite` is false and `target` exists at the end.
    """
    file = create_temporary(target)
    try:
        yield file
        publish(file, target, overwrite=overwrite)
    finally:
        file.close()
        Path(file.name).unlink(missing_ok=True)


def write_atomic(target: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write `content` to `target`, readable by its owner only. Raises as `atomic_file`."""
    with atomic_file(target, overwrite=overwrite) as file:
        file.write(content)


def create_temporary(target: Path) -> BufferedWriter:
    """Create the temporary file for `target`, whose folder must exist. Raises OSError.

    For callers that cannot use `atomic_file`; they call `publish`, and then close and remove the temporary file.
    """
    path = target.with_name(f".{target.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


def publish(file: BufferedWriter, target: Path, *, overwrite: bool = True) -> None:
    """Bring a file of `create_temporary` to disk and give it the name `target`. Raises as `atomic_file`."""
    file.flush()
    os.fsync(file.fileno())
    if overwrite:
        Path(file.name).replace(target)
    else:
        os.link(file.name, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
