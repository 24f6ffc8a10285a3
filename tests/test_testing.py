"""happy_light.testing: run_server, accounts, the fixture, and the example of docs/client-tests.md."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import nacl.signing
import pytest

from happy_light.errors import OperatorError
from happy_light.testing import run_server, server_on_a_thread
from tests.client import World

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs" / "client-tests.md"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers' folders are made; the environment is one that must not count."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("HAPPY_SERVER_LIGHT_REGISTRATION", "closed")
    return tmp_path


async def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"registraton is no setting; did you mean registration\?"):
        async with run_server(registraton="closed"):
            pass


async def test_an_account_is_signed_in_and_has_its_keys(temporary: Path) -> None:
    async with run_server() as server:
        account = await server.account()
        assert bytes(nacl.signing.SigningKey(account.secret).verify_key) == account.public_key
        again = await server.account(account.secret)
        assert again.id == account.id
        assert (await server.account()).id != account.id
        async with httpx.AsyncClient(base_url=server.url, headers=account.headers, trust_env=False) as http:
            assert (await http.get("/v1/account/profile")).json()["id"] == account.id
        async with World(server.url) as world:
            socket = await world.socket({"token": account.token, "clientType": "user-scoped"})
            await socket.call("ping")
        assert list(temporary.iterdir())
    assert not list(temporary.iterdir()), "nothing is left behind"
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


async def test_two_servers_side_by_side() -> None:
    async with run_server() as one, run_server() as two:
        account = await one.account()
        async with httpx.AsyncClient(headers=account.headers, trust_env=False) as http:
            assert (await http.get(f"{one.url}/v1/sessions")).status_code == 200
            assert (await http.get(f"{two.url}/v1/sessions")).status_code == 401


async def test_settings_are_those_of_the_table(temporary: Path) -> None:
    async with run_server(master_secret="s", public_url="https://happy.example/") as server:
        assert server.server.settings.public_url == "https://happy.example"
        assert server.server.keys.secret == "s"
    with pytest.raises(OperatorError, match=r"^HOST"):
        async with run_server(host="no such host"):
            pass
    with pytest.raises(OperatorError), server_on_a_thread(host="no such host"):
        pass
    assert not list(temporary.iterdir())


async def test_an_error_of_the_test_stops_the_server_too(temporary: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with run_server() as server:
            raise ZeroDivisionError
    assert not list(temporary.iterdir())
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_on_a_thread_for_tests_without_a_loop() -> None:
    with server_on_a_thread() as server:
        account = server.sign_in()
        assert asyncio.run(server.account(account.secret)).id == account.id


def test_the_example_in_the_readme_passes(tmp_path: Path) -> None:
    found = re.search(r"<!-- example -->\n```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "test_my_client.py").write_text(found[1])
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["happy_light.pytest_plugin"]\n')
    here = str(Path(__file__).parent.parent)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip
    assert re.search(r"^[3-9] passed", ended.stdout, re.MULTILINE), ended.stdout


PROGRAM = '''
import asyncio, gc, importlib, logging, signal, sys
LIBRARIES = ("hypercorn", "h11", "wsproto", "engineio", "socketio", "aiosqlite", "websockets", "starlette", "asyncio")
for name in (
    "hypercorn.asyncio.run", "hypercorn.asyncio.tcp_server", "hypercorn.protocol.h11", "hypercorn.protocol.h2",
    "hypercorn.protocol.ws_stream", "hypercorn.protocol.http_stream", "hypercorn.protocol", "wsproto.handshake",
    "engineio.payload", "engineio.async_server", "engineio.async_socket", "socketio.packet", "socketio.async_server",
    "aiosqlite.core", "websockets.server", "websockets.protocol", "starlette.middleware.cors",
):
    importlib.import_module(name)


def state():
    """Every attribute of the libraries' modules and of the classes in them, and what else a process shares."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in LIBRARIES:
            continue
        for key, value in list(vars(module).items()):
            found[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                for attribute, inner in list(vars(value).items()):
                    found[name, key, attribute] = inner
    found["signals"] = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    found["collector"] = (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count())
    found["log"] = (logging.getLogger().level, list(logging.getLogger().handlers))
    found["switch"] = sys.getswitchinterval(), sys.getrecursionlimit()
    return found


async def use():
    before, names = state(), set(sys.modules)
    from happy_light.testing import run_server
    import aiohttp
    async with run_server() as server, aiohttp.ClientSession() as http:
        account = await server.account()
        async with http.ws_connect(f"{server.url}/v1/updates/?EIO=4&transport=websocket") as socket:
            await socket.receive()
            await socket.send_str('40{"token":"%s"}' % account.token)
            assert (await socket.receive()).data.startswith("40{")
        async with http.get(f"{server.url}/v1/updates/?EIO=4&transport=polling") as answer:
            assert answer.status == 200
        during = state()
    for now in (during, state()):
        changed = [key for key, value in before.items() if now.get(key, before) is not value and now[key] != value]
        assert not changed, changed
        added = [key for key in now if key not in before and key[0] in names]
        assert all(len(key) == 2 and f"{key[0]}.{key[1]}" in sys.modules for key in added), added
    print("same")


asyncio.run(use())
'''


def test_the_process_of_the_client_under_test_stays_as_it_was() -> None:
    """Neither importing nor running a server changes a library, the collector, signals or the log."""
    here = str(Path(__file__).parent.parent)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": here},
    )  # fmt: skip
    assert (ended.stdout, ended.returncode) == ("same\n", 0), ended.stderr[-3000:]
