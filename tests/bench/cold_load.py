"""Measure the first visit to a web app over a slow link: this server beside nginx with files compressed before.

    python -m tests.bench.cold_load BUILD [--mbit 10] [--rtt 40] [--rounds 3] [--at-once]

BUILD is the folder of a web export. The link is a proxy in this process: what goes to the client is sent at `mbit` for
all connections together, everything is delayed by half of `rtt` (ms) each way, and a new connection costs one `rtt`
more; how TCP finds its speed is not imitated. The visit loads as a browser does: the page, then its scripts and styles,
then the fonts and WebAssembly that these ask for, over at most six connections, with gzip. `--at-once` does not wait
for this server to have compressed the files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx

from happy_light import compression, content_types
from tests.bench.servers import OURS, Server
from tests.services import free_port

_PIECE: Final = 8192  # bytes that the link sends at once
_QUEUE: Final = 0.1  # s of sending that wait before the link, as in a modem, so that it is never idle for nothing
_LATER: Final = re.compile(r"\.(ttf|wasm)$")
_NGINX: Final = """daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off; sendfile on; tcp_nopush on;
    types {{ text/html html; text/javascript js; text/css css; application/wasm wasm; font/ttf ttf; image/x-icon ico; }}
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{ listen 127.0.0.1:{port}; root {root}; gzip_static on; }}
}}
"""


class Link:
    """A slow link to a port of this computer."""

    def __init__(self, target: int, mbit: float, rtt: float) -> None:
        self._target = target
        self._rate = mbit * 1_000_000 / 8  # bytes/s
        self._delay = rtt / 2000  # s, one way
        self._free_at = 0.0  # when the line has sent all that it was given
        self.received = 0  # bytes that went to the client

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the URL at this end."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * self._delay)
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        with contextlib.suppress(OSError, asyncio.CancelledError):  # the latter: the visit is over
            await asyncio.gather(self._carry(reader, back, 0), self._carry(there, writer, self._rate))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
        """Send what arrives, in order, each piece when the link would have delivered it."""
        while piece := await reader.read(_PIECE):
            arrives = time.monotonic() + self._delay
            if rate:
                self.received += len(piece)
                self._free_at = max(self._free_at, time.monotonic()) + len(piece) / rate
                arrives = self._free_at + self._delay
            # What does not fit into the queue stays with the server.
            await asyncio.sleep(max(0.0, arrives - self._delay - _QUEUE - time.monotonic()))
            asyncio.get_running_loop().call_at(arrives, writer.write, piece)
        await asyncio.sleep(self._delay)
        writer.close()


async def visit(url: str, build: Path) -> float:
    """Load the app with an empty cache and return the seconds until all of it has arrived."""
    limits = httpx.Limits(max_connections=6)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=120, trust_env=False) as http:
        http.headers["accept-encoding"] = "gzip"

        async def load(path: str) -> None:
            answer = await http.get(path, headers={"accept": "text/html" if path == "/" else "*/*"})
            assert answer.status_code == 200, (path, answer.status_code)

        files = [f"/{file.relative_to(build).as_posix()}" for file in build.rglob("*") if file.is_file()]
        files.remove("/index.html")
        later = [path for path in files if _LATER.search(path)]
        began = time.monotonic()
        await load("/")
        await asyncio.gather(*(load(path) for path in files if path not in later))
        await asyncio.gather(*(load(path) for path in later))
        return time.monotonic() - began


@contextlib.contextmanager
def nginx(build: Path, folder: Path) -> Iterator[int]:
    """Run nginx with a copy of the build and a .gz beside each text file; yield its port."""
    root, port = folder / "root", free_port()
    shutil.copytree(build, root)
    for file in [file for file in root.rglob("*") if file.is_file()]:
        if compression.is_compressible(content_types.content_type(file.name)):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 9))
    for path in (root, *root.rglob("*"), folder):
        path.chmod(0o755)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, root=root, port=port))
    process = subprocess.Popen(["nginx", "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def compressed(folder: Path, build: Path, timeout: float = 300) -> None:
    """Wait until this server has a .gz of every file that becomes smaller."""
    wanted = 0
    for file in build.rglob("*"):
        if file.is_file() and compression.is_compressible(content_types.content_type(file.name)):
            content = file.read_bytes()
            if len(content) >= compression.MIN and len(compression.quickly(content)) < len(content) * 0.9:
                wanted += 1
    deadline = time.monotonic() + timeout
    while len(list(folder.glob("web-app-cache/[!.]*.gz"))) < wanted:
        assert time.monotonic() < deadline, "the server did not compress the files"
        time.sleep(0.2)


async def measure(name: str, port: int, build: Path, mbit: float, rtt: float) -> float:
    """Print and return how long one visit takes."""
    link = Link(port, mbit, rtt)
    async with link.open() as url:
        seconds = await visit(url, build)
    print(f"  {name:22} {seconds:6.2f} s  {link.received / 1e6:6.2f} MB", flush=True)
    return seconds


def main() -> None:
    """Measure both in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--mbit", type=float, default=10)
    parser.add_argument("--rtt", type=float, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at-once", action="store_true")
    given = parser.parse_args()
    build = given.build.resolve()
    size = sum(file.stat().st_size for file in build.rglob("*") if file.is_file())
    print(f"{size / 1e6:.2f} MB, {given.mbit:g} Mbit/s, {given.rtt:g} ms")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # for nginx's workers
        (folder / "nginx").mkdir()
        (folder / "ours").mkdir()
        with nginx(build, folder / "nginx") as other:
            ours = Server("ours", f"{OURS} --ui-dir {build}", folder / "ours")
            try:
                if not given.at_once:
                    compressed(folder / "ours", build)
                port = int(ours.url.rpartition(":")[2])
                taken: dict[str, list[float]] = {"nginx, gzip_static": [], "this server": []}
                for _ in range(given.rounds):
                    for one, at in zip(taken, (other, port), strict=True):
                        taken[one].append(asyncio.run(measure(one, at, build, given.mbit, given.rtt)))
            finally:
                ours.stop()
    medians = [statistics.median(times) for times in taken.values()]
    print(f"median {medians[0]:.2f} s and {medians[1]:.2f} s: ratio {medians[1] / medians[0]:.3f}")


if __name__ == "__main__":
    main()
