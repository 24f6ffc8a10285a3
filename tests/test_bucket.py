"""Files in an S3 bucket: what clients are told, what the bucket holds then, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from happy_light import config
from happy_light.blobs import BlobExists, BlobTooLarge, BucketError, FolderBlobs, InvalidKey, blobs_of
from happy_light.blobs.bucket import BucketBlobs
from happy_light.blobs.copying import copy
from happy_light.errors import OperatorError, ServiceUnavailable
from tests.s3_services import S3, Moto, Rclone
from tests.test_blobs import KEYS, UUID, content

pytest_plugins = ["tests.service_fixtures"]

SIZE_MAX = 10 * 1024 * 1024
ATTACHMENT = f"sessions/s_1/attachments/{UUID}.enc"


def environ(service: S3, **changes: str) -> dict[str, str]:
    """Return the settings of a bucket."""
    return {
        "S3_ENDPOINT": service.url, "S3_BUCKET": service.bucket, "S3_ACCESS_KEY": service.access_key,
        "S3_SECRET_KEY": service.secret_key, "S3_PUBLIC_URL": "https://files.example", **changes,
    }  # fmt: skip


def bucket_of(service: S3, folder: Path, **changes: str) -> BucketBlobs:
    settings = config.load(environ(service, **changes), {"data_dir": str(folder)}, folder / "none")
    blobs = blobs_of(settings)
    assert isinstance(blobs, BucketBlobs)
    return blobs


def objects(service: S3) -> dict[str, int]:
    """Return the keys in the bucket and their sizes."""
    found = service.client().list_objects_v2(Bucket=service.bucket).get("Contents", [])
    return {one["Key"]: one["Size"] for one in found}


@pytest.fixture
def empty(moto: Moto) -> Moto:
    """Return an S3 server whose bucket is empty."""
    for key in objects(moto):
        moto.client().delete_object(Bucket=moto.bucket, Key=key)
    return moto


@pytest.fixture
async def blobs(empty: Moto, tmp_path: Path) -> AsyncIterator[BucketBlobs]:
    blobs = bucket_of(empty, tmp_path)
    yield blobs
    await blobs.close(0)


# ---------------------------------------------------------------------------------------------- Blobs
@pytest.mark.parametrize("key", KEYS)
async def test_a_stored_file_comes_back(blobs: BucketBlobs, empty: Moto, key: str) -> None:
    assert await blobs.size(key) is None
    assert blobs.open(key) is None
    assert await blobs.put(key, content(b"one", b"", b"two"), 6) == 6
    assert objects(empty) == {key: 6}
    assert await blobs.size(key) == 6
    opened = blobs.open(key)
    assert opened is not None
    assert opened.read() == b"onetwo"
    assert [(blob.key, blob.size) for blob in blobs.walk()] == [(key, 6)]
    head = empty.client().head_object(Bucket=empty.bucket, Key=key)
    public = key.startswith("public/")
    assert head["ContentType"] == ("image/png" if public else "application/octet-stream")
    assert head["CacheControl"].startswith("public" if public else "private")
    with pytest.raises(BlobExists):
        await blobs.put(key, content(b"four"), 6, overwrite=False)
    with pytest.raises(BlobTooLarge):
        await blobs.put(key, content(b"1234", b"567"), 6)
    assert await blobs.size(key) == 6
    await blobs.delete(key)
    await blobs.close(20)
    assert objects(empty) == {}
    blobs.remove(key)


async def test_a_key_that_is_none_can_be_used_for_nothing(blobs: BucketBlobs, empty: Moto) -> None:
    key = "public/users/../../secret"
    for call in (
        lambda: blobs.put(key, content(b"x"), 1), lambda: blobs.size(key), lambda: blobs.upload_target(key, 0, 1),
        lambda: blobs.download_url(key), lambda: blobs.delete(key), lambda: blobs.delete_prefix("sessions/"),
        lambda: blobs.response(key, "", {}),
    ):  # fmt: skip
        with pytest.raises(InvalidKey):
            await call()
    for blocking in (lambda: blobs.open(key), lambda: blobs.remove(key), lambda: blobs.remove_prefix(""),
                     lambda: blobs.walk("sessions")):  # fmt: skip
        with pytest.raises(InvalidKey):
            blocking()
    assert objects(empty) == {}


async def test_everything_of_an_owner_is_listed_and_deleted(blobs: BucketBlobs, empty: Moto) -> None:
    others = {"public/users/alice2/a", f"sessions/s_12/attachments/{UUID}.enc"}
    for key in (*KEYS, *others):
        await blobs.put(key, content(b"xx"), 2)
    empty.client().put_object(Bucket=empty.bucket, Key="sessions/s_1/of somebody else", Body=b"x")
    assert {blob.key for blob in blobs.walk()} == {*KEYS, *others}
    assert sorted((found.table, found.owner, found.prefix, found.size) for found in blobs.walk_owners()) == [
        ("accounts", "alice", "public/users/alice/", 2), ("accounts", "alice2", "public/users/alice2/", 2),
        ("projects", "p-1", "projects/p-1/", 2), ("sessions", "s_1", "sessions/s_1/", 4),
        ("sessions", "s_12", "sessions/s_12/", 2),
    ]  # fmt: skip
    for prefix in ("public/users/alice/", "sessions/s_1/", "projects/p-1/", "sessions/unknown/"):
        await blobs.delete_prefix(prefix)
    await blobs.close(20)
    assert objects(empty).keys() == others


async def test_files_are_copied_into_a_bucket_and_back(blobs: BucketBlobs, empty: Moto, tmp_path: Path) -> None:
    folders = [FolderBlobs(tmp_path / f"files{i}", tmp_path / f"attachments{i}") for i in "ab"]
    many = [f"sessions/s_{i}/attachments/{UUID}.enc" for i in range(10)]
    for key in (*KEYS, *many):
        await folders[0].put(key, content(key.encode()), 1000)
    reported: list[int] = []
    copied = await copy(folders[0], blobs, lambda copied: reported.append(copied.files))
    assert (copied.files, copied.bytes) == (len({*KEYS, *many}), sum(map(len, {*KEYS, *many})))
    assert reported[-1] == copied.files
    assert objects(empty).keys() == {*KEYS, *many}
    assert await copy(blobs, folders[1]) == copied
    for key in (*KEYS, *many):
        file = folders[1].open(key)
        assert file is not None
        with file:
            assert file.read() == key.encode()


# ----------------------------------------------------------------------------- what cannot be had from moto
async def test_a_bucket_that_refuses_or_is_away_is_a_503(tmp_path: Path, rclone: Rclone) -> None:
    refused = bucket_of(rclone, tmp_path, S3_SECRET_KEY="another")
    away = bucket_of(rclone, tmp_path, S3_ENDPOINT="http://127.0.0.1:9")
    for blobs in (refused, away):
        with pytest.raises(ServiceUnavailable):
            await blobs.put(ATTACHMENT, content(b"x"), 1)
        with pytest.raises(ServiceUnavailable):
            await blobs.size(ATTACHMENT)
        with pytest.raises(ServiceUnavailable, match="happy at http://127"):
            await blobs.check()
        with pytest.raises(BucketError):
            blobs.open(ATTACHMENT)
        with pytest.raises(BucketError):
            list(blobs.walk())
        await blobs.close(0)
    there = bucket_of(rclone, tmp_path)
    await there.check()
    await there.close(0)


async def test_a_download_url_works_for_its_file_and_15_minutes_only(rclone: Rclone, tmp_path: Path) -> None:
    blobs = bucket_of(rclone, tmp_path)
    await blobs.put(ATTACHMENT, content(b"bytes"), 5)
    url = await blobs.download_url(ATTACHMENT)
    other = f"sessions/s_1/attachments/{UUID[:-1]}6.enc"
    await blobs.put(other, content(b"other"), 5)
    async with httpx.AsyncClient(trust_env=False, verify=False) as http:
        assert (await http.get(url)).content == b"bytes"
        assert (await http.get(url.replace(ATTACHMENT, other))).status_code == 403
        assert (await http.get(url.replace("Expires=900", "Expires=9000"))).status_code == 403
        assert (await http.get(url.partition("?")[0])).status_code in (400, 403)
    assert "X-Amz-Expires=900" in url
    await blobs.close(0)


async def test_deletions_wait_for_a_bucket_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("happy_light.blobs.deletions._PAUSE_FIRST", 0.01)
    monkeypatch.setattr("happy_light.blobs.deletions._PAUSE_MAX", 0.01)
    server = Rclone()
    try:
        server.start()
        blobs = bucket_of(server, tmp_path)
        await blobs.put(ATTACHMENT, content(b"x"), 1)
        server.kill()
        await blobs.delete_prefix("sessions/s_1/")
        assert blobs.deletions_waiting == 1
        server.start()
        await blobs.close(30)
        assert (blobs.deletions_waiting, objects(server)) == (0, {})
    finally:
        server.remove()


# ------------------------------------------------------------------------------------------- settings
S3_NAMES = ["S3_ENDPOINT (or S3_HOST)", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"]


def settings_of(folder: Path, **given: str) -> config.Settings:
    return config.load(given, {"data_dir": str(folder)}, folder / "none")


@pytest.mark.parametrize("missing", S3_NAMES)
def test_settings_that_are_missing_are_named(tmp_path: Path, missing: str) -> None:
    given = {"S3_HOST": "s3.example", "S3_BUCKET": "b", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    for name in missing.replace("(or ", "").replace(")", "").split():
        given.pop(name, None)
    with pytest.raises(OperatorError) as error:
        settings_of(tmp_path, **given)
    assert str(error.value) == f"{missing} is not set, but a bucket needs {', '.join(S3_NAMES)}."


def test_the_original_servers_names_name_a_bucket(tmp_path: Path) -> None:
    assert settings_of(tmp_path, S3_REGION="eu", S3_ACCESS_KEY="a", S3_SECRET_KEY="s").bucket is None
    given = {"S3_HOST": "s3.example", "S3_BUCKET": "b", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s"}
    for more, endpoint, public_url in (
        ({}, "https://s3.example", "https://s3.example/b"),
        ({"S3_PORT": "9000", "S3_USE_SSL": "false"}, "http://s3.example:9000", "http://s3.example:9000/b"),
        ({"S3_ENDPOINT": "http://other:1/", "S3_PUBLIC_URL": "https://cdn/"}, "http://other:1", "https://cdn"),
    ):
        bucket = settings_of(tmp_path, **given, **more).bucket
        assert bucket is not None
        assert (bucket.endpoint, bucket.public_url, bucket.region, bucket.name) == (
            endpoint, public_url, "us-east-1", "b",
        )  # fmt: skip
        assert (bucket.access_key, bucket.secret_key) == ("a", "s")
        assert "'s'" not in repr(bucket)
    with pytest.raises(OperatorError, match="without scheme"):
        settings_of(tmp_path, **{**given, "S3_HOST": "https://s3.example"})


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [
        name for name in sys.modules if name.startswith(("happy_light.blobs.bucket", "happy_light.blobs.s3"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "boto3", None)
    settings = settings_of(tmp_path, S3_HOST="h", S3_BUCKET="b", S3_ACCESS_KEY="a", S3_SECRET_KEY="s")
    with pytest.raises(OperatorError, match=r"pip install 'happy-server-light\[full\]'"):
        blobs_of(settings)
    assert isinstance(blobs_of(settings_of(tmp_path)), FolderBlobs)
