"""The data folder: created for its owner only, and locked by the process that uses it, or by those that share it.

Whoever locks it finds it complete: moves of an import or a restore that was interrupted are finished first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from happy_light import pending_moves
from happy_light.config import Settings
from happy_light.errors import OperatorError

IMPORTING: Final = ".importing"
"""The folder, beside the database, in which an import builds what it then moves into place."""
RESTORING: Final = ".restoring"
"""The folder, in the data folder, into which a restore unpacks what it then moves into place."""
_ADDRESS_MAX: Final = 100  # bytes that the address of a unix socket can have, with some room


def create_private_dir(folder: Path, name: str = "data folder", option: str = "--data-dir") -> None:
    """Create a folder with mode 0700 unless it exists, and check that it can be written.

    `name` and `option` are what the error message calls it. Raises OperatorError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        raise OperatorError(
            f"The {name} {folder} cannot be written: {error.strerror}. Choose another with {option}."
        ) from error


@contextlib.contextmanager
def lock_data_dir(settings: Settings, shared: bool = False) -> Iterator[None]:
    """Hold the locks of the data folder and of the database's folder, and finish interrupted moves.

    `shared`: others that share it may hold the lock of the data folder too. Raises OperatorError with the holder's
    pid, or if the moves cannot be finished.
    """
    with contextlib.ExitStack() as held:
        if shared:
            held.enter_context(_lock_shared(settings))
            yield
            return
        held.enter_context(_lock(settings.data_dir, "server.pid"))
        # Two folders could name one database.
        if settings.postgres is None and settings.database.parent != settings.data_dir:
            held.enter_context(_lock(settings.database.parent, f"{settings.database.name}.pid"))
        pending_moves.finish(settings.data_dir)
        yield


def refuse_unfinished(settings: Settings) -> None:
    """Raise OperatorError if an import or a restore was interrupted before there was a database.

    A server that started would make an empty one.
    """
    if settings.database.exists():
        return
    for folder, command in (
        (settings.database.parent / IMPORTING, "import"),
        (settings.data_dir / RESTORING, "restore"),
    ):
        if folder.exists():
            raise OperatorError(
                f"`happy-server-light {command}` into {settings.data_dir} was interrupted before it changed anything. "
                f"Run it again, or remove {folder} to start an empty server."
            )


@contextlib.contextmanager
def _lock_shared(settings: Settings) -> Iterator[None]:
    """Hold the lock of the data folder together with others. The first one finishes interrupted moves."""
    import fcntl

    for operation in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        try:
            with _lock(settings.data_dir, "server.pid", operation) as handle:
                if operation == fcntl.LOCK_EX:
                    pending_moves.finish(settings.data_dir)
                    fcntl.flock(handle, fcntl.LOCK_SH)
                yield
                return
        except _LockedError:
            if operation == fcntl.LOCK_SH:
                raise


class _LockedError(OperatorError):
    """Somebody else holds a lock."""


@contextlib.contextmanager
def refuse_running(folder: Path) -> Iterator[None]:
    """Raise OperatorError if a server runs on a data folder, and keep any from starting meanwhile.

    The folder may be one that this user can only read.
    """
    import fcntl

    try:
        handle = os.open(folder / "server.pid", os.O_RDONLY)
    except OSError:  # no server has ever run there
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise OperatorError(f"A server runs on {folder}; stop it first.") from error
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _lock(folder: Path, name: str, operation: int | None = None) -> Iterator[int]:
    """Hold a lock, by default alone, and yield its file. Raises OperatorError."""
    import fcntl

    try:
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise OperatorError(
            f"The folder {folder} cannot hold the lock {name}: {error.strerror}. It has to exist and be writable; "
            "--data-dir and --database-url choose another."
        ) from error
    try:
        try:
            fcntl.flock(handle, (operation or fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.read(handle, 32).decode("ascii", "replace").strip() or "unknown"
            raise _LockedError(
                f"Another server (pid {pid}) runs on {folder}; stop it, or choose another folder with --data-dir."
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Yield an address for a unix socket at `path`: a long path goes through the opened folder (Linux)."""
    if len(os.fsencode(path)) <= _ADDRESS_MAX:
        yield str(path)
        return
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)
