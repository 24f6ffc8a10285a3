"""What other projects test their clients with: run_server, accounts, the fixture, and the example of docs/client-tests.md."""

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
