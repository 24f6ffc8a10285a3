"""A real server process on a free port and a folder of its own: one for all tests, or one for a test."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from happy_light import config
from happy_light.server import Server
from tests import databases, other_servers, programs
from tests.client import Socket, World
from tests.importing import SESSION

# Else each worker rewrites the assertions of all tests at each run (PYTHONDONTWRITEBYTECODE), which takes it 4 s.
sys.dont_write_bytecode = False

SECRET = "test-secret"
LAG = 0.1  # s that an event may need from one process to another while the tests run
_SERVERS = {"processes", "start"}  # the fixtures that start servers
_SLOW = {"start", "both"}  # those whose tests are slow


class Process:
    """A running server. `log` is what it wrote to stderr. `handles` is how many files it may have open."""

    def __init__(self, folder: Path, *arguments: str, handles: str = "", **environ: str) -> None:
        self.folder = folder
        self.log: list[str] = []
        self.printed: list[str] = []
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        arguments = ("--port", "0", "--data-dir", str(folder), *arguments)
        environ = {
            **kept,
            "HANDY_MASTER_SECRET": SECRET,
            "METRICS_PORT": "0",
            "PYTHONWARNINGS": "default",
            "XDG_CONFIG_HOME": str(folder),
            **databases.environ(folder),
            **environ,
        }
        self.process: programs.Program | subprocess.Popen[str]
        if handles:
            limited = ["sh", "-c", f'ulimit -n {handles}; exec "$0" "$@"', *programs.COMMAND, *arguments]
            self.process = subprocess.Popen(
                limited, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        else:
            self.process = programs.Program(arguments, environ)
        threading.Thread(target=self._read, daemon=True).start()
        self.url = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line.rstrip())
            found = re.search(r"https?://127\.0\.0\.1:\d+", line)
            if found and not self.url:
                self.url = found[0]
            if line.startswith("Ctrl-C"):
                break
        assert self.url, f"the server did not start: {''.join(self.log)}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    async def wait_for_log(self, text: str) -> None:
        """Wait until the log, which a thread reads, has this text. Raises TimeoutError."""
        async with asyncio.timeout(20):
            while text not in "".join(self.log):
                await asyncio.sleep(0.01)

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, signum: int = signal.SIGTERM, timeout: float = 10) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Start = Callable[..., Process]


@pytest.fixture(scope="session")
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Process]]:
    """Run the processes of the server that tests share; no error may appear in their logs."""
    count = request.config.getoption("--processes")
    folder = tmp_path_factory.mktemp("server")
    environ = {}
    if count > 1:
        environ = {"REDIS_URL": request.getfixturevalue("redis_url")}
        Socket.lag = LAG
    running = [Process(folder, **environ) for _ in range(count)]
    yield running
    for process in running:
        assert process.stop() == 0
        bad = re.search("(Traceback| ERROR )(.*\\n){1,40}", "".join(process.log))
        assert bad is None, bad[0]


@pytest.fixture(scope="session")
def server(processes: list[Process]) -> Process:
    """Return the server that tests share, or the first of its processes: each test makes accounts of its own."""
    return processes[0]


@pytest.fixture
async def world(processes: list[Process]) -> AsyncIterator[World]:
    """Accounts and sockets against the shared server."""
    async with World(*(process.url for process in processes)) as world:
        yield world


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers `-n auto` starts: they wait often, but each needs some CPU before its first test.

    The slow tests wait for most of their time.
    """
    cores = os.cpu_count() or 1
    return min(8, 2 * cores if config.option.markexpr == "slow" else cores + 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the database."""
    parser.addoption(
        "--database", choices=["sqlite", "postgres"], default="sqlite", help="what the servers under test keep data in"
    )
    parser.addoption(
        "--processes", type=int, default=1, help="how many processes the server is that tests share (with postgres)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the services available where every test needs one."""
    if config.getoption("--database") == "postgres":
        config.pluginmanager.import_plugin("tests.service_fixtures")


def pytest_unconfigure() -> None:
    """End the process that starts servers."""
    programs.close()


@pytest.fixture(scope="session", autouse=True)
def database_servers(request: pytest.FixtureRequest) -> None:
    """Let the servers under test use the database that was chosen."""
    if request.config.getoption("--database") == "postgres":
        databases.use(request.getfixturevalue("databases"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what starts servers of its own, so that the rest runs after every change.

    With another database than usual only the tests run that have a server to use it.
    """
    if config.getoption("--database") == "postgres":
        other = [item for item in items if _SERVERS.isdisjoint(getattr(item, "fixturenames", ()))]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if item not in set(other)]
    skip = pytest.mark.skip(reason="is about what only servers on SQLite do")
    for item in items:
        if item.get_closest_marker("sqlite_only") and config.getoption("--database") == "postgres":
            item.add_marker(skip)
        if item.get_closest_marker("one_process") and config.getoption("--processes") > 1:
            item.add_marker(pytest.mark.skip(reason="is about what one process does otherwise than several"))
        names = getattr(item, "fixturenames", ())
        if not _SLOW.isdisjoint(names):
            item.add_marker(pytest.mark.slow)
        # One worker starts a service and runs all quick tests with it; of the slow ones most have one.
        if config.getoption("--database") == "sqlite" and not item.get_closest_marker("slow"):
            for service in {"databases", "moto", "rclone"}.intersection(names):
                item.add_marker(pytest.mark.xdist_group(service))
            if "[postgres" in item.nodeid:  # which asks for the service once it runs
                item.add_marker(pytest.mark.xdist_group("databases"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers of this test's own: `start(*arguments, folder=None, **environ)`."""
    running: list[Process] = []

    def start(*arguments: str, folder: Path | None = None, **environ: str) -> Process:
        process = Process(folder or tmp_path / "data", *arguments, **environ)
        running.append(process)
        return process

    yield start
    for process in running:
        if process.process.poll() is None:
            process.kill()


@pytest.fixture
def process(start: Start) -> Process:
    """Start a server for this test only."""
    return start()


@pytest.fixture
async def own(process: Process) -> AsyncIterator[World]:
    """Accounts against it."""
    async with World(process.url) as world:
        yield world


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Make the folder of another light server: database, files, secret."""
    folder = tmp_path / "old"
    folder.mkdir()
    other_servers.sqlite_file(folder / "happy-server-light.sqlite", other_servers.world_rows()).close()
    other_servers.write_files(folder / "files", SESSION)
    (folder / "handy-master-secret.txt").write_text(f"{other_servers.SECRET}\n")
    return folder


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Start a server in this process, so that a test can look at its objects: `server = await make(setting="text")`."""
    running: list[tuple[Server, asyncio.Task[None]]] = []

    async def inside(**given: str) -> Server:
        flags = {"data_dir": str(tmp_path / "data"), "port": "0", "metrics_enabled": "false", **given}
        settings = config.load({"HANDY_MASTER_SECRET": SECRET}, flags)
        server = Server(settings)
        await server.start()
        ready = asyncio.Event()
        running.append((server, asyncio.create_task(server.serve(ready.set))))
        await ready.wait()
        return server

    yield inside
    for server, task in running:
        server.stop()
        await task
