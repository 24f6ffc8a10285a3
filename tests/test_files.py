"""GET /files: files in the folder, and nothing outside of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Process


@pytest.fixture
def folder(server: Process, tmp_path: Path) -> Iterator[Path]:
    """Return a folder of the test's own below the public one."""
    folder = server.folder / "files" / "public" / tmp_path.name
    folder.mkdir(parents=True)
    yield folder


def get(url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, verify=False)


def url(server: Process, folder: Path) -> str:
    return f"{server.url}/files/public/{folder.name}"


def test_a_file_has_its_content_type_and_is_cacheable_for_ever(server: Process, folder: Path) -> None:
    (folder / "a b.png").write_bytes(b"\x89PNG data")
    answer = get(f"{url(server, folder)}/a%20b.png")
    assert (answer.status_code, answer.content) == (200, b"\x89PNG data")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-length"] == "9"
    assert answer.headers["accept-ranges"] == "bytes"
    for name, kind in (("x.jpg", "image/jpeg"), ("x.txt", "text/plain"), ("x", "application/octet-stream"),
                       ("x.webp", "image/webp"), ("x.tar.gz", "application/octet-stream")):  # fmt: skip
        (folder / name).write_bytes(b"")
        empty = get(f"{url(server, folder)}/{name}")
        assert (empty.status_code, empty.content) == (200, b"")
        assert empty.headers["content-type"].partition(";")[0] == kind


def test_head_and_etag(server: Process, folder: Path) -> None:
    (folder / "x.png").write_bytes(b"12345")
    full = get(f"{url(server, folder)}/x.png")
    head = httpx.head(f"{url(server, folder)}/x.png")
    assert (head.status_code, head.content) == (200, b"")
    assert dict(head.headers) | {"date": ""} == dict(full.headers) | {"date": ""}
    tag = full.headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        same = get(f"{url(server, folder)}/x.png", headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert same.headers["cache-control"] == full.headers["cache-control"]
    (folder / "x.png").write_bytes(b"123456")
    changed = get(f"{url(server, folder)}/x.png", headers={"If-None-Match": tag})
    assert (changed.status_code, changed.content) == (200, b"123456")


@pytest.mark.parametrize(
    ("asked", "status", "content", "which"),
    [
        ("bytes=0-2", 206, b"012", "bytes 0-2/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-50", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=8-500", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("bytes=x-", 200, b"0123456789", None),
    ],
)
def test_ranges(server: Process, folder: Path, asked: str, status: int, content: bytes, which: str | None) -> None:
    (folder / "x.bin").write_bytes(b"0123456789")
    answer = get(f"{url(server, folder)}/x.bin", headers={"Range": asked})
    assert (answer.status_code, answer.content, answer.headers.get("content-range")) == (status, content, which)
    tag = answer.headers["etag"]
    for condition, expected in ((tag, status), ('"other"', 200)):
        answer = get(f"{url(server, folder)}/x.bin", headers={"Range": asked, "If-Range": condition})
        assert answer.status_code == expected


def test_a_large_file_arrives_whole(server: Process, folder: Path) -> None:
    content = bytes(range(256)) * 20_000
    (folder / "x.bin").write_bytes(content)
    assert get(f"{url(server, folder)}/x.bin").content == content
    part = get(f"{url(server, folder)}/x.bin", headers={"Range": "bytes=1000000-3999999"})
    assert part.content == content[1_000_000:4_000_000]


async def raw(server: Process, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Return a request with exactly this path on the wire."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        data = await reader.read()
    writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_files_outside_the_folder_are_not_found(server: Process, folder: Path) -> None:
    (server.folder / "outside.txt").write_text("secret")
    (server.folder / "files-beside").mkdir(exist_ok=True)
    (server.folder / "files-beside" / "x.txt").write_text("secret")
    (folder / "link.txt").symlink_to(server.folder / "outside.txt")
    (folder / "up").symlink_to(server.folder)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "inside.txt").write_text("fine")
    (folder / "alias.txt").symlink_to("inside.txt")
    here = f"/files/public/{folder.name}"
    for path in (
        "/files/../outside.txt", "/files/%2e%2e/outside.txt", "/files/..%2foutside.txt", "/files/..%5coutside.txt",
        "/files/public/../../outside.txt", "/files/public%5c..%5c..%5coutside.txt", "/files/C:/x", "/files/C:",
        f"/files/{server.folder}/outside.txt", f"/files/%2f{str(server.folder)[1:]}/outside.txt",
        f"{here}/..%2f..%2f..%2foutside.txt", f"{here}/..%252f..%252f..%252foutside.txt",
        f"{here}/link.txt", f"{here}/up/outside.txt", f"{here}/loop", f"{here}/inside.txt%00", "/files/%00",
        f"{here}/inside.txt%00.png", "/files/..", "/files/%2e%2e", "/files/", here, f"{here}/", f"{here}/missing",
        "/files/../files-beside/x.txt", "/files/%2e%2e%2ffiles-beside/x.txt", f"{here}/inside.txt/x",
        f"{here}/{'x' * 300}", f"{here}/%ff", f"{here}/%ed%a0%80", f"{here}/%c0%ae%c0%ae/inside.txt",
        f"{here}/../{folder.name}/inside.txt",
    ):  # fmt: skip
        assert await raw(server, path) == (404, b'{"error":"Not found"}'), path
    assert await raw(server, f"{here}/inside.txt") == (200, b"fine")
    assert await raw(server, f"{here}/alias.txt") == (200, b"fine")
    assert await raw(server, f"{here}/./inside.txt") == (200, b"fine")
    assert await raw(server, f"{here}/inside%2etxt") == (200, b"fine")
    status, body = await raw(server, "/files")
    assert status == 404
    assert b'"path":"/files"' in body
    assert (await raw(server, f"{here}/inside.txt", "DELETE"))[0] == 404
    assert (await raw(server, "*"))[0] in (400, 404)
