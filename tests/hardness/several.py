"""Runs a server of several processes, with a PostgreSQL and a Redis of its own, and a balancer in front of them.

`python -m tests.hardness.several [processes]` prints their URLs and serves until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.conftest import Process
from tests.redis_services import Redis
from tests.services import Postgres


class Several:
    """The processes of one server on one data folder. Those that were killed can be started again."""

    def __init__(self, folder: Path, count: int, postgres: Postgres, redis: Redis, **environ: str) -> None:
        self._folder = folder
        self.environ = {"DATABASE_URL": postgres.create(), "REDIS_URL": redis.url, **environ}
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> Process:
        return Process(self._folder, **self.environ)

    def kill(self, index: int) -> None:
        """Kill a process and start another in its place; its URL is a new one."""
        self.processes[index].kill()
        self.processes[index] = self._start()

    @property
    def urls(self) -> list[str]:
        """Return the URLs of the processes."""
        return [process.url for process in self.processes]

    def stop(self) -> None:
        """Stop all processes that run."""
        for process in self.processes:
            if process.process.poll() is None:
                process.stop()


class Balancer:
    """Passes TCP connections on to the URLs of `urls()` in turn; `cut` ends all that are open."""

    def __init__(self, urls: Callable[[], list[str]]) -> None:
        self._urls = urls
        self._turn = itertools.count()
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    async def start(self, port: int = 0) -> None:
        """Listen."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """End every connection without a word."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        urls = self._urls()
        for _ in urls:
            target = urlsplit(urls[next(self._turn) % len(urls)])
            with contextlib.suppress(OSError):
                other_reader, other_writer = await asyncio.open_connection(target.hostname, target.port)
                break
        else:
            writer.transport.abort()
            return
        self._writers |= {writer, other_writer}
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the program
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
        self._writers -= {writer, other_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.contextmanager
def several(count: int, **environ: str) -> Iterator[Several]:
    """Run a server of so many processes on services of its own."""
    with tempfile.TemporaryDirectory() as folder, Postgres(fsync=False) as postgres, Redis() as redis:
        server = Several(Path(folder) / "data", count, postgres, redis, **environ)
        try:
            yield server
        finally:
            server.stop()


async def main(count: int) -> None:
    """Serve until cancelled."""
    with several(count, HANDY_MASTER_SECRET="peer-secret") as server:
        balancer = Balancer(lambda: server.urls)
        await balancer.start()
        print(*server.urls, "balancer", balancer.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
