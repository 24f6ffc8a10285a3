"""Call the admin API: of the server that runs on a data folder, or in this process while none runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import pwd
import socket
from typing import Any, Final, TypeVar

import msgspec

from happy_light import data_dir, json_codec
from happy_light.admin import server_id
from happy_light.admin.api import SOCKET_NAME, AdminApplication
from happy_light.admin.operator_name import OPERATOR
from happy_light.admin.progress import NDJSON, ProgressCallback, ignore_progress
from happy_light.auth.keys import Keys
from happy_light.bus import Bus, SharedBus
from happy_light.config import Settings
from happy_light.context import COMMAND_GRACE, ServerContext, join_cluster
from happy_light.errors import OperatorError
from happy_light.store import Database, engine_of

T = TypeVar("T")

_JSON: Final = "application/json"


def call(
    settings: Settings,
    method: str,
    path: str,
    body: Any = None,
    *,
    answer: type[T],
    progress: ProgressCallback = ignore_progress,
) -> T:
    """Request `path` with `body` as JSON and return the result as `answer`.

    Raises OperatorError with a sentence if the request is refused or fails.
    """
    response = _Response(f"{method} {path}", progress)
    content = None if body is None else json_codec.encode(body)
    connection = connect(settings)
    if connection is None:
        asyncio.run(_call_here(settings, method, path, content, response))
    else:
        _call_server(connection, method, path, content, response)
    return msgspec.convert(response.result(), answer)


class _Response:
    """Collects a response, and passes lines with progress on as they arrive."""

    def __init__(self, request: str, progress: ProgressCallback) -> None:
        self._request = request
        self._progress = progress
        self._status = 0
        self._streamed = False
        self._body = b""

    def start(self, status: int, content_type: str) -> None:
        """Take the status line and headers."""
        self._status, self._streamed = status, content_type == NDJSON

    def receive(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._body += piece
        while self._streamed and b"\n" in self._body:
            line, _, rest = self._body.partition(b"\n")
            value = json_codec.decode(line)
            if "done" not in value:
                return  # the last line
            self._body = rest
            self._progress(value["done"], value["total"])

    def result(self) -> Any:
        """Return the decoded result. Raises OperatorError."""
        try:
            value = json_codec.decode(self._body)
        except msgspec.DecodeError:
            raise OperatorError("The server stopped before the work was done; run the command again.") from None
        if self._status == 404 and "path" in value:
            raise OperatorError(f"The running server does not know {self._request}; restart it with this version.")
        if "error" in value:
            text = str(value.get("message") or value["error"])
            raise OperatorError(f"{text.rstrip('.')}.")
        return value["result"] if self._streamed else value


# ----------------------------------------------------------------------------------- a running server
def connect(settings: Settings) -> socket.socket | None:
    """Connect to the running server; None if none runs. Raises OperatorError if the socket may not be used."""
    path = settings.data_dir / SOCKET_NAME
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with data_dir.socket_address(path) as address:
            connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise OperatorError(f"The running server cannot be reached through {path}: {error.strerror}.") from error
    return connection


def _call_server(connection: socket.socket, method: str, path: str, content: bytes | None, response: _Response) -> None:
    client = http.client.HTTPConnection("localhost")
    client.sock = connection
    headers = {OPERATOR.decode(): _user(), **({} if content is None else {"content-type": _JSON})}
    try:
        client.request(method, path, content, headers)
        answer = client.getresponse()
        response.start(answer.status, answer.headers.get_content_type())
        while piece := answer.read1(65_536):
            response.receive(piece)
    except (OSError, http.client.HTTPException):
        return  # `response.result` says that the answer is incomplete
    finally:
        client.close()


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


# ------------------------------------------------------------------------------------ in this process
async def _call_here(settings: Settings, method: str, path: str, content: bytes | None, response: _Response) -> None:
    """Call the application with the folder locked and the database opened for this one request."""
    if settings.postgres is None and not settings.database.is_file():
        raise OperatorError(f"There is no database {settings.database}; choose the data folder with --data-dir.")
    with data_dir.lock_data_dir(settings, shared=settings.redis_url is not None):
        async with contextlib.AsyncExitStack() as opened:
            bus = Bus() if settings.redis_url is None else SharedBus()
            database = Database(engine_of(settings), bus)
            await database.open()
            opened.push_async_callback(database.close)
            # Nothing in the admin API signs or seals anything, so that it works without the master secret.
            context = ServerContext(settings, database, bus, Keys(""), dict)
            if settings.redis_url is not None and isinstance(bus, SharedBus):  # servers elsewhere have to hear of it
                id = await database.read(server_id.read)
                cluster = await join_cluster(settings.redis_url, id, context, bus, lambda _: None)
                opened.push_async_callback(cluster.close)
            opened.push_async_callback(context.blobs.close, COMMAND_GRACE)
            await _request(AdminApplication(context), method, path, content, response)


async def _request(app: AdminApplication, method: str, path: str, content: bytes | None, response: _Response) -> None:
    """Send one request to an ASGI application."""
    unread = [{"type": "http.request", "body": content or b"", "more_body": False}]
    headers = [] if content is None else [(b"content-type", _JSON.encode()), (b"content-length", b"%d" % len(content))]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": path, "raw_path": path.encode("ascii"), "query_string": b"", "root_path": "",
        "headers": headers, "client": None, "server": None,
    }  # fmt: skip

    async def receive() -> Any:
        if unread:
            return unread.pop()
        return await asyncio.get_running_loop().create_future()  # this client stays until it has its answer

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            kinds = [value for name, value in message["headers"] if name == b"content-type"]
            response.start(message["status"], kinds[0].decode().partition(";")[0] if kinds else "")
        else:
            response.receive(message.get("body", b""))

    await app(scope, receive, send)
