"""Uploads of pictures: sizes, names, rates, repeated and concurrent ones, and those to a bucket."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from happy_light.blobs import UploadTarget
from happy_light.server import Server
from tests.client import World
from tests.conftest import Process
from tests.pictures import INVALID_UPLOAD, KINDS, NOT_FOUND, SCHEMA_ERROR, SIZE_MAX, Pictures, name, refusal
from tests.raw_connections import Connection


@pytest.fixture(params=KINDS)
async def pictures(world: World, request: pytest.FixtureRequest) -> Pictures:
    """Return the pictures of a new project, and of a new session."""
    return await Pictures.make(await world.account(), request.param)


# ------------------------------------------------------------------------------------------ uploading
async def test_a_project_replaces_and_a_session_keeps_an_upload(world: World) -> None:
    alice = await world.account()
    for kind, again, kept in (("projects", (200, {"ok": True}), b"other"), ("sessions", None, b"abc")):
        pictures = await Pictures.make(alice, kind)
        ref = await pictures.activated()
        assert (await pictures.put(name(ref), b"abc")).json() == {"ok": True}
        second = await pictures.put(name(ref), b"other")
        if again is None:
            assert refusal(second) == (409, "Avatar upload already exists")
        else:
            assert (second.status_code, second.json()) == again
        assert (await pictures.get(name(ref))).content == kept


async def test_of_concurrent_uploads_to_one_file_of_a_session_one_is_kept(world: World) -> None:
    pictures = await Pictures.make(await world.account(), "sessions")
    file = f"{uuid.uuid4()}.enc"
    answers = await asyncio.gather(*(pictures.put(file, b"%d" % (i % 2) * 100_000) for i in range(6)))
    accepted = {i % 2 for i, answer in enumerate(answers) if answer.status_code == 200}
    assert len(accepted) == 1
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [409] * 3
    assert (await pictures.activate(f"sessions/{pictures.id}/avatar/{file}")).status_code == 200
    assert (await pictures.get(file)).content == b"%d" % accepted.pop() * 100_000


async def test_sizes(pictures: Pictures, server: Process) -> None:
    smallest = 0 if pictures.kind == "projects" else 1
    for size in (smallest - 1, 1.5, SIZE_MAX + 1, "3", None):
        answer = await pictures.request(size)
        assert (answer.status_code, answer.json().keys()) == (400, SCHEMA_ERROR)
    assert (await pictures.request(smallest)).status_code == 200
    file = name((await pictures.request(SIZE_MAX)).json()["ref"])

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(SIZE_MAX // 65536 + 2):
            yield b"x" * 65536

    invalid = (413, INVALID_UPLOAD[pictures.kind])
    for content in (b"x" * (SIZE_MAX + 1), endless()):
        assert refusal(await pictures.put(file, content)) == invalid
    for kind in ("application/json", "text/plain", "image/png"):
        assert refusal(await pictures.put(file, b"{}", None, **{"Content-Type": kind})) == invalid
    if pictures.kind == "sessions":
        assert refusal(await pictures.put(file, b"")) == invalid
    assert not any(path.is_file() for path in pictures.folder(server).rglob("*"))
    assert (await pictures.put(file, b"x" * SIZE_MAX)).json() == {"ok": True}
    assert (await pictures.activate(f"{pictures.kind}/{pictures.id}/avatar/{file}")).status_code == 200
    assert len((await pictures.get(file)).content) == SIZE_MAX


async def test_a_size_that_is_declared_too_large_is_refused_before_it_is_sent(
    pictures: Pictures, server: Process
) -> None:
    headers = {"Authorization": f"Bearer {pictures.owner.token}", "Content-Type": "application/octet-stream"}
    for size in (SIZE_MAX + 1, 200 * 1024 * 1024):
        async with await Connection.open(server.url) as connection:
            path = f"{pictures.path}/{uuid.uuid4()}.enc"
            answer = await connection.request("PUT", path, {**headers, "Content-Length": str(size)})
            assert (answer.status, answer.json()) == (413, {"error": INVALID_UPLOAD[pictures.kind]})


async def test_an_empty_picture_of_a_project(world: World) -> None:
    pictures = await Pictures.make(await world.account(), "projects")
    ref = await pictures.activated(b"")
    assert (await pictures.get(name(ref))).content == b""


@pytest.mark.parametrize(
    "file",
    ["a.enc", str(uuid.UUID(int=4, version=4)), f"{uuid.UUID(int=1, version=1)}.enc",
     f"{uuid.UUID(int=4, version=4)}.ENC", "..%2fx.enc", f"{uuid.UUID(int=4, version=4)}.enc%0a"],
)  # fmt: skip
async def test_other_file_names_are_refused(pictures: Pictures, file: str) -> None:
    for answer in (await pictures.put(file), await pictures.get(file)):
        if pictures.kind == "projects":
            assert refusal(answer) == (404, "Invalid project avatar file")
        else:
            assert (answer.status_code, answer.json().keys()) == (400, SCHEMA_ERROR)
    ref = f"{pictures.kind}/{pictures.id}/avatar/{file}"
    invalid = {"projects": "Invalid project avatar ref", "sessions": "Invalid session avatar reference"}
    assert refusal(await pictures.activate(ref)) == (400, invalid[pictures.kind])


async def test_a_uuid_in_upper_case_is_one_of_a_session_only(pictures: Pictures) -> None:
    file = f"{str(uuid.uuid4()).upper()}.enc"
    if pictures.kind == "projects":
        assert refusal(await pictures.put(file)) == (404, "Invalid project avatar file")
        return
    assert (await pictures.put(file)).status_code == 200
    assert (await pictures.activate(f"sessions/{pictures.id}/avatar/{file}")).status_code == 200
    assert (await pictures.get(file)).content == b"abc"


@pytest.mark.parametrize("id", ["a.b", "x" * 257, "%20"])
async def test_an_id_that_is_none_is_a_schema_error_for_sessions(world: World, id: str) -> None:
    alice = await world.account()
    file = f"{uuid.uuid4()}.enc"
    for kind in KINDS:
        pictures = Pictures(alice, kind, id)
        for answer in (
            await pictures.request(), await pictures.put(file), await pictures.activate("x"),
            await pictures.remove(), await pictures.request_download(), await pictures.get(file),
        ):  # fmt: skip
            assert answer.status_code == (404 if kind == "projects" else 400)


async def test_projects_count_a_request_before_they_look_and_sessions_after(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    texts = {
        "projects": "Too many upload requests. Try again in a minute.",
        "sessions": "Too many avatar uploads. Try again later.",
    }
    for kind in KINDS:
        pictures, unknown = await Pictures.make(alice, kind), Pictures(alice, kind, "unknown")
        for _ in range(5):
            assert refusal(await unknown.request()) == (404, NOT_FOUND[kind])
        statuses = [(await pictures.request()).status_code for _ in range(60)]
        assert statuses == [200] * (55 if kind == "projects" else 60) + [429] * (5 if kind == "projects" else 0)
        assert refusal(await pictures.request()) == (429, texts[kind])
        last = (429, texts[kind]) if kind == "projects" else (404, NOT_FOUND[kind])
        assert refusal(await unknown.request()) == last
        assert (await (await Pictures.make(bob, kind)).request()).status_code == 200


# --------------------------------------------------------------------------------------------- bucket
class Bucket:
    """Blobs whose clients upload and download by themselves, over the ones of the server."""

    def __init__(self, blobs: Any) -> None:
        self._blobs = blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def upload_target(self, key: str, size_min: int, size_max: int) -> UploadTarget:
        return UploadTarget("https://bucket.example/", {"key": key, "range": f"{size_min}-{size_max}"})

    async def download_url(self, key: str) -> str:
        return f"https://bucket.example/{key}?signed"


async def test_with_a_bucket_clients_upload_and_download_by_themselves(
    inside: Callable[[], Awaitable[Server]],
) -> None:
    server = await inside()
    async with World(server.url) as world:
        alice = await world.account()
        for kind in KINDS:
            pictures = await Pictures.make(alice, kind)
            ref = await pictures.upload()
            blobs = server.context.blobs
            server.context.blobs = Bucket(blobs)
            upload = (await pictures.request()).json()
            smallest = 0 if kind == "projects" else 1
            assert upload == {
                "ref": upload["ref"], "uploadUrl": "https://bucket.example/", "method": "POST",
                "formFields": {"key": upload["ref"], "range": f"{smallest}-{SIZE_MAX}"},
            }  # fmt: skip
            assert (await pictures.activate(ref)).status_code == 200
            url = f"https://bucket.example/{ref}?signed"
            assert (await pictures.request_download()).json() == {"ref": ref, "downloadUrl": url}
            texts = {
                "projects": ["Direct upload not available in S3 mode", "Direct download not available in S3 mode"],
                "sessions": ["Direct upload is unavailable", "Direct download is unavailable"],
            }
            assert refusal(await pictures.put(name(ref))) == (404, texts[kind][0])
            assert refusal(await pictures.get(name(ref))) == (404, texts[kind][1])
            server.context.blobs = blobs
