"""The proxy configurations of docs/deploy.md, word for word but for names and ports: they have to work."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from happy_light.errors import OperatorError
from happy_light.server import binding
from tests.client import World
from tests.conftest import Process, Start
from tests.redis_services import Redis
from tests.test_start import free_port
from tests.test_tls import certificate, sockets_work

pytest_plugins = ["tests.service_fixtures"]
pytestmark = pytest.mark.slow

DEPLOY = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text("utf-8")

FULL = (Path(__file__).parent.parent / "docs" / "full.md").read_text("utf-8")


def snippet(language: str, page: str = DEPLOY) -> str:
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found is not None
    return found[1]


def put(text: str, *changes: tuple[str, str]) -> str:
    """Each change has to hit, or the test would run something else than the documentation says."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def running(port: int, *arguments: str, folder: Path) -> Iterator[str]:
    """Run a proxy that answers on `port`, and return its URL."""
    log = (folder / "proxy.log").open("w+")
    process = subprocess.Popen(
        arguments, stdout=log, stderr=log, cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)},
    )  # fmt: skip
    try:
        for _ in range(200):
            assert process.poll() is None, (folder / "proxy.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


async def works_through(url: str, server: Process, context: ssl.SSLContext) -> None:
    """Both transports, a body of 40 MB, and URLs that begin with the proxy's."""
    async with World(server.url) as world:
        account = await world.account()
        session = await account.session()
        headers = {"Authorization": f"Bearer {account.token}"}
        async with httpx.AsyncClient(
            base_url=url, headers=headers, verify=context, timeout=60, trust_env=False
        ) as http:
            assert (await http.get("/health")).json()["status"] == "ok"
            path = f"/v1/sessions/{session['id']}/attachments/request-upload"
            answer = (await http.post(path, json={"filename": "a", "size": 10_000_000})).json()
            assert answer["uploadUrl"].startswith(f"{url}/v1/sessions/"), "forwarded scheme and host count"
            content = bytes(10_000_000)
            sent = await http.put(
                answer["uploadUrl"], content=content, headers={"content-type": "application/octet-stream"}
            )
            assert sent.status_code == 200, sent.text
            body = {"messages": [{"content": "x" * 40_000_000, "localId": "large"}]}
            sent = await http.post(f"/v3/sessions/{session['id']}/messages", json=body)
            assert sent.status_code == 200, sent.text[:300]
        await sockets_work(url, context, account.token)


@asynccontextmanager
async def through_nginx(site: str, tmp_path: Path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """Run nginx with a site of the documentation; yield its URL, and what its certificate is trusted with."""
    cert, key = certificate(tmp_path)
    port = free_port()
    site = put(
        site,
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/letsencrypt/live/happy.example/fullchain.pem", str(cert)),
        ("/etc/letsencrypt/live/happy.example/privkey.pem", str(key)),
    )
    folders = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off;\n{folders}{site}}}\n"
    )
    arguments = ("nginx", "-e", f"{tmp_path}/error.log", "-p", str(tmp_path), "-c", f"{tmp_path}/nginx.conf")
    with running(port, *arguments, folder=tmp_path) as url:
        yield url, ssl.create_default_context(cafile=str(cert))


async def test_nginx(server: Process, tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("nginx is not installed")
    site = put(snippet("nginx"), ("http://127.0.0.1:3005", server.url))
    async with through_nginx(site, tmp_path) as (url, context):
        await works_through(url, server, context)


def test_processes_share_a_port_only_if_both_say_so() -> None:
    with binding.bind("127.0.0.1", 0, reuse_port=True) as first:
        port = first.getsockname()[1]
        binding.bind("127.0.0.1", port, reuse_port=True).close()
        with pytest.raises(OperatorError, match="taken"):
            binding.bind("127.0.0.1", port)


@pytest.fixture
def pair(start: Start, database_url: str, start_redis: Callable[..., Redis], tmp_path: Path) -> tuple[Process, Process]:
    """Start two processes of one server."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": start_redis().url}
    return start(folder=tmp_path / "data", **settings), start(folder=tmp_path / "data", **settings)


def before(pair: tuple[Process, Process], text: str) -> str:
    """Return a configuration of docs/full.md with the ports of the two processes."""
    first, second = (process.url.removeprefix("http://") for process in pair)
    return put(text, ("127.0.0.1:3005", first), ("127.0.0.1:3006", second))


async def test_nginx_before_two_processes(pair: tuple[Process, Process], tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("nginx is not installed")
    site = before(pair, snippet("nginx", FULL)) + put(snippet("nginx"), ("http://127.0.0.1:3005", "http://happy"))
    async with through_nginx(site, tmp_path) as (url, context):
        await works_through(url, pair[0], context)
        pair[1].kill()
        await sockets_work(url, context)


async def is_noticed(url: str, context: ssl.SSLContext) -> None:
    """Wait until a proxy sends nothing more to a process that was killed; until then it may answer 502."""
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10) as http, asyncio.timeout(20):
        while (await http.post(f"{url}/v1/auth", json={})).status_code == 502:
            pass


@contextmanager
def through_caddy(site: str, tmp_path: Path) -> Iterator[tuple[str, ssl.SSLContext]]:
    """Run Caddy with a site of the documentation; yield its URL, and what its certificate is trusted with."""
    cert, key = certificate(tmp_path)
    port = free_port()
    name = f"https://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\ttls {cert} {key}"
    (tmp_path / "Caddyfile").write_text(
        "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + put(site, ("happy.example {", name))
    )
    arguments = ("caddy", "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile"))
    with running(port, *arguments, folder=tmp_path) as url:
        yield url, ssl.create_default_context(cafile=str(cert))


async def test_caddy(server: Process, tmp_path: Path) -> None:
    if shutil.which("caddy", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("caddy is not installed")
    site = put(snippet("caddy"), ("127.0.0.1:3005", server.url.removeprefix("http://")))
    with through_caddy(site, tmp_path) as (url, context):
        await works_through(url, server, context)


async def test_caddy_before_two_processes(pair: tuple[Process, Process], tmp_path: Path) -> None:
    if shutil.which("caddy", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("caddy is not installed")
    with through_caddy(before(pair, snippet("caddy", FULL)), tmp_path) as (url, context):
        await works_through(url, pair[0], context)
        pair[1].kill()
        await is_noticed(url, context)
        await sockets_work(url, context)
