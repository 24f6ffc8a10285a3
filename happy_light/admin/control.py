"""How a command reaches the running server: a unix socket in the data folder, for its owner only.

A connection carries one request, a line of JSON `{"do": <name>, "what": {…}}`. The answer is lines, too:
`{"done": n, "of": m}` while it works, and last `{"ok": <value>}` or `{"error": <sentence>}`. While no server
runs, `ask` does the request itself, with the folder locked and the store opened for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from happy_light import data_dir, wire
from happy_light.admin import account_admin, probe, prune, registration, stats
from happy_light.admin.context import AdminContext, AdminRequest, ProgressCallback
from happy_light.bus import Bus
from happy_light.config import Settings
from happy_light.errors import ApiError, OperatorError, ServiceUnavailable
from happy_light.store import Database

log = logging.getLogger(__name__)

NAME: Final = "control.sock"
REQUESTS: Final[Mapping[str, AdminRequest]] = {
    **account_admin.requests, **registration.requests, **prune.requests, **stats.requests, **probe.requests,
}  # fmt: skip
_LINE_MAX: Final = 64 * 1024  # bytes of a request
_ANSWER_MAX: Final = 64 * 1024 * 1024  # bytes of an answer
_PAUSE: Final = 10.0  # s that a command may take to send its request
_AT_ONCE: Final = 8  # requests under way; more are refused
_ADDRESS_MAX: Final = 100  # bytes that the path of a unix socket may have, with some room


class _Asked(msgspec.Struct):
    """A request."""

    do: str
    what: msgspec.Raw = msgspec.Raw(b"{}")


class Control:
    """The server's end. `open`, then `close`."""

    def __init__(self, admin: AdminContext) -> None:
        self._admin = admin
        self._path = admin.settings.data_dir / NAME
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listens. Without the socket the server is complete but for the commands, so failing is a warning."""
        try:
            with _address(self._path) as address:
                # The folder's lock says that nobody else listens: what lies there is of a server that was killed.
                self._path.unlink(missing_ok=True)
                self._server = await asyncio.start_unix_server(self._connected, address, limit=_LINE_MAX)
                self._path.chmod(0o600)
        except OSError as error:
            log.warning("%s cannot be made (%s); commands will not reach this server", self._path, error.strerror)

    async def close(self) -> None:
        """Ends what is under way: a request can be repeated, and goes on where it was."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) >= _AT_ONCE:
            _send(writer, {"error": "Too many commands are at work; try again when they are done."})
            writer.close()
            return
        self._tasks.add(task)
        try:
            async with asyncio.timeout(_PAUSE):
                line = await reader.readline()
            _send(writer, await self._answer(line, writer))
            async with asyncio.timeout(_PAUSE):
                await writer.drain()
        except (TimeoutError, ValueError, OSError) as error:
            log.info("a command went away (%s)", type(error).__name__)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> dict[str, Any]:
        def progress(done: int, of: int) -> None:
            if writer.transport.get_write_buffer_size() < _LINE_MAX:
                _send(writer, {"done": done, "of": of})

        try:
            asked = msgspec.json.decode(line, type=_Asked)
            request = REQUESTS.get(asked.do)
            if request is None:
                return {"error": f"This server does not know {asked.do!r}; it is of another version than the command."}
            log.info("operator: %s", asked.do)
            what = msgspec.json.decode(asked.what, type=request.what)
            return {"ok": await request.do(self._admin, what, progress)}
        except msgspec.DecodeError as error:
            return {"error": f"The request does not fit: {error}"}
        except (ApiError, OperatorError, ServiceUnavailable) as error:
            return {"error": str(error)}
        except Exception:
            log.exception("operator's request")
            return {"error": "The server failed at it; its log says why."}


def _send(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    writer.write(wire.encode(value) + b"\n")


# ------------------------------------------------------------------------------- the command's end
def ask(settings: Settings, name: str, what: msgspec.Struct, progress: ProgressCallback | None = None) -> Any:
    """What a request came to, as its answer's struct. Raises StartError with a sentence."""
    connection = connect(settings)
    if connection is None:
        return asyncio.run(_do_here(settings, REQUESTS[name], what, progress or _silent))
    with connection:
        connection.sendall(wire.encode({"do": name, "what": what}) + b"\n")
        with connection.makefile("rb") as lines:
            while True:
                try:
                    line = lines.readline(_ANSWER_MAX)
                except OSError:
                    line = b""
                if not line:
                    raise OperatorError("The server stopped before it was done; run the command again.")
                answer = wire.decode(line)
                if "done" in answer:
                    (progress or _silent)(answer["done"], answer["of"])
                elif "error" in answer:
                    raise OperatorError(answer["error"])
                else:
                    return msgspec.convert(answer["ok"], REQUESTS[name].answer)


def connect(settings: Settings) -> socket.socket | None:
    """A connection to the running server; None if there is none. Raises StartError if it may not be used."""
    path = settings.data_dir / NAME
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise OperatorError(f"The running server cannot be reached through {path}: {error.strerror}.") from error
    return connection


async def _do_here(settings: Settings, request: AdminRequest, what: msgspec.Struct, progress: ProgressCallback) -> Any:
    if not settings.database.is_file():
        raise OperatorError(f"There is no database {settings.database}; choose the data folder with --data-dir.")
    with data_dir.lock_data_dir(settings):
        store = Database(settings.database, Bus())
        await store.open()
        try:
            return await request.do(AdminContext(settings, store), what, progress)
        except (ApiError, ServiceUnavailable) as error:
            raise OperatorError(str(error)) from error
        finally:
            await store.close()


def _silent(done: int, of: int) -> None:
    pass


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """The path as a socket can have it: at most some hundred bytes, so a long one goes through its open folder."""
    if len(os.fsencode(path)) <= _ADDRESS_MAX:
        yield str(path)
        return
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)
