"""GitHub: sign-in and what it changes, webhooks, avatars."""

from __future__ import annotations

import base64
import hmac
import io
import sqlite3
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiohttp import web
from PIL import Image

from happy_light.auth.keys import Keys
from happy_light.auth.sealing import Vault
from happy_light.images import inspection, thumbhash
from tests import databases
from tests.client import Account, World
from tests.conftest import SECRET, Process, Start
from tests.vendor_servers import VendorServer

CALLBACK = "https://happy.example.com/v1/connect/github/callback"
SECRETS = ("client-secret", "gho_token", "good-code", "hook-secret")
WEBAPP = "https://app.happy.engineering/"


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 20), color: str = "red", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, kind, **options)
    return out.getvalue()


class GitHub:
    """GitHub as these tests want it: one user, and what its addresses answer."""

    def __init__(self, vendor: VendorServer) -> None:
        vendor.answer = self.answer
        self.vendor = vendor
        self.picture: web.Response | bytes = picture()
        self.grant: Any = {"access_token": "gho_token", "token_type": "bearer", "scope": "read:user"}
        self.user: Any = self.person()

    def person(self, id: int = 7, login: str = "octo-cat", name: str | None = "Octo  C. At", **more: Any) -> Any:
        return {
            "id": id, "login": login, "name": name, "avatar_url": f"{self.vendor.url}/u/{id}.png?v=4",
            "email": None, "bio": "meow ü", **more,
        }  # fmt: skip

    async def answer(self, request: web.Request, body: Any) -> web.StreamResponse:
        if request.path == "/login/oauth/access_token":
            return self.grant if isinstance(self.grant, web.Response) else web.json_response(self.grant)
        if request.path == "/api/user":
            return self.user if isinstance(self.user, web.Response) else web.json_response(self.user)
        assert request.path.startswith("/u/")
        return self.picture if isinstance(self.picture, web.Response) else web.Response(body=self.picture)


class Case:
    """A server that is set up for GitHub, and GitHub."""

    def __init__(self, world: World, server: Process, hub: GitHub) -> None:
        self.world = world
        self.server = server
        self.hub = hub

    async def callback(self, query: dict[str, str]) -> httpx.Response:
        return await self.world.http.get("/v1/connect/github/callback", params=query)

    async def sign_in(self, account: Account) -> str:
        """Go through the whole sign-in and return the URL at which the browser ends."""
        url = (await account.ok("GET", "/v1/connect/github/params"))["url"]
        state = parse_qs(urlsplit(url).query)["state"][0]
        answer = await self.callback({"code": "good-code", "state": state})
        assert (answer.status_code, answer.content) == (302, b"")
        return answer.headers["location"]

    def rows(self, sql: str, *args: Any) -> list[Any]:
        return databases.query(self.server.folder, sql, args)


@pytest.fixture
async def case(start: Start) -> AsyncIterator[Case]:
    async def nothing(request: web.Request, body: Any) -> web.Response:
        raise AssertionError

    async with VendorServer(nothing) as vendor:
        server = start(
            GITHUB_CLIENT_ID="client-id", GITHUB_CLIENT_SECRET="client-secret", GITHUB_REDIRECT_URL=CALLBACK,
            GITHUB_WEBHOOK_SECRET="hook-secret", HAPPY_SERVER_LIGHT_GITHUB_URL=vendor.url,
            HAPPY_SERVER_LIGHT_GITHUB_API_URL=f"{vendor.url}/api",
        )  # fmt: skip
        async with World(server.url) as world:
            yield Case(world, server, GitHub(vendor))
        assert server.stop() == 0
        log = "".join(server.log)
        assert "Traceback" not in log, log
        assert not [secret for secret in SECRETS if secret in log]


async def test_a_sign_in_sets_name_profile_and_avatar(case: Case) -> None:
    alice, bob = await case.world.account(), await case.world.account()
    ui, other = await alice.socket(), await bob.socket()
    session = await alice.socket(session=(await alice.session())["id"])
    await ui.heard()

    params = await alice.ok("GET", "/v1/connect/github/params")
    url = urlsplit(params["url"])
    asked = parse_qs(url.query)
    assert f"{url.scheme}://{url.netloc}{url.path}" == f"{case.hub.vendor.url}/login/oauth/authorize"
    assert asked.pop("state")[0].count(".") == 2
    assert asked == {
        "client_id": ["client-id"], "redirect_uri": [CALLBACK], "scope": ["read:user,user:email,read:org,codespace"],
    }  # fmt: skip
    assert await case.sign_in(alice) == f"{WEBAPP}?github=connected&user=octo-cat"

    (_, body), (user, _), (_, _) = case.hub.vendor.got
    assert body == {"client_id": "client-id", "client_secret": "client-secret", "code": "good-code"}
    assert user.headers["authorization"] == "Bearer gho_token"

    profile = await alice.ok("GET", "/v1/account/profile")
    github = {name: value for name, value in case.hub.user.items() if name != "email"}
    assert (profile["username"], profile["firstName"], profile["lastName"]) == ("octo-cat", "Octo", "C. At")
    assert profile["github"] == github
    avatar = profile["avatar"]
    assert avatar.keys() == {"path", "url", "width", "height", "thumbhash"}
    assert (avatar["width"], avatar["height"]) == (40, 20)
    assert avatar["path"].startswith(f"public/users/{alice.id}/avatars/")
    assert avatar["url"] == f"{case.server.url}/files/{avatar['path']}"
    base64.b64decode(avatar["thumbhash"], validate=True)
    seen = await case.world.http.get(avatar["url"])
    assert (seen.status_code, seen.content, seen.headers["content-type"]) == (200, picture(), "image/png")

    assert await ui.updates() == [
        {"t": "update-account", "id": alice.id, "github": github, "username": "octo-cat", "firstName": "Octo",
         "lastName": "C. At", "avatar": avatar}
    ]  # fmt: skip
    assert await session.heard() == await other.heard() == []
    ((id, token),) = case.rows("SELECT id, token FROM github_users")
    assert id == "7"
    assert Vault(SECRET).open(["user", alice.id, "github", "token"], token) == "gho_token"


async def test_a_github_user_has_one_account_and_an_account_one_github_user(case: Case) -> None:
    alice, bob = await case.world.account(), await case.world.account()
    await case.sign_in(alice)
    alices, bobs = await alice.socket(), await bob.socket()
    case.hub.user = case.hub.person(name=None, login="Octo-Cat")
    assert await case.sign_in(bob) == f"{WEBAPP}?github=connected&user=Octo-Cat"

    assert await alices.updates() == [{"t": "update-account", "id": alice.id, "github": None, "username": None}]
    (update,) = await bobs.updates()
    assert (update["username"], update["firstName"], update["lastName"]) == ("Octo-Cat", None, None)
    assert update["github"]["name"] == "Octo-Cat"  # clients need one
    left = await alice.ok("GET", "/v1/account/profile")
    assert (left["github"], left["username"]) == (None, None)
    assert left["avatar"] is not None

    # Another GitHub user takes a login that the first gave up; and the account changes over to it.
    case.hub.user = case.hub.person(id=8, login="octo-cat", name=" Solo ")
    await case.sign_in(alice)
    assert await bobs.updates() == [{"t": "update-account", "id": bob.id, "github": None, "username": None}]
    case.hub.user = case.hub.person(id=9, login="third")
    await case.sign_in(alice)
    updates = await alices.updates()
    assert [update["username"] for update in updates] == ["octo-cat", "third"]
    assert (updates[0]["firstName"], updates[0]["lastName"]) == ("Solo", None)
    assert ("8",) not in case.rows("SELECT id FROM github_users")
    assert case.rows("SELECT github_user_id FROM accounts WHERE id = ?", alice.id) == [("9",)]
    seqs = case.rows("SELECT seq FROM accounts ORDER BY id = ? DESC", alice.id)
    assert seqs == [(4,), (2,)]


async def test_unlinking_keeps_the_avatar(case: Case) -> None:
    alice = await case.world.account()
    await case.sign_in(alice)
    before = await alice.ok("GET", "/v1/account/profile")
    ui = await alice.socket()
    assert await alice.ok("DELETE", "/v1/connect/github") == {"success": True}
    assert await ui.updates() == [{"t": "update-account", "id": alice.id, "github": None, "username": None}]
    after = await alice.ok("GET", "/v1/account/profile")
    assert after["avatar"] == before["avatar"]
    assert (after["github"], after["username"], after["firstName"]) == (None, None, "Octo")
    assert case.rows("SELECT * FROM github_users") == []
    assert await alice.ok("DELETE", "/v1/connect/github") == {"success": True}
    assert await ui.heard() == []
    assert await case.sign_in(alice) == f"{WEBAPP}?github=connected&user=octo-cat"


async def test_a_new_avatar_replaces_the_old_one_and_the_same_one_stays(case: Case) -> None:
    alice = await case.world.account()
    folder = case.server.folder / "files" / "public" / "users" / alice.id / "avatars"
    await case.sign_in(alice)
    first = (await alice.ok("GET", "/v1/account/profile"))["avatar"]
    await case.sign_in(alice)
    assert (await alice.ok("GET", "/v1/account/profile"))["avatar"] == first
    case.hub.picture = picture("JPEG", (30, 60))
    await case.sign_in(alice)
    second = (await alice.ok("GET", "/v1/account/profile"))["avatar"]
    assert second["path"].endswith(".jpg")
    assert (second["width"], second["height"]) == (30, 60)
    assert [file.name for file in folder.iterdir()] == [second["path"].rpartition("/")[2]]
    assert (await case.world.http.get(first["url"])).status_code == 404
    assert case.rows("SELECT path, width, height FROM uploaded_files") == [(second["path"], 30, 60)]


async def test_a_link_deletes_no_file_but_the_accounts_own_older_pictures(case: Case) -> None:
    """Also where an import once believed the paths that a file named."""
    alice, bob = await case.world.account(), await case.world.account()
    folder = case.server.folder
    kept = [folder / "attachments/sessions/x/y.enc", folder / f"files/public/users/{bob.id}/avatars/b.png",
            folder / "keep.txt"]  # fmt: skip
    own = folder / f"files/public/users/{alice.id}/avatars/old.png"
    for file in (*kept, own):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    paths = ["../attachments", "../attachments/sessions/x/y.enc", str(folder / "keep.txt"), "../keep.txt", "public",
             f"public/users/{bob.id}/avatars/b.png", f"public/users/{alice.id}/../{bob.id}/avatars/b.png",
             f"public/users/{alice.id}/avatars/old.png"]  # fmt: skip
    with closing(sqlite3.connect(folder / "happy-server-light.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO uploaded_files (id, account_id, path, reuse_key, created_at, updated_at) "
            "VALUES (?, ?, ?, 'github-avatar', 1, 1)",
            [(f"f{number}", alice.id, path) for number, path in enumerate(paths)],
        )

    assert await case.sign_in(alice) == f"{WEBAPP}?github=connected&user=octo-cat"

    assert [file for file in kept if not file.exists()] == []
    assert not own.exists()
    assert len(case.rows("SELECT path FROM uploaded_files WHERE account_id = ?", alice.id)) == 1


async def test_a_sign_in_succeeds_without_its_avatar(case: Case) -> None:
    alice = await case.world.account()
    ui = await alice.socket()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for bad in (
        svg, b"", b"\x89PNG\r\n\x1a\n", picture()[:-20], picture("GIF"), picture("WEBP"),
        picture("BMP", (2000, 1500)) + b"x" * 5_000_000, web.Response(status=404),
        web.Response(status=302, headers={"location": f"{case.hub.vendor.url}/u/x"}),
    ):  # fmt: skip
        case.hub.picture = bad
        assert "github=connected" in await case.sign_in(alice)
        (update,) = await ui.updates()
        assert "avatar" not in update
    for url in (None, "", "file:///etc/passwd", "http://127.0.0.1:1/x.png", "http://[bad/x"):
        case.hub.user = case.hub.person(avatar_url=url)
        assert "github=connected" in await case.sign_in(alice)
    assert (await alice.ok("GET", "/v1/account/profile"))["avatar"] is None
    assert not (case.server.folder / "files" / "public").exists()


async def test_every_failure_redirects_to_the_web_app_and_changes_nothing(case: Case) -> None:
    alice = await case.world.account()
    ui = await alice.socket()
    signer = Keys(SECRET).github
    for state in ("", "bad", alice.token, signer.mint(alice.id), signer.mint(alice.id, exp=1),
                  signer.mint("cnobody", exp=2**32)):  # fmt: skip
        answer = await case.callback({"code": "good-code", "state": state})
        assert (answer.status_code, answer.headers["location"]) == (302, f"{WEBAPP}?error=invalid_state")
    assert case.hub.vendor.got == []

    for grant, error in (
        ({"error": "bad_verification_code", "error_description": "x"}, "bad_verification_code"),
        ({"error": "a&b=c\r\nx: y"}, "a%26b%3Dc%0D%0Ax%3A+y"),
        ({}, "server_error"),
        ([], "server_error"),
        (web.Response(text="<html>"), "server_error"),
    ):
        case.hub.grant = grant
        assert await case.sign_in(alice) == f"{WEBAPP}?error={error}"
    case.hub.grant = {"access_token": "gho_token"}
    users: list[Any] = [web.Response(status=401), {}, {"id": "7", "login": "x"}, web.Response(text="no"), [],
                        web.Response(body=b"x" * 2_000_000)]  # fmt: skip
    for user in users:
        case.hub.user = user
        assert await case.sign_in(alice) == f"{WEBAPP}?error=github_user_fetch_failed"
    await case.hub.vendor.__aexit__(None, None, None)
    assert await case.sign_in(alice) == f"{WEBAPP}?error=server_error"

    refused = await case.callback({"error": "access_denied", "error_description": "x", "state": "x"})
    assert (refused.status_code, refused.headers["location"]) == (302, f"{WEBAPP}?error=access_denied")
    for query in ({}, {"code": "c"}, {"state": "s"}):
        answer = await case.callback(query)
        assert (answer.status_code, answer.json().keys()) == (400, {"error", "message", "statusCode"})
    assert await ui.heard() == []
    assert (await alice.ok("GET", "/v1/account/profile"))["github"] is None


async def test_webhook_signatures_are_verified(case: Case) -> None:
    body = b'{"zen":"x \xc3\xbc"}' * 50_000
    good = "sha256=" + hmac.digest(b"hook-secret", body, "sha256").hex()
    event = {"x-github-event": "ping"}

    async def post(headers: dict[str, str], content: bytes = body) -> tuple[int, Any]:
        sent = {name.encode(): value.encode() for name, value in headers.items()}
        answer = await case.world.http.post(
            "/v1/connect/github/webhook", content=content, headers={b"content-type": b"application/json", **sent}
        )
        return answer.status_code, answer.json()

    assert await post({**event, "x-hub-signature-256": good}) == (200, {"received": True})
    for signature in (good[:-1] + ("0" if good[-1] != "0" else "1"), good.upper(), good[7:], "", "sha256=", "ü"):
        answer = await post({**event, "x-hub-signature-256": signature})
        assert answer == (401, {"error": "Invalid signature"})
    assert (await post({**event, "x-hub-signature-256": good}, body + b" "))[0] == 401
    for headers in ({}, event, {"x-hub-signature-256": good}):
        status, answer = await post(headers)
        assert (status, answer.keys()) == (400, {"error", "message", "statusCode"})


async def test_github_is_disabled_without_its_settings(world: World) -> None:
    alice = await world.account()
    ui = await alice.socket()
    answer = await alice.get("/v1/connect/github/params")
    assert (answer.status_code, answer.json()) == (400, {"error": "GitHub OAuth not configured"})
    assert await alice.ok("DELETE", "/v1/connect/github") == {"success": True}
    state = Keys(SECRET).github.mint(alice.id, exp=2**32)
    for given, error in ((state, "server_config"), ("bad", "invalid_state")):
        back = await world.http.get("/v1/connect/github/callback", params={"code": "c", "state": given})
        assert (back.status_code, back.headers["location"]) == (302, f"{WEBAPP}?error={error}")
    headers = {"x-hub-signature-256": "sha256=00", "x-github-event": "ping"}
    hook = await world.http.post("/v1/connect/github/webhook", json={}, headers=headers)
    assert (hook.status_code, hook.json()) == (500, {"error": "Webhooks not configured"})
    assert (await world.http.get("/v1/connect/github/params")).status_code == 401
    assert (await world.http.delete("/v1/connect/github")).status_code == 401
    assert await ui.heard() == []


async def test_the_callback_redirects_to_the_configured_or_served_web_app(start: Start) -> None:
    server = start(HAPPY_WEBAPP_URL="https://web.example.com/app/")
    async with World(server.url) as world:
        back = await world.http.get("/v1/connect/github/callback?error=x")
        assert back.headers["location"] == "https://web.example.com/app/?error=x"
    server.stop()
    ui = server.folder / "ui"
    ui.mkdir()
    (ui / "index.html").write_text("<html><head></head></html>")
    server = start(HAPPY_SERVER_UI_DIR=str(ui), HAPPY_SERVER_UI_PREFIX="/ui")
    async with World(server.url) as world:
        back = await world.http.get("/v1/connect/github/callback?error=x")
        assert back.headers["location"] == f"{server.url}/ui/?error=x"


REFERENCE = [  # size, with transparency, hash
    ((100, 100), False, "df070207007b676b95568535a85556297b8640bf577fb602"),
    ((33, 20), False, "df07020c820a73c76456886b86337e06a0e040"),
    ((20, 50), True, "1f08820200170355a7e69a90eb95e78010225376624737"),
    ((64, 7), True, "df07820982167e4567f2680d55eb2fd244656088824958"),
]


def test_thumbhashes_equal_those_of_the_reference() -> None:
    def pixel(x: int, y: int, alpha: bool) -> list[int]:
        colors = [(x * x * (31 + k) + y * y * 17 + x * y * (7 + k) + 50 * k) // (1 + k) % 256 for k in range(3)]
        return [*colors, x * y * 3 % 256 if alpha else 255]

    def rgba(width: int, height: int, alpha: bool) -> bytes:
        return bytes(value for y in range(height) for x in range(width) for value in pixel(x, y, alpha))

    for size, alpha, expected in REFERENCE:
        assert thumbhash.encode(*size, rgba(*size, alpha)).hex() == expected
    assert len(thumbhash.encode(1, 1, bytes(4))) > 0


def test_the_type_of_a_picture_is_read_from_its_bytes() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be seen on its side
    seen = inspection.read(picture("JPEG", (300, 200), exif=turned))
    assert seen is not None
    assert (seen.extension, seen.width, seen.height) == ("jpg", 200, 300)
    huge = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (
            (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"")),
            (b"IEND", b""),
        )
    )
    for bad in (huge, b"GIF89a", b"", picture()[:50]):
        assert inspection.read(bad) is None


def test_without_pillow_there_is_no_avatar(monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture()
    assert inspection.read(data) is not None
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert inspection.read(data) is None
