"""A real server for the tests of a client, in this process: `async with run_server() as server`.

It has a temporary folder and a free port, and leaves nothing behind. `happy_light.pytest_plugin` has a fixture.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from happy_light.config import load
from happy_light.config.names import unknown_setting
from happy_light.errors import OperatorError
from happy_light.server import Server

if TYPE_CHECKING:
    import nacl.signing

_TIMEOUT = 20  # s


@dataclass(frozen=True)
class Account:
    """A signed-in account: what a client keeps after pairing.

    `secret`: its 32 bytes, the seed of the signing key; `public_key`: 32 bytes; `token`: for
    `Authorization: Bearer` and a socket's `auth`; `headers`: the former, ready to use.
    """

    id: str
    token: str
    secret: bytes
    public_key: bytes

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP request of this account carries."""
        return {"Authorization": f"Bearer {self.token}"}


class RunningServer:
    """A running server. `url` is without trailing slash."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url

    async def account(self, secret: bytes | None = None) -> Account:
        """Return a new account, or the one of `secret` (32 bytes). Works on any event loop."""
        return await asyncio.to_thread(self.sign_in, secret)

    def sign_in(self, secret: bytes | None = None) -> Account:
        """Return the same for tests that are not async; it must not be called on the server's own event loop."""
        import nacl.signing

        key = nacl.signing.SigningKey(secret or os.urandom(32))
        token = self._token(key)
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Account(claims["sub"], token, bytes(key), bytes(key.verify_key))

    def _token(self, key: nacl.signing.SigningKey) -> str:
        from urllib.request import ProxyHandler, Request, build_opener

        challenge = os.urandom(32)
        body = {
            "publicKey": base64.b64encode(bytes(key.verify_key)).decode(),
            "challenge": base64.b64encode(challenge).decode(),
            "signature": base64.b64encode(key.sign(challenge).signature).decode(),
        }
        request = Request(  # noqa: S310 - our own URL
            f"{self.url}/v1/auth", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
        )
        with build_opener(ProxyHandler({})).open(request, timeout=_TIMEOUT) as response:
            token: str = json.loads(response.read())["token"]
        return token


@contextlib.asynccontextmanager
async def run_server(**settings: str) -> AsyncIterator[RunningServer]:
    """Run a server on this event loop. `settings`: text by the name of the setting (`registration="closed"`).

    Neither the environment nor a configuration file counts. Raises OperatorError, also for an unknown name.
    """
    unknown = unknown_setting(settings)
    if unknown is not None:
        raise OperatorError(unknown if unknown.endswith("?") else f"{unknown}.")
    with tempfile.TemporaryDirectory(prefix="happy-server-light-") as name:
        defaults = {"port": "0", "metrics_enabled": "false", "push_enabled": "false", "data_dir": name}
        server = Server(load({}, defaults | settings, Path(name) / "none"))
        await server.start()
        ready = asyncio.Event()
        serving = asyncio.create_task(server.serve(ready.set))
        try:
            await _either(ready, serving)
            yield RunningServer(server)
        finally:
            server.stop()
            await serving


async def _either(ready: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait until the server answers; raise what ended it before."""
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        serving.result()


@contextlib.contextmanager
def server_on_a_thread(**settings: str) -> Iterator[RunningServer]:
    """`run_server` for those who have no event loop, or one for each test: it runs on a thread of its own."""
    started = threading.Event()
    running: list[tuple[RunningServer, asyncio.AbstractEventLoop, asyncio.Event]] = []
    failed: list[BaseException] = []

    async def main() -> None:
        try:
            async with run_server(**settings) as server:
                end = asyncio.Event()
                running.append((server, asyncio.get_running_loop(), end))
                started.set()
                await end.wait()
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="happy-server-light")
    thread.start()
    started.wait()
    if not running:
        thread.join()
        raise failed[0]
    server, loop, end = running[0]
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
    if failed:
        raise failed[0]
