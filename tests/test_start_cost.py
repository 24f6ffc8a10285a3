"""What makes a start quick and small: keys are derived ahead, and what is rarely used is not executed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from happy_light import config
from happy_light.auth import derivation
from happy_light.server import Server
from tests.client import World

ROOT = Path(__file__).parent.parent
WITH_CLIENTS = {"jwt", "http.client", "email.message", "email.parser", "urllib.request"}
"""What the first token needs, and a start does not."""
UNUSED = {
    "PIL", "anyio.from_thread", "anyio.to_thread", "boto3", "cryptography.hazmat", "difflib", "h2.connection",
    "h2.events", "h2.settings", "hpack", "html", "html.entities", "httpx", "hypercorn.trio", "hyperframe",
    "importlib.metadata", "priority", "prometheus_client", "psycopg", "redis", "segno", "shtab", "socketio", "tarfile",
    "tomllib", "zipfile", "happy_light.commands.accounts", "happy_light.importing", "happy_light.openapi",
    "happy_light.store.postgres",
}  # fmt: skip
"""What neither a start nor what clients do all day needs."""
EXECUTED = """
def executed():
    "Return the modules that have names of their own, and not only those of modules below them."
    kinds = {name: [type(value) for key, value in vars(module).items() if not key.startswith("__")]
             for name, module in list(sys.modules.items())}
    return {name for name, kind in kinds.items() if not all(issubclass(one, type(sys)) for one in kind)}
"""


async def test_a_key_derived_ahead_is_used_unless_its_secret_is_not_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is derived while the server is imported, from a secret that is not written yet, or read too early."""
    settings = config.load({}, {"data_dir": str(tmp_path), "port": "0", "metrics_enabled": "false"}, tmp_path / "none")
    derived: list[bytes] = []

    def pbkdf2(name: str, secret: bytes, *rest: Any, as_always: Callable[..., bytes] = hashlib.pbkdf2_hmac) -> bytes:
        derived.append(secret)
        return as_always(name, secret, *rest)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", pbkdf2)
    for secret, wanted in (("made ahead", 1), ("made ahead", 1), ("of somebody else", 2)):
        derived.clear()
        derivation.begin(secret, derivation.TOKENS)
        server = Server(settings, secret)
        await server.start()
        assert settings.secret_file.read_text() == server.keys.secret == "made ahead"
        assert len(derived) == wanted and derived[-1] == b"made ahead"
        await server.close()


@pytest.mark.parametrize("with_clients", [False, True])
async def test_what_is_not_needed_is_not_executed(tmp_path: Path, with_clients: bool) -> None:
    program = (
        f"import atexit, sys\n{EXECUTED}\natexit.register(lambda: print('EXECUTED', *executed()))\n"
        "from happy_light.cli import main\nmain()"
    )
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "METRICS_ENABLED": "false", "PYTHONPATH": str(ROOT)}
    arguments = ["--port", "0", "--data-dir", str(tmp_path / "data")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, env=environ, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        printed = (await process.stdout.readuntil(b"Ctrl-C")).decode()
        url = re.search(r"http://127\.0\.0\.1:\d+", printed)
        assert url is not None
        async with World(url[0]) as world:
            assert (await world.http.get("/health")).is_success
            if with_clients:
                alice = await world.account()
                ui = await alice.socket()
                await alice.send((await alice.session())["id"], "text")
                await ui.wait("update")
                for path in ("/v1/sessions", "/v1/machines", "/no/such/path"):
                    await alice.get(path)
    finally:
        process.send_signal(signal.SIGTERM)
    executed = set((await process.stdout.read()).decode().partition("EXECUTED")[2].split())
    await process.wait()
    assert "happy_light.app" in executed
    assert executed & UNUSED == set()
    assert with_clients or executed & WITH_CLIENTS == set()


def test_what_is_deferred_works_when_it_is_asked_for() -> None:
    program = f"""
import importlib, sys
from happy_light.stack.deferred import NAMES, deferring
{EXECUTED}
before = set(sys.modules)
with deferring():
    from happy_light.server import process
assert not any("deferred" in str(finder) for finder in sys.meta_path)
imported = NAMES & (set(sys.modules) - before)  # which can be fewer with other versions of the libraries
assert {{"h2.connection", "h2.events", "h2.exceptions", "priority", "html", "tarfile"}} <= imported, imported
for name in imported:
    importlib.import_module(name)
import h2.events, html
assert not imported & executed(), imported & executed()
assert "priority.priority" not in sys.modules
from html import escape
import anyio.abc, anyio.to_thread, http.client, importlib.metadata, priority, tarfile, tomllib
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
protocol = H2Protocol(
    None, Config(), WorkerContext(None), TaskGroup(None), None, False, None, None, lambda event: None
)
assert isinstance(protocol.connection, h2.connection.H2Connection), protocol.connection
assert h2.events.RequestReceived is vars(h2.connection)["RequestReceived"]
assert escape("<") == "&lt;" and importlib.metadata.version("hypercorn") and tomllib.loads("a = 1") == {{"a": 1}}
assert http.client.responses[404] == "Not Found" and tarfile.TarInfo("x").name == "x"
assert anyio.run(anyio.to_thread.run_sync, lambda: 5) == 5 and anyio.abc.TaskGroup and priority.PriorityTree()
for name in ("h2.events", "priority"):
    try:
        sys.modules[name].no_such_name
    except AttributeError as error:
        assert name in str(error) and "no_such_name" in str(error)
    else:
        raise AssertionError(name)
assert NAMES - executed() <= {{"h2.exceptions"}}, NAMES - executed()
print("works")
"""
    check_works(program)


def test_what_could_not_be_executed_is_executed_when_it_is_asked_for_again() -> None:
    """The file of a module cannot be opened while there are no file handles."""
    check_works("""
from importlib.machinery import SourceFileLoader
from happy_light.stack.deferred import deferring
with deferring():
    import html
def fail(loader, path): raise OSError(24, "Too many open files")
get_data, SourceFileLoader.get_data = SourceFileLoader.get_data, fail
try:
    html.escape
except OSError:
    SourceFileLoader.get_data = get_data
assert html.escape("<") == "&lt;"
print("works")
""")


def check_works(program: str) -> None:
    """Run a program that prints "works" as its last step."""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("works\n", 0), ended.stderr
