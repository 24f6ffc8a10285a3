"""A server with an S3 bucket, as clients see it: forms to upload with, URLs to download from, objects that go."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from happy_light import config
from happy_light.admin import doctor_bucket, leftovers, prune
from happy_light.admin.progress import ignore_progress
from happy_light.blobs import FolderBlobs
from happy_light.server import Server
from tests.client import World
from tests.commands import ok, run
from tests.conftest import Process
from tests.pictures import KINDS, Pictures, name
from tests.s3_services import Moto, Rclone
from tests.test_blobs import UUID, content
from tests.test_bucket import SIZE_MAX, empty, environ, objects

pytestmark = pytest.mark.slow  # starts two S3 servers

__all__ = ["empty"]

pytest_plugins = ["tests.service_fixtures"]

NO_UPLOAD = {"projects": "Direct upload not available in S3 mode", "sessions": "Direct upload is unavailable"}
NO_DOWNLOAD = {"projects": "Direct download not available in S3 mode", "sessions": "Direct download is unavailable"}

CLOCKS = ("auth", "signers")  # where botocore asks for the time of a form


@pytest.fixture(scope="module")
def stored(moto: Moto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """Run a server whose files are in moto's bucket."""
    process = Process(tmp_path_factory.mktemp("stored"), **environ(moto))
    yield process
    assert process.stop() == 0
    assert "Traceback" not in "".join(process.log)
    assert moto.secret_key not in "".join(process.log)


@pytest.fixture
async def world(stored: Process, empty: Moto) -> AsyncIterator[World]:
    async with World(stored.url) as world:
        yield world


def flags(moto: Moto) -> dict[str, str]:
    """Return the settings of moto's bucket by their names."""
    return {name.lower(): value for name, value in environ(moto).items()}


async def send(upload: dict[str, Any], content: bytes) -> int:
    """Upload as clients do: the fields of the form, then the file."""
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.post(upload["uploadUrl"], data=upload["formFields"], files={"file": content})
        return answer.status_code


async def load(url: str) -> bytes:
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        return (await http.get(url)).content


async def until_gone(moto: Moto) -> None:
    async with asyncio.timeout(20):
        while await asyncio.to_thread(objects, moto):
            await asyncio.sleep(0.02)


def signed(moto: Moto, date: str, policy: str) -> str:
    """Return the signature of a policy, as AWS describes it in "Browser-Based Uploads Using POST"."""
    key = f"AWS4{moto.secret_key}".encode()
    for part in (date, "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return hmac.new(key, policy.encode(), hashlib.sha256).hexdigest()


def check_form(moto: Moto, upload: dict[str, Any], size_min: int) -> None:
    """Compare the form with what boto3 makes for the same clock, and its policy with what is wanted."""
    assert upload["method"] == "POST"
    assert upload["uploadUrl"] == f"{moto.url}/{moto.bucket}"
    fields = upload["formFields"]
    moment = datetime.strptime(fields["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
    policy = json.loads(base64.b64decode(fields["policy"]))
    end = datetime.strptime(policy["expiration"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(end - moment - timedelta(minutes=15)) <= timedelta(seconds=2)  # boto3 looks at the clock twice
    credential = f"{moto.access_key}/{moment:%Y%m%d}/us-east-1/s3/aws4_request"
    assert sorted(policy["conditions"], key=str) == sorted([
        {"bucket": moto.bucket}, {"key": upload["ref"]}, ["content-length-range", size_min, SIZE_MAX],
        {"x-amz-algorithm": "AWS4-HMAC-SHA256"}, {"x-amz-credential": credential},
        {"x-amz-date": fields["x-amz-date"]},
    ], key=str)  # fmt: skip
    assert fields["x-amz-signature"] == signed(moto, f"{moment:%Y%m%d}", fields["policy"])
    clocks = [mock.patch(f"botocore.{module}.get_current_datetime", lambda *_, **__: moment) for module in CLOCKS]
    with clocks[0], clocks[1]:
        made = moto.client().generate_presigned_post(
            moto.bucket, upload["ref"], Conditions=[["content-length-range", size_min, SIZE_MAX]], ExpiresIn=900
        )
    assert fields == made["fields"]


async def test_an_attachment_is_uploaded_with_a_form_and_downloaded_from_a_url(world: World, empty: Moto) -> None:
    alice, bob = await world.account(), await world.account()
    session = (await alice.session())["id"]
    base = f"/v1/sessions/{session}/attachments"
    upload = await alice.ok("POST", f"{base}/request-upload", {"filename": "a", "size": 5})
    assert upload.keys() == {"ref", "uploadUrl", "method", "formFields"}
    check_form(empty, upload, 0)
    assert await send(upload, b"bytes") == 204
    assert objects(empty) == {upload["ref"]: 5}

    url = f"/v1/{upload['ref']}"
    put = await alice.request("PUT", url, content=b"x", headers={"content-type": "application/octet-stream"})
    assert (put.status_code, put.json()) == (404, {"error": "Direct upload not available in S3 mode"})
    download = await alice.ok("POST", f"{base}/request-download", {"ref": upload["ref"]})
    assert "X-Amz-Expires=900" in download["downloadUrl"]
    got = await alice.request("GET", url, follow_redirects=False)
    assert (got.status_code, got.content) == (302, b"")
    assert got.headers["location"].partition("?")[0] == f"{empty.url}/{empty.bucket}/{upload['ref']}"
    assert "public" not in got.headers["cache-control"]
    for location in (download["downloadUrl"], got.headers["location"]):
        assert await load(location) == b"bytes"

    for path, body in (("request-upload", {"filename": "a", "size": 1}), ("request-download", {"ref": upload["ref"]})):
        refused = await bob.post(f"{base}/{path}", body)
        assert (refused.status_code, refused.json()) == (404, {"error": "Session not found"})
    assert (await bob.request("GET", url, follow_redirects=False)).status_code == 404
    for unknown in ("a.png", f"{'-' * 36}.enc"):
        assert (await alice.get(f"{base}/{unknown}")).json() == {"error": "Attachment not found"}
    large = await alice.post(f"{base}/request-upload", {"filename": "a", "size": SIZE_MAX + 1})
    assert (large.status_code, large.json()) == (413, {"error": "File too large (max 10MB)"})

    assert (await alice.delete(f"/v1/sessions/{session}")).status_code == 200
    await until_gone(empty)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_picture_is_activated_when_the_bucket_has_it(world: World, empty: Moto, kind: str) -> None:
    pictures = await Pictures.make(await world.account(), kind)
    upload = (await pictures.request()).json()
    check_form(empty, upload, 1 if kind == "sessions" else 0)
    assert (await pictures.activate(upload["ref"])).status_code == 404
    assert await send(upload, b"picture") == 204
    assert (await pictures.activate(upload["ref"])).status_code == 200
    file = name(upload["ref"])
    refused = [await pictures.put(file), await pictures.get(file)]
    assert [answer.status_code for answer in refused] == [404, 404]
    assert [answer.json()["error"] for answer in refused] == [NO_UPLOAD[kind], NO_DOWNLOAD[kind]]
    download = (await pictures.request_download()).json()
    assert download["ref"] == upload["ref"]
    assert await load(download["downloadUrl"]) == b"picture"
    assert (await pictures.owner.delete(f"/v1/{kind}/{pictures.id}")).status_code == 200
    await until_gone(empty)


async def test_public_files_are_not_served_here(world: World, empty: Moto) -> None:
    key = "public/users/alice/avatars/a.png"
    empty.client().put_object(Bucket=empty.bucket, Key=key, Body=b"x")
    answer = await world.http.get(f"/files/{key}")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not found"})


# ------------------------------------------------------------------------------------------- operation
async def commands(stored: Process, moto: Moto, *arguments: str) -> Any:
    return await ok(stored.folder, *arguments, **environ(moto))


async def test_deleting_an_account_deletes_its_objects_and_commands_count_them(
    stored: Process, world: World, empty: Moto
) -> None:
    alice, bob = await world.account(), await world.account()
    kept = (await bob.session())["id"]
    for account, id in ((alice, (await alice.session())["id"]), (bob, kept)):
        body = {"filename": "a", "size": 5}
        upload = await account.ok("POST", f"/v1/sessions/{id}/attachments/request-upload", body)
        assert await send(upload, b"bytes") == 204
    client = empty.client()
    client.put_object(Bucket=empty.bucket, Key=f"public/users/{alice.id}/avatars/a.png", Body=b"123")

    accounts = {account["id"]: account for account in await commands(stored, empty, "accounts", "list")}
    assert (accounts[alice.id]["fileBytes"], accounts[bob.id]["fileBytes"]) == (8, 5)
    sizes = (await commands(stored, empty, "stats"))["bytes"]
    assert (sizes["files"], sizes["attachments"]) == (3, 10)
    deleted = await commands(stored, empty, "accounts", "delete", alice.id, "--yes")
    assert deleted["bytes"] == 8
    async with asyncio.timeout(20):
        while len(left := await asyncio.to_thread(objects, empty)) > 1:
            await asyncio.sleep(0.02)
    assert [key.partition("/attachments/")[0] for key in left] == [f"sessions/{kept}"]


async def test_prune_deletes_what_nothing_refers_to(
    inside: Callable[..., Awaitable[Server]], empty: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await inside(**flags(empty))
    async with World(server.url) as world:
        pictures = await Pictures.make(await world.account(), "sessions")
        refs = []
        for _ in range(2):
            upload = (await pictures.request()).json()
            assert await send(upload, b"picture") == 204
            refs.append(upload["ref"])
        assert (await pictures.activate(refs[1])).status_code == 200
        gone = f"sessions/gone/attachments/{UUID}.enc"
        empty.client().put_object(Bucket=empty.bucket, Key=gone, Body=b"12345")

        async def run(dry_run: bool) -> tuple[int, int, int]:
            pruned = await prune.prune(server.context, prune.PruneRequest(dry_run=dry_run), ignore_progress)
            return pruned.orphaned_folders, pruned.unused_pictures, pruned.file_bytes

        assert await run(False) == (0, 0, 0)  # nothing is old enough
        monkeypatch.setattr(leftovers, "UNOWNED_AGE", -60.0)
        monkeypatch.setattr(leftovers, "UNUSED_AGE", -60.0)
        assert await run(True) == (1, 1, 12)
        assert objects(empty).keys() == {*refs, gone}
        assert await run(False) == (1, 1, 12)
        assert objects(empty).keys() == {refs[1]}


async def test_a_server_works_without_its_bucket_and_health_says_so(
    inside: Callable[..., Awaitable[Server]], moto: Moto
) -> None:
    server = await inside(**{**flags(moto), "s3_endpoint": "http://127.0.0.1:9"})
    async with World(server.url) as world:
        alice = await world.account()
        health = await world.http.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["missing"]) == (200, "ok", ["bucket"])
        session = (await alice.session())["id"]
        pictures = Pictures(alice, "sessions", session)
        upload = (await pictures.request()).json()
        assert (await pictures.activate(upload["ref"])).status_code == 503
        assert (await alice.delete(f"/v1/sessions/{session}")).status_code == 200


async def test_doctor_finds_what_is_wrong_with_a_bucket(moto: Moto, rclone: Rclone) -> None:
    """Moto lets everybody list its buckets and checks no size; rclone lets nobody read, and takes no forms."""
    levels = {}
    resource = f"arn:aws:s3:::{moto.bucket}/public/*"
    public = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": resource}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [public]})
    moto.client().put_bucket_policy(Bucket=moto.bucket, Policy=policy)
    for service in (moto, rclone):
        bucket = config.load(environ(service, S3_PUBLIC_URL=f"{service.url}/{service.bucket}"), {}).bucket
        assert bucket is not None
        levels[service.name] = {finding.name: finding.level for finding in doctor_bucket.check(bucket)}
    assert levels["moto"] == {
        "bucket": "ok", "bucket privacy": "problem", "bucket downloads": "ok", "bucket avatars": "ok",
        "bucket uploads": "warning", "bucket origins": "ok",
    }  # fmt: skip
    assert levels["rclone"] == {
        "bucket": "ok", "bucket privacy": "ok", "bucket downloads": "ok", "bucket avatars": "problem",
        "bucket uploads": "problem", "bucket origins": "warning",
    }  # fmt: skip
    assert "doctor" not in str([*objects(moto), *objects(rclone)])


async def test_backup_says_what_is_not_in_it(stored: Process, moto: Moto, tmp_path: Path) -> None:
    result = await run(stored.folder, "backup", str(tmp_path / "archive"), **environ(moto))
    assert result.status == 0
    assert f"The files in the bucket happy at {moto.url} are not in it" in result.out


async def test_an_export_while_the_bucket_is_away_is_refused(
    stored: Process, world: World, moto: Moto, tmp_path: Path
) -> None:
    alice = await world.account()
    session = (await alice.session())["id"]
    upload = await alice.ok("POST", f"/v1/sessions/{session}/attachments/request-upload", {"filename": "a", "size": 3})
    assert await send(upload, b"abc") == 204
    file = tmp_path / "alice.jsonl"
    away = environ(moto, S3_ENDPOINT="http://127.0.0.1:9")
    result = await run(stored.folder, "export", alice.id, str(file), **away)
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "The bucket" in result.err and "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


async def test_doctor_of_a_bucket_that_is_away_is_a_finding(stored: Process, moto: Moto) -> None:
    away = environ(moto, S3_ENDPOINT="http://127.0.0.1:9", HAPPY_SERVER_LIGHT_PUSH="false")
    result = await run(stored.folder, "doctor", "--json", "--port", stored.url.rpartition(":")[2], **away)
    assert result.status == 1
    (finding,) = [finding for finding in result.json if finding["level"] != "ok"]
    assert finding["name"] == "bucket"
    assert "cannot be reached" in finding["text"]


async def test_files_are_uploaded_and_downloaded_by_a_command(tmp_path: Path, empty: Moto) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    key = f"sessions/s/avatar/{UUID}.enc"
    await FolderBlobs(there / "files", there / "attachments").put(key, content(b"bytes"), 5)
    assert await ok(there, "files", "upload", **environ(empty)) == {"files": 1, "bytes": 5}
    assert objects(empty) == {key: 5}
    assert await ok(back, "files", "download", **environ(empty)) == {"files": 1, "bytes": 5}
    assert (back / "attachments" / key).read_bytes() == b"bytes"
    away = await run(there, "files", "upload", **environ(empty, S3_ENDPOINT="http://127.0.0.1:9"))
    assert (away.status, "run the command again" in away.err) == (2, True)
    unset = await run(there, "files", "upload")
    assert (unset.status, "No bucket is set" in unset.err) == (2, True)
