"""The admin page: who gets in, what every route of it refuses, and the command that prints its link."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import httpx
import pytest

from happy_light import app
from happy_light.admin import api, page_application, page_sign_in
from happy_light.auth import devices
from happy_light.auth.keys import Keys
from happy_light.commands import admin
from happy_light.http.router import Route
from tests.client import World
from tests.commands import run
from tests.conftest import Process, Start

HEADER = {"x-happy-admin": "1"}
SAME = {**HEADER, "sec-fetch-site": "same-origin"}
ROUTES = [route for route in app.admin_routes() if route.path.startswith("/admin/api/")]
ON_PAGE = [route for route in ROUTES if route not in page_sign_in.link_routes]
REFUSED = page_sign_in.NOT_SIGNED_IN.error
ELSEWHERE = page_application.OTHER_SITE.error


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route) -> str:
    return "/".join("x" if part.startswith(":") else part for part in route.path.split("/"))


async def code_of(process: Process) -> str:
    """Return a new code, made as the command `admin` makes it."""
    transport = httpx.AsyncHTTPTransport(uds=str(process.folder / api.SOCKET_NAME), verify=False)
    headers = {"x-happy-operator": "zoe"}
    async with httpx.AsyncClient(transport=transport, trust_env=False, headers=headers) as client:
        link = (await client.post("http://admin/admin/api/links")).json()
    return str(link["urls"][0].partition("#")[2])


def some_address() -> dict[str, str]:
    """Return the header of a proxy that says that a request comes from somewhere else each time."""
    return {"x-forwarded-for": f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"}


@contextlib.asynccontextmanager
async def sign_in(process: Process) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that is signed in to the page, as a browser is."""
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, headers=SAME) as client:
        answer = await client.post("/admin/session", json={"code": await code_of(process)}, headers=some_address())
        assert answer.status_code == 200, answer.text
        yield client


@pytest.fixture
async def page(server: Process) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client that is signed in to the page of the shared server."""
    async with sign_in(server) as client:
        yield client


def outcome(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("error", "")


# ------------------------------------------------------------------------------------------- the page
async def test_everybody_gets_the_page_which_loads_nothing_else(world: World) -> None:
    answer = await world.http.get("/admin")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", answer.text)
    slash = await world.http.get("/admin/")
    assert (slash.status_code, slash.headers["location"]) == (308, "../admin")
    unknown = await world.http.get("/admin/else")
    assert outcome(unknown) == (404, "Not found")


# ---------------------------------------------------------------------------------------- signing in
async def test_the_page_has_words_for_every_kind_of_device(world: World) -> None:
    words = re.search(r"const CAME = \{(.*?)\};", (await world.http.get("/admin")).text)
    assert words is not None and re.findall(r"(\w+): \"", words[1]) == list(get_args(devices.Kind))


async def test_a_link_signs_in_once(world: World, server: Process) -> None:
    code = await code_of(server)
    answer = await world.http.post("/admin/session", json={"code": code}, headers={**SAME, **some_address()})
    assert answer.status_code == 200 and answer.json()["operator"] == "zoe"
    cookie = answer.headers["set-cookie"]
    name, *attributes = cookie.split("; ")
    assert name.startswith("happy_admin=") and len(name) > 50
    # Without a path it is that of the request's folder, /admin; over plain HTTP it cannot be Secure.
    assert sorted(attributes) == ["HttpOnly", "Max-Age=43200", "SameSite=strict"]
    again = await world.http.post("/admin/session", json={"code": code}, headers={**SAME, **some_address()})
    assert outcome(again) == (401, page_sign_in.WRONG_CODE.error)
    assert "set-cookie" not in again.headers


async def test_over_https_the_cookie_is_secure(world: World, server: Process) -> None:
    headers = {**SAME, **some_address(), "x-forwarded-proto": "https"}
    answer = await world.http.post("/admin/session", json={"code": await code_of(server)}, headers=headers)
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("code", ["", "x", "x" * 5_000, "\0", "admin-cookie:x", "%"])
async def test_another_code_does_not(world: World, code: str) -> None:
    answer = await world.http.post("/admin/session", json={"code": code}, headers={**SAME, **some_address()})
    assert outcome(answer) == (401, page_sign_in.WRONG_CODE.error)


async def test_attempts_are_few(start: Start) -> None:
    process = start()
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, headers=SAME) as client:
        answers = [await client.post("/admin/session", json={"code": "x"}) for _ in range(12)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
        right = await client.post("/admin/session", json={"code": await code_of(process)})
        assert right.status_code == 429  # this address has to wait
        other = await client.post(
            "/admin/session", json={"code": await code_of(process)}, headers={"x-forwarded-for": "192.0.2.1"}
        )
        assert other.status_code == 200


@pytest.mark.sqlite_only
async def test_codes_and_cookies_end_with_their_time(start: Start) -> None:
    process = start()
    code = await code_of(process)
    async with sign_in(process) as client:
        assert (await client.get("/admin/api/session")).status_code == 200
        with sqlite3.connect(process.folder / "happy-server-light.sqlite") as database:
            rows = database.execute("SELECT key, value FROM meta WHERE key LIKE 'admin-%'").fetchall()
            ends = {key.partition(":")[0]: int(value.split()[0]) for key, value in rows}
            assert ends["admin-cookie"] - ends["admin-code"] == pytest.approx(1000 * (12 * 3600 - 600), abs=60_000)
            database.execute("UPDATE meta SET value = '1' || substr(value, 14) WHERE key LIKE 'admin-%'")
        assert outcome(await client.get("/admin/api/session")) == (401, REFUSED)
        answer = await client.post("/admin/session", json={"code": code})
        assert outcome(answer) == (401, page_sign_in.WRONG_CODE.error)


def test_a_new_secret_ends_them_all() -> None:
    old, new = Keys("old"), Keys("new")
    assert page_sign_in._key("cookie", old, "x") == page_sign_in._key("cookie", Keys("old"), "x")
    assert page_sign_in._key("cookie", old, "x") != page_sign_in._key("cookie", new, "x")


async def test_who_made_the_link_is_who_is_signed_in_and_in_the_log(start: Start) -> None:
    process = start()
    async with sign_in(process) as client:
        assert (await client.get("/admin/api/session")).json()["operator"] == "zoe"
        await client.delete("/admin/api/registration/window", headers={"x-happy-operator": "somebody"})
        await client.post("/admin/api/backups", json={})
        (archive,) = (await client.get("/admin/api/backups")).json()["archives"]
        await client.get(f"/admin/api/backups/{archive['name']}")
        await client.delete("/admin/session")
    await process.wait_for_log("operator zoe on the page, from 127.0.0.1: DELETE /admin/api/registration/window")
    await process.wait_for_log(f"operator zoe on the page, from 127.0.0.1: GET /admin/api/backups/{archive['name']}")
    await process.wait_for_log("operator zoe signed out of the admin page")
    log = "".join(process.log)
    assert "operator zoe signed in to the admin page from 2001:db8:" in log and "somebody" not in log


# ------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize("route", ON_PAGE, ids=named)
async def test_a_route_refuses_who_is_not_signed_in(world: World, route: Route) -> None:
    alice = await world.account()
    for headers in (
        {},
        {"Authorization": f"Bearer {alice.token}"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Cookie": "happy_admin="},
        {"Cookie": f"happy_admin={alice.token}"},
        {"Cookie": "happy_admin=\xff"},
    ):
        sent = {name.encode(): value.encode("latin-1") for name, value in {**SAME, **headers}.items()}
        answer = await world.http.request(route.method, path_of(route), headers=sent)
        assert outcome(answer) == (401, REFUSED), headers


@pytest.mark.parametrize("route", ON_PAGE, ids=named)
async def test_a_route_refuses_other_sites(page: httpx.AsyncClient, route: Route) -> None:
    refused: list[dict[str, str]] = [
        {**HEADER, "sec-fetch-site": site} for site in ("cross-site", "same-site", "none", "")
    ]
    refused += [{**HEADER, "origin": origin, "sec-fetch-site": ""} for origin in ("http://evil.example", "null")]
    if not route.path.startswith(api.DOWNLOADS):
        refused.append({"sec-fetch-site": "same-origin"})  # a form or a link could send it
    for headers in refused:
        request = page.build_request(route.method, path_of(route))
        for name in ("x-happy-admin", "sec-fetch-site"):
            del request.headers[name]
        request.headers.update({name: value for name, value in headers.items() if value})
        if headers.get("sec-fetch-site") == "" and "origin" not in headers and route.method == "GET":
            continue  # as a browser sends it over plain HTTP
        answer = await page.send(request)
        assert outcome(answer) == (403, ELSEWHERE), headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = {"origin": "http://evil.example", "access-control-request-method": route.method}
    answer = await page.options(path_of(route), headers=preflight)
    assert answer.status_code == 404
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("route", ON_PAGE, ids=named)
async def test_a_route_refuses_who_has_signed_out(server: Process, route: Route) -> None:
    async with signed_out_client(server) as client:
        answer = await client.request(route.method, path_of(route))
        assert outcome(answer) == (401, REFUSED)


_SIGNED_OUT: dict[str, str] = {}


def signed_out_client(server: Process) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False, headers=SAME, cookies=_SIGNED_OUT)


@pytest.fixture(scope="module", autouse=True)
def signed_out(server: Process) -> None:
    """Sign in and out, and keep the cookie."""
    link = httpx.HTTPTransport(uds=str(server.folder / api.SOCKET_NAME), verify=False)
    with httpx.Client(transport=link, trust_env=False) as admin, httpx.Client(headers=SAME, trust_env=False) as page:
        code = admin.post("http://admin/admin/api/links").json()["urls"][0].partition("#")[2]
        page.post(f"{server.url}/admin/session", json={"code": code}, headers=some_address()).raise_for_status()
        _SIGNED_OUT.update(page.cookies)
        assert page.get(f"{server.url}/admin/api/session").status_code == 200
        page.delete(f"{server.url}/admin/session").raise_for_status()
        assert "happy_admin" not in page.cookies and _SIGNED_OUT["happy_admin"]


async def test_over_plain_http_the_origin_counts(server: Process) -> None:
    """Browsers send no Sec-Fetch-Site there."""
    async with sign_in(server) as client:
        del client.headers["sec-fetch-site"]
        for origin, status in (
            (server.url, 200), (None, 403), ("http://evil.example", 403), (server.url.replace("http:", "https:"), 403)
        ):  # fmt: skip
            headers = {} if origin is None else {"origin": origin}
            answer = await client.delete("/admin/api/registration/window", headers=headers)
            assert answer.status_code == status, origin
        assert (await client.get("/admin/api/session")).status_code == 200


async def test_the_link_is_made_on_the_socket_only(page: httpx.AsyncClient) -> None:
    assert outcome(await page.post("/admin/api/links")) == (404, "Not found")


async def test_signing_in_needs_the_page(world: World, server: Process) -> None:
    code = await code_of(server)
    for headers in ({}, HEADER, {"sec-fetch-site": "same-origin"}, {**HEADER, "sec-fetch-site": "cross-site"}):
        answer = await world.http.post("/admin/session", json={"code": code}, headers=headers)
        assert outcome(answer) == (403, ELSEWHERE)
    headers = {**SAME, **some_address()}
    assert (await world.http.post("/admin/session", json={"code": code}, headers=headers)).status_code == 200


async def test_no_code_and_no_cookie_lies_in_the_database(start: Start) -> None:
    process = start()
    code = await code_of(process)
    async with sign_in(process) as client:
        cookie = client.cookies["happy_admin"]
    process.stop()
    content = b"".join(path.read_bytes() for path in process.folder.glob("*.sqlite*"))
    assert b"admin-cookie:" in content and b"admin-code:" in content
    for secret in (code, cookie):
        assert secret.encode() not in content and secret not in "".join(process.log)


# --------------------------------------------------------------------------------------- the setting
async def test_the_page_can_be_switched_off(start: Start) -> None:
    process = start(HAPPY_SERVER_LIGHT_ADMIN_PAGE="false")
    async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, headers=SAME) as client:
        for path in ("/admin", "/admin/", "/admin/api/session", "/admin/session"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/admin/session", json={"code": "x"})).status_code == 404
    result = await run(process.folder, "admin")
    assert (result.status, result.out) == (2, "") and "HAPPY_SERVER_LIGHT_ADMIN_PAGE" in result.err


# --------------------------------------------------------------------------------------- the command
async def test_the_command_prints_the_link_at_every_address(start: Start) -> None:
    process = start(PUBLIC_URL="https://happy.example.org/sub")
    result = await run(process.folder, "admin")
    links = re.findall(r"^  (http\S+)$", result.out, re.MULTILINE)
    assert [link.partition("#")[0] for link in links] == [
        "https://happy.example.org/sub/admin", f"{process.url}/admin"
    ]  # fmt: skip
    assert len({link.partition("#")[2] for link in links}) == 1
    assert "works once, for 10 minutes" in result.out
    told = json.loads((await run(process.folder, "admin", "--json")).out)
    assert len(told["urls"]) == 2 and told["expiresAt"] > 1e12


def test_other_users_do_not_see_the_link_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line of a browser can be read by every user of the computer."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    file = tmp_path / "open.html"
    admin._open("http://127.0.0.1:3005/admin#secret", file)
    assert opened == [file.as_uri()]
    assert 'url=http://127.0.0.1:3005/admin#secret"' in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


async def test_without_a_server_there_is_no_page(start: Start) -> None:
    process = start()
    process.stop()
    result = await run(process.folder, "admin")
    assert (result.status, "No server runs" in result.err) == (2, True)
