"""Pictures of projects and sessions: activated, versioned, private, deleted with their owner."""

from __future__ import annotations

import asyncio
import os
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.client import World
from tests.conftest import Process
from tests.pictures import (
    KINDS,
    NO_PICTURE,
    NOT_FOR_DOWNLOAD,
    NOT_FOUND,
    SCHEMA_ERROR,
    SIZE_MAX,
    Pictures,
    listening,
    name,
    refusal,
)


@pytest.fixture(params=KINDS)
async def pictures(world: World, request: pytest.FixtureRequest) -> Pictures:
    """Return the pictures of a new project, and of a new session."""
    return await Pictures.make(await world.account(), request.param)


# -------------------------------------------------------------------------------- the way of a picture
async def test_a_picture_of_a_project(world: World, server: Process) -> None:
    alice = await world.account()
    pictures = await Pictures.make(alice, "projects")
    project = await alice.ok("GET", f"/v1/projects/{pictures.id}")
    machine = await alice.socket(machine="m")
    await machine.heard()
    ui = await listening(pictures)
    content = os.urandom(300_000)
    changed = [{"t": "update-project", "projectId": pictures.id}]

    upload = (await pictures.request(len(content))).json()
    ref = upload["ref"]
    assert re.fullmatch(rf"projects/{pictures.id}/avatar/[0-9a-f]{{8}}-[0-9a-f-]{{27}}\.enc", ref)
    assert upload == {"ref": ref, "uploadUrl": f"{server.url}/v1/{ref}", "method": "PUT"}
    assert (await pictures.put(name(ref), content)).json() == {"ok": True}
    assert refusal(await pictures.get(name(ref))) == (404, "Project avatar not found")
    assert await ui.heard() == []

    active = (await pictures.activate(ref)).json()
    avatar = {"ref": ref, "preview": "pv", "version": 1}
    assert active == {**project, "avatar": avatar, "seq": 1, "updatedAt": active["updatedAt"]}
    assert await ui.updates() == changed
    assert (await alice.ok("GET", "/v1/projects"))["projects"] == [active]
    assert (await pictures.request_download()).json() == {"ref": ref, "downloadUrl": f"{server.url}/v1/{ref}"}
    got = await pictures.get(name(ref))
    assert (got.content, got.headers["content-type"]) == (content, "application/octet-stream")
    assert "public" not in got.headers["cache-control"]

    removed = (await pictures.remove()).json()
    assert removed == {**project, "avatar": None, "seq": 2, "updatedAt": removed["updatedAt"]}
    assert await ui.updates() == changed
    assert (await pictures.remove()).json() == removed
    assert refusal(await pictures.get(name(ref))) == (404, "Project avatar not found")
    assert refusal(await pictures.request_download()) == (404, "Project avatar not found")
    assert await ui.heard() == await machine.heard() == []


async def test_a_picture_of_a_session(world: World, server: Process) -> None:
    alice = await world.account()
    pictures = await Pictures.make(alice, "sessions")
    own, other = await alice.socket(session=pictures.id), await alice.socket(session="other")
    ui = await listening(pictures)
    for socket in (own, other):
        await socket.heard()

    upload = (await pictures.request()).json()
    ref = upload["ref"]
    assert ref.startswith(f"sessions/{pictures.id}/avatar/")
    assert upload == {"ref": ref, "uploadUrl": f"{server.url}/v1/{ref}", "method": "PUT"}
    assert (await pictures.put(name(ref))).json() == {"ok": True}
    assert refusal(await pictures.get(name(ref))) == (404, "Session avatar not found")

    avatar = {"ref": ref, "preview": "pv", "version": 1}
    before = (await alice.ok("GET", f"/v1/sessions/{pictures.id}"))["session"]
    await asyncio.sleep(0.002)  # times are in ms
    assert (await pictures.activate(ref)).json() == {"avatar": avatar}
    update = {"t": "update-session", "id": pictures.id, "avatar": avatar, "avatarVersion": 1}
    assert await ui.updates() == await own.updates() == [update]
    after = (await alice.ok("GET", f"/v1/sessions/{pictures.id}"))["session"]
    assert after["updatedAt"] > before["updatedAt"]
    assert after == {**before, "avatar": avatar, "avatarVersion": 1, "updatedAt": after["updatedAt"]}
    for path in ("/v1/sessions", "/v2/sessions", "/v2/sessions/active"):
        (listed,) = (await alice.ok("GET", path))["sessions"]
        assert (listed["avatar"], listed["avatarVersion"]) == (avatar, 1)
    assert (await pictures.request_download()).json() == {"ref": ref, "downloadUrl": f"{server.url}/v1/{ref}"}
    got = await pictures.get(name(ref))
    assert (got.content, got.headers["content-type"]) == (b"abc", "application/octet-stream")
    assert got.headers["cache-control"] == "private, no-store"

    assert (await pictures.remove()).json() == {"avatar": None}
    update = {"t": "update-session", "id": pictures.id, "avatar": None, "avatarVersion": 2}
    assert await ui.updates() == await own.updates() == [update]
    assert await pictures.shown() == (None, 2)
    assert (await pictures.remove()).json() == {"avatar": None}
    assert refusal(await pictures.get(name(ref))) == (404, "Session avatar not found")
    assert refusal(await pictures.request_download()) == (404, "Session avatar not found")
    assert await ui.heard() == await own.heard() == await other.heard() == []


async def test_versions_rise_with_every_change_and_never_go_back(pictures: Pictures) -> None:
    one, two = await pictures.upload(b"one"), await pictures.upload(b"two")
    ui = await listening(pictures)

    async def version(ref: str, preview: str = "pv") -> int:
        avatar: dict[str, Any] = (await pictures.activate(ref, preview)).json()["avatar"]
        assert (avatar["ref"], avatar["preview"]) == (ref, preview)
        return int(avatar["version"])

    assert [await version(one), await version(one), await version(one, "other"), await version(two)] == [1, 1, 2, 3]
    assert refusal(await pictures.get(name(one))) == (404, NO_PICTURE[pictures.kind])
    assert (await pictures.get(name(two))).content == b"two"
    assert (await pictures.remove()).json()["avatar"] is None
    assert [await version(two), await version(one)] == [5, 6]
    updates = await ui.updates()
    assert len(updates) == 6
    if pictures.kind == "sessions":
        assert [update["avatarVersion"] for update in updates] == [1, 2, 3, 4, 5, 6]
    else:
        project = await pictures.owner.ok("GET", f"/v1/projects/{pictures.id}")
        assert (project["seq"], project["metadataVersion"]) == (6, 1)


async def test_concurrent_activations_get_a_version_each(pictures: Pictures) -> None:
    ref = await pictures.upload()
    ui = await listening(pictures)
    answers = await asyncio.gather(*(pictures.activate(ref, f"p{i % 5}") for i in range(10)))
    versions = [answer.json()["avatar"]["version"] for answer in answers]
    updates = await ui.updates()
    assert sorted(set(versions)) == list(range(1, len(updates) + 1))
    same = await asyncio.gather(*(pictures.activate(ref, "same") for _ in range(10)))
    assert {answer.json()["avatar"]["version"] for answer in same} == {len(updates) + 1}
    assert len(await ui.updates()) == 1


# ----------------------------------------------------------------------------------------- activating
async def test_what_cannot_be_activated(pictures: Pictures) -> None:
    other = await Pictures.make(pictures.owner, pictures.kind)
    foreign = await other.upload()
    mine = await pictures.upload()
    ui = await listening(pictures)
    project = pictures.kind == "projects"
    for ref in (foreign, "x", f"/{mine}", f"{mine}/..", mine.replace("avatar", "attachments"), f"{mine}\n"):
        text = "Invalid project avatar ref" if project else "Invalid session avatar reference"
        assert refusal(await pictures.activate(ref)) == (400, text)
    missing = f"{pictures.kind}/{pictures.id}/avatar/{uuid.uuid4()}.enc"
    text = "Project avatar upload not found" if project else "Avatar upload not found"
    assert refusal(await pictures.activate(missing)) == (404, text)
    longest = 4 * 1024 * 1024 if project else 4096
    invalid: list[dict[str, Any]] = [
        {"ref": ""}, {"ref": "x" * 1025}, {"ref": 5}, {"preview": ""}, {"preview": "x" * (longest + 1)},
        {"preview": None},
    ]  # fmt: skip
    for body in invalid:
        answer = await pictures.owner.request("PATCH", pictures.path, {"ref": mine, "preview": "pv", **body})
        assert (answer.status_code, answer.json().keys()) == (400, SCHEMA_ERROR)
    assert await ui.heard() == []
    strict = await pictures.activate(mine, "x" * longest, unknown=1)
    assert strict.status_code == (200 if project else 400)
    assert (await pictures.activate(mine, "x" * longest)).status_code == 200


async def test_the_stored_size_is_checked(pictures: Pictures, server: Process) -> None:
    ref = await pictures.upload()
    file = server.folder / "attachments" / ref
    project = pictures.kind == "projects"
    file.write_bytes(b"x" * (SIZE_MAX + 1))
    text = "File too large (max 10MB)" if project else "Avatar image is too large or empty"
    assert refusal(await pictures.activate(ref)) == (413, text)
    file.write_bytes(b"")
    empty = await pictures.activate(ref)
    assert empty.status_code == (200 if project else 413)


# -------------------------------------------------------------------------------------------- privacy
async def test_pictures_are_inaccessible_to_others(pictures: Pictures) -> None:
    world = pictures.owner.world
    mallory = await world.account()
    ref = await pictures.activated(b"secret")
    shown, file = await pictures.shown(), name(ref)
    ui, evil = await listening(pictures), await mallory.socket()
    missing, hidden = (404, NOT_FOUND[pictures.kind]), (404, NOT_FOR_DOWNLOAD[pictures.kind])
    assert refusal(await pictures.request(by=mallory)) == missing
    assert refusal(await pictures.put(file, b"evil", by=mallory)) == missing
    assert refusal(await pictures.activate(ref, "evil", by=mallory)) == missing
    assert refusal(await pictures.remove(by=mallory)) == missing
    assert refusal(await pictures.request_download(by=mallory)) == hidden
    assert refusal(await pictures.get(file, by=mallory)) == hidden
    theirs = await Pictures.make(mallory, pictures.kind)
    assert (await theirs.activate(ref)).status_code == 400
    assert refusal(await theirs.get(file)) == (404, NO_PICTURE[pictures.kind])
    for method, path in (
        ("POST", "/request-upload"), ("PUT", f"/{file}"), ("PATCH", ""), ("DELETE", ""), ("POST", "/request-download"),
        ("GET", f"/{file}"),
    ):  # fmt: skip
        assert (await world.http.request(method, pictures.path + path)).status_code == 401
    for public in (f"/files/{ref}", f"/files/../attachments/{ref}", f"/files/attachments/{ref}"):
        assert (await world.http.get(public)).status_code == 404
    assert (await pictures.get(file)).content == b"secret"
    assert await pictures.shown() == shown
    assert [body for body in await evil.updates() if body["t"] not in ("new-project", "new-session")] == []
    assert await ui.heard() == []


# ------------------------------------------------------------------------------------------- deletion
async def test_pictures_are_deleted_with_their_owner(pictures: Pictures, server: Process) -> None:
    ref = await pictures.activated()
    await pictures.upload(b"unused")
    assert len(list(pictures.folder(server).rglob("*.enc"))) == 2
    await pictures.owner.ok("DELETE", f"/v1/{pictures.kind}/{pictures.id}")
    assert not pictures.folder(server).exists()
    assert refusal(await pictures.get(name(ref))) == (404, NOT_FOR_DOWNLOAD[pictures.kind])
    assert refusal(await pictures.request()) == (404, NOT_FOUND[pictures.kind])
    assert refusal(await pictures.put(name(ref))) == (404, NOT_FOUND[pictures.kind])
    assert not pictures.folder(server).exists()


async def test_an_upload_whose_owner_is_deleted_meanwhile_leaves_nothing(pictures: Pictures, server: Process) -> None:
    started, deleted = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"first"
        started.set()
        await deleted.wait()
        yield b"second"

    upload = asyncio.create_task(pictures.put(f"{uuid.uuid4()}.enc", slow()))
    await started.wait()
    await pictures.owner.ok("DELETE", f"/v1/{pictures.kind}/{pictures.id}")
    deleted.set()
    answer = await upload
    # 503: the folder disappeared while the file was written.
    assert refusal(answer) == (404, NOT_FOUND[pictures.kind]) or answer.status_code == 503
    assert not pictures.folder(server).exists()
