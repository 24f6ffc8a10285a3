"""Files in folders: only under well-formed keys, whole or not at all, and never outside their folder."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from happy_light.blobs import BlobExists, Blobs, BlobTooLarge, FolderBlobs, InvalidKey, keys
from happy_light.errors import ServiceUnavailable

UUID = "11111111-2222-4333-8444-555555555555"
KEYS = {
    "public/users/alice/avatars/a b.png": "files/public/users/alice/avatars/a b.png",
    f"sessions/s_1/attachments/{UUID}.enc": f"attachments/sessions/s_1/{UUID}.enc",
    f"sessions/s_1/avatar/{UUID}.enc": f"attachments/sessions/s_1/avatar/{UUID}.enc",
    f"projects/p-1/avatar/{UUID.upper()[:-1]}A.enc": f"attachments/projects/p-1/avatar/{UUID.upper()[:-1]}A.enc",
}
ATTACHMENT = f"sessions/s_1/attachments/{UUID}.enc"
BAD_KEYS = [
    "", "x", "/", "public", "public/", "public/users/alice", "public/users/alice/", "public/users//a.png",
    "public/users/../a.png", "public/users/alice/../bob/a.png", "public/users/alice/./a.png",
    "public/users/alice//a.png", "public/users/alice/a.png/", "public/users/alice/.a.png",
    "public/users/alice/.hidden/a.png", "/public/users/alice/a", "public/users/alice/a\0.png",
    "public/users/alice/a\n.png", "public/users/alice\\..\\a.png", "public/users/al ice/a.png",
    "public/users/alice/a.png\n", "public/users/älice/a.png", "public/users/alice/\ud800", "public/other/alice/a.png",
    f"public/users/{'a' * 257}/a.png", f"public/users/alice/{'a' * 256}", f"public/users/alice/{'é' * 128}",
    "public/users/alice" + "/a" * 600, "../handy-master-secret.txt", "files/public/users/alice/a.png",
    "handy-master-secret.txt", "happy-server-light.sqlite", f"sessions/s/{UUID}.enc",
    f"sessions/../attachments/{UUID}.enc", f"sessions//attachments/{UUID}.enc", f"sessions/s/attachments/{UUID}.txt",
    f"sessions/s/attachments/x{UUID}.enc", f"sessions/s/attachments/{UUID}.enc\n",
    f"sessions/s/attachments/../{UUID}.enc", "sessions/s/attachments/-----.enc",
    f"sessions/s/attachments/{'-' * 36}.enc", f"sessions/s/attachments/sub/{UUID}.enc",
    f"sessions/s/other/{UUID}.enc", f"projects/p/attachments/{UUID}.enc", f"projects/avatar/{UUID}.enc",
    f"/sessions/s/attachments/{UUID}.enc",
]  # fmt: skip


async def content(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder with a secret in it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/handy-master-secret.txt").write_text("secret")
    return tmp_path / "data"


@pytest.fixture
def blobs(data: Path) -> Blobs:
    return FolderBlobs(data / "files", data / "attachments")


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("key", KEYS)
async def test_a_stored_file_lies_where_its_key_says_and_comes_back(blobs: Blobs, data: Path, key: str) -> None:
    assert (keys.disk_path(key), keys.key_at(KEYS[key])) == (KEYS[key], key)
    assert await blobs.size(key) is None
    assert await blobs.response(key, "text/plain", {}) is None
    assert blobs.open(key) is None

    assert await blobs.put(key, content(b"one", b"", b"two"), 6) == 6

    assert tree(data) == {"handy-master-secret.txt", KEYS[key]}
    file = data / KEYS[key]
    assert file.read_bytes() == b"onetwo"
    assert file.stat().st_mode & 0o777 == 0o600
    assert all(
        folder.stat().st_mode & 0o777 == 0o700 for folder in file.parents if folder.is_relative_to(data / "files")
    )
    assert await blobs.size(key) == 6
    opened = blobs.open(key)
    assert opened is not None
    with opened:
        assert opened.read() == b"onetwo"
    assert [(blob.key, blob.size) for blob in blobs.walk()] == [(key, 6)]
    assert await blobs.upload_target(key, 0, 6) is None
    assert await blobs.download_url(key) is None
    await blobs.put(key, content(b"three"), 6)
    assert file.read_bytes() == b"three"
    with pytest.raises(BlobExists):
        await blobs.put(key, content(b"four"), 6, overwrite=False)
    assert (tree(data), file.read_bytes()) == ({"handy-master-secret.txt", KEYS[key]}, b"three")
    await blobs.delete(key)
    await blobs.delete(key)
    assert tree(data) == {"handy-master-secret.txt"}


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_key_that_is_none_can_be_used_for_nothing(blobs: Blobs, data: Path, key: str) -> None:
    assert not keys.is_key(key)
    assert keys.key_at(f"files/{key}") is None
    assert keys.key_at(f"attachments/{key}") is None or key == f"sessions/s/{UUID}.enc"
    with pytest.raises(InvalidKey):
        await blobs.put(key, content(b"x"), 1)
    with pytest.raises(InvalidKey):
        await blobs.size(key)
    with pytest.raises(InvalidKey):
        await blobs.response(key, "text/plain", {})
    with pytest.raises(InvalidKey):
        await blobs.delete(key)
    with pytest.raises(InvalidKey):
        await blobs.upload_target(key, 0, 1)
    with pytest.raises(InvalidKey):
        await blobs.download_url(key)
    with pytest.raises(InvalidKey):
        blobs.open(key)
    assert tree(data.parent) == {"data/handy-master-secret.txt"}


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "public/users/", "sessions/", "sessions/../", "sessions/s", "sessions/s/../", "public/users/alice/../",
     "sessions/s/attachments/", "projects//", "../", "public/", "sessions/s/\n", "sessions/s/\0"],
)  # fmt: skip
async def test_only_what_belongs_to_one_owner_can_be_deleted_at_once(blobs: Blobs, data: Path, prefix: str) -> None:
    for key in KEYS:
        await blobs.put(key, content(b"x"), 1)
    before = tree(data)
    with pytest.raises(InvalidKey):
        await blobs.delete_prefix(prefix)
    if prefix:
        with pytest.raises(InvalidKey):
            list(blobs.walk(prefix))
    assert tree(data) == before


async def test_everything_of_an_owner_is_listed_and_deleted(blobs: Blobs, data: Path) -> None:
    for key in [*KEYS, "public/users/alice2/a", f"sessions/s_12/attachments/{UUID}.enc"]:
        await blobs.put(key, content(b"x"), 1)
    (data / "attachments/sessions/s_1/.unfinished.part").write_bytes(b"x")
    (data / "files/public/users/alice/avatars/.unfinished.part").write_bytes(b"x")
    (data / "files/notes.txt").write_bytes(b"x")
    (data / "attachments/sessions/s_1/notes.txt").write_bytes(b"x")

    everything = {blob.key for blob in blobs.walk()}
    assert everything == {*KEYS, "public/users/alice2/a", f"sessions/s_12/attachments/{UUID}.enc"}
    for prefix in ("public/users/alice/", "sessions/s_1/", "projects/p-1/"):
        assert {blob.key for blob in blobs.walk(prefix)} == {key for key in everything if key.startswith(prefix)}
    assert [blob.key for blob in blobs.walk("sessions/s_1/avatar/")] == [f"sessions/s_1/avatar/{UUID}.enc"]
    await blobs.delete_prefix("sessions/s_1/avatar/")
    assert {blob.key for blob in blobs.walk("sessions/s_1/")} == {ATTACHMENT}
    for prefix in ("public/users/alice/", "sessions/s_1/", "projects/p-1/", "sessions/unknown/"):
        await blobs.delete_prefix(prefix)
    assert tree(data) == {
        "handy-master-secret.txt", "files/notes.txt", "files/public/users/alice2/a",
        f"attachments/sessions/s_12/{UUID}.enc",
    }  # fmt: skip


async def test_symbolic_links_lead_nowhere(blobs: Blobs, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = data.parent / "outside"
    outside.mkdir()
    for name in ("a.png", f"{UUID}.enc"):
        (outside / name).write_bytes(b"private")
    for link, target in (("files/public/users/alice", outside), ("attachments/sessions/s_1", outside),
                         ("files/public/users/bob/a.png", outside / "a.png"),
                         (f"attachments/sessions/s_2/{UUID}.enc", outside / f"{UUID}.enc")):  # fmt: skip
        (data / link).parent.mkdir(parents=True, exist_ok=True)
        (data / link).symlink_to(target)
    before = tree(data.parent)

    for key in ("public/users/alice/a.png", ATTACHMENT):  # a folder on the way is a link
        assert await blobs.size(key) is None
        assert await blobs.response(key, "text/plain", {}) is None
        with pytest.raises(OSError, match="symbolic link"):
            blobs.open(key)
        with pytest.raises(ServiceUnavailable):
            await blobs.put(key, content(b"x"), 1)
        await blobs.delete(key)
        prefix = key.rpartition("/")[0].removesuffix("attachments").rstrip("/") + "/"
        await blobs.delete_prefix(prefix)
        with pytest.raises(OSError, match="symbolic link"):
            list(blobs.walk(prefix))
    for key in ("public/users/bob/a.png", f"sessions/s_2/attachments/{UUID}.enc"):  # the file itself is one
        assert await blobs.size(key) is None
        assert await blobs.response(key, "text/plain", {}) is None
        assert blobs.open(key) is None
    assert list(blobs.walk()) == []
    assert await blobs.public_response("public/users/alice/a.png", "image/png", {}) is None
    assert tree(data.parent) == before
    for key in ("public/users/bob/a.png", f"sessions/s_2/attachments/{UUID}.enc"):
        await blobs.put(key, content(b"x"), 1)  # takes the place of the link
    assert {file.read_bytes() for file in outside.iterdir()} == {b"private"}


async def test_a_key_that_is_a_folder_is_no_file(blobs: Blobs, data: Path) -> None:
    await blobs.put("public/users/alice/avatars/a.png", content(b"x"), 1)
    folder = "public/users/alice/avatars"
    await blobs.delete(folder)
    assert await blobs.size(folder) is None
    assert blobs.open(folder) is None
    assert await blobs.response(folder, "text/plain", {}) is None
    with pytest.raises(ServiceUnavailable):
        await blobs.put("public/users/alice/avatars/a.png/b", content(b"x"), 1)
    assert "files/public/users/alice/avatars/a.png" in tree(data)


async def test_what_is_too_large_or_breaks_off_leaves_what_was_there(blobs: Blobs, data: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionError

    for expected in ({"handy-master-secret.txt"}, {"handy-master-secret.txt", KEYS[ATTACHMENT]}):
        with pytest.raises(BlobTooLarge):
            await blobs.put(ATTACHMENT, content(b"12345", b"6"), 5)
        with pytest.raises(ConnectionError):
            await blobs.put(ATTACHMENT, broken(), 5)
        task = asyncio.create_task(blobs.put(ATTACHMENT, endless(asyncio.Event()), 5))
        while not any(name.endswith(".part") for name in tree(data)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(10):  # a thread may still be creating the temporary file
            while tree(data) != expected:
                await asyncio.sleep(0.01)
        await blobs.put(ATTACHMENT, content(b"first"), 5)
    assert (data / KEYS[ATTACHMENT]).read_bytes() == b"first"


async def endless(never: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"half"
    await never.wait()


async def test_a_folder_that_is_deleted_under_an_upload_is_no_fault_of_the_disk(
    blobs: Blobs, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        shutil.rmtree(data / "attachments/sessions/s_1")
        yield b"two"

    with pytest.raises(ServiceUnavailable):
        await blobs.put(ATTACHMENT, chunks(), 100)
    assert tree(data) == {"handy-master-secret.txt"}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_named_pipe_blocks_nobody(blobs: Blobs, data: Path) -> None:
    pipe = data / KEYS[ATTACHMENT]
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    assert blobs.open(ATTACHMENT) is None
    assert await blobs.response(ATTACHMENT, "text/plain", {}) is None
    assert await blobs.size(ATTACHMENT) is None
