"""Private PostgreSQL servers for tests: on loopback, in folders of their own, made to be killed.

The PostgreSQL sorts text by English rules unless a column says otherwise, as most installations do, so that a test
notices where the order of bytes was needed and not asked for.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil
import psycopg
from psycopg import conninfo, sql

START_SECONDS = 30.0  # a PostgreSQL that was killed replays its log first
STOP_SECONDS = 20.0
USER = "happy"


class Missing(Exception):
    """The program of a service is not installed; the text names it and where it comes from."""


# ------------------------------------------------------------------------------------------ processes
def free_port() -> int:
    """Return a free TCP port below those that the kernel gives to outgoing connections.

    So nobody takes it while a service that is to come back on it is down.
    """
    for _ in range(200):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 15000 and 32000 on 127.0.0.1")


def program(name: str, package: str, *folders: Path) -> str:
    """Return the path of a program: in PATH, in one of `folders`, or beside this Python. Raises Missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=path)
    if found is None:
        raise Missing(f"{name} is not installed; it comes with {package}")
    return found


def _runs(process: psutil.Process) -> bool:
    """Whether it has not ended; one that ended and was not waited for holds nothing any more."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Service:
    """A server process with a folder and a port that it keeps when it is started again."""

    name = ""

    def __init__(self, folder: Path | None = None) -> None:
        self._made = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix=f"happy-{self.name}-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process. Raises AssertionError when none was started."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        file = self.folder / "log"
        return file.read_text("utf-8", "replace") if file.is_file() else ""

    def start(self) -> Self:
        """Start the server and wait until it answers. Raises RuntimeError with its log if it does not."""
        assert not self.running, f"{self.name} runs already"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user,
                group=self._user and pwd.getpwnam(self._user).pw_gid,
            )
        end = time.monotonic() + START_SECONDS
        while not (self.running and self._answers()):
            if not self.running or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self.name} did not start: {self.log[-2000:]}")
            time.sleep(0.01)
        return self

    def kill(self) -> None:
        """End the process and its children by SIGKILL and wait until they are gone."""
        if not self.running:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            process.suspend()  # so that it makes no more children
            children = process.children(recursive=True)
            for one in (process, *children):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            end = time.monotonic() + STOP_SECONDS
            while any(_runs(one) for one in children) and time.monotonic() < end:
                time.sleep(0.005)
        assert self._process is not None
        self._process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """End the process the orderly way, clients or not; kill it if it takes too long."""
        if not self.running:
            return
        assert self._process is not None
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Stop it if it runs, and start it with the same port and data."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """Kills it and removes its folder, if the folder was made for it."""
        self.kill()
        if self._made:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()

    _stop_signal = signal.SIGTERM
    _user: str | None = None  # that the process runs as; None: the one that runs the tests

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


# ----------------------------------------------------------------------------------------- PostgreSQL
class Databases:
    """A PostgreSQL server that is there, in which tests make databases of their own."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create(self, template: str | None = None) -> str:
        """Make an empty database, or a copy of `template` (the URL of one that nobody uses), and return its URL."""
        name = f"happy_test_{uuid.uuid4().hex[:12]}"
        source = "template0" if template is None else str(conninfo.conninfo_to_dict(template)["dbname"])
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(source)))
        return with_database(self.url, name)

    def drop(self, url: str) -> None:
        """Remove a database that `create` made, whoever is connected to it."""
        name = str(conninfo.conninfo_to_dict(url)["dbname"])
        assert name.startswith("happy_test_"), f"{name} was not made by a test"
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """Return the URL of a new database that is removed at the end."""
        url = self.create(template)
        try:
            yield url
        finally:
            self.drop(url)

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)


def with_database(url: str, name: str) -> str:
    """`url` with another database."""
    head, mark, query = url.partition("?")
    scheme, _, rest = head.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{mark}{query}"


class Postgres(Service, Databases):
    """A private PostgreSQL. `fsync=False` makes it faster and is right where nothing is killed.

    Raises Missing when it is not installed.
    """

    name = "postgres"
    _stop_signal = signal.SIGINT  # "fast": closes connections instead of waiting for them

    def __init__(self, *, fsync: bool = True, max_connections: int = 100) -> None:
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._postgres = program("postgres", "Debian's package postgresql", *folders)
        initdb = program("initdb", "Debian's package postgresql", *folders)
        super().__init__()
        self._fsync = fsync
        self._max_connections = max_connections
        self._data = self.folder / "data"
        self._user = _unprivileged()
        if self._user:
            shutil.chown(self.folder, self._user)
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--locale-provider=icu"]
        made = subprocess.run(
            [initdb, "-D", str(self._data), *options, "--icu-locale=en", "--no-sync", "--no-instructions"],
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self._user,
        )
        if made.returncode:
            self.remove()
            raise RuntimeError(f"initdb failed: {made.stdout}{made.stderr}")

    @property
    def url(self) -> str:  # type: ignore[override]
        """Over TCP, of a database that is always there."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def socket_url(self) -> str:
        """The same over the Unix socket."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={self.port}"

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "on" if self._fsync else "off",
            "max_connections": self._max_connections,
            "shared_buffers": "32MB",
            "log_checkpoints": "off",
            "log_line_prefix": "%m [%p] ",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._postgres, "-D", str(self._data), "-p", str(self.port), *options]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged() -> str | None:
    """Return a user that PostgreSQL agrees to run as when root runs the tests. Raises Missing."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise Missing("PostgreSQL refuses to run as root, and there is no user postgres or nobody")
