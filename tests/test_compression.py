"""Compressed answers: copies of the web app's files in the data folder, the description, and JSON that is text."""

from __future__ import annotations

import asyncio
import functools
import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest

from tests.conftest import Process
from tests.webapp import ENTRY, Answer, ask, build, contents, running

COPIES = "web-app-cache"
CONTENT = contents()[ENTRY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("web") / "dist")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    yield from running(folder, tmp_path_factory.mktemp("data"))


async def until(question: Callable[[], Answer], coding: str) -> Answer:
    """Ask until the answer is in that coding."""
    async with asyncio.timeout(20):
        while (answer := await asyncio.to_thread(question)).headers.get("content-encoding") != coding:
            await asyncio.sleep(0.02)
    return answer


async def test_text_files_are_compressed_without_being_asked_to(server: Process) -> None:
    for accepted, coding, decode in (
        ("gzip, deflate", "gzip", gzip.decompress), ("gzip, deflate, br", "br", brotli.decompress),
    ):  # fmt: skip
        answer = await until(lambda accepted=accepted: ask(server, f"/{ENTRY}", accept_encoding=accepted), coding)  # type: ignore[misc]
        assert (answer.status, answer.kind, decode(answer.body)) == (200, "text/javascript", CONTENT)
        assert len(answer.body) < len(CONTENT) / 10
        assert answer.headers["vary"] == "accept-encoding"
        known = ask(server, f"/{ENTRY}", accept_encoding=accepted, if_none_match=answer.headers["etag"])
        assert (known.status, known.headers["etag"]) == (304, answer.headers["etag"])
    plain = ask(server, f"/{ENTRY}")
    assert (plain.body, plain.headers["vary"]) == (CONTENT, "accept-encoding")
    assert plain.headers["etag"] != answer.headers["etag"]
    part = ask(server, f"/{ENTRY}", accept_encoding="br", range="bytes=3-9")
    assert (part.status, part.body, part.headers.get("content-encoding")) == (206, CONTENT[3:10], None)
    head = ask(server, f"/{ENTRY}", "HEAD", accept_encoding="br")
    assert (head.body, head.headers["content-length"]) == (b"", str(len(answer.body)))
    names = {path.name.rpartition(".")[2] for path in (server.folder / COPIES).iterdir()}
    assert names == {"gz", "br"}


async def test_a_replaced_file_is_never_answered_from_an_old_copy(server: Process, folder: Path) -> None:
    def get() -> Answer:
        return ask(server, "/new.js", accept_encoding="gzip")

    (folder / "new.js").write_text("1;" * 1000)
    first = await until(get, "gzip")
    assert gzip.decompress(first.body) == b"1;" * 1000
    replacement = folder / "replacement"
    replacement.write_text("2;" * 1000)
    replacement.replace(folder / "new.js")
    second = get()
    assert (gzip.decompress(second.body) if "content-encoding" in second.headers else second.body) == b"2;" * 1000
    assert gzip.decompress((await until(get, "gzip")).body) == b"2;" * 1000


async def test_copies_of_files_that_are_gone_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    web, data = build(tmp_path / "dist"), tmp_path / "data"
    (data / COPIES).mkdir(parents=True)
    (data / COPIES / ".unfinished").touch()
    (data / COPIES / "abc-1-2-3.gz").touch()
    for process in running(web, data):
        await until(functools.partial(ask, process, f"/{ENTRY}", accept_encoding="br"), "br")
        names = {path.name for path in (data / COPIES).iterdir()}
        assert names and not names & {".unfinished", "abc-1-2-3.gz"}


async def test_without_room_for_copies_the_files_are_answered_as_they_are(tmp_path: Path) -> None:
    web, data = build(tmp_path / "dist"), tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / COPIES).touch()  # a file where the folder should be
    for process in running(web, data):
        await process.wait_for_log("the web app is served without compression")
        answer = ask(process, f"/{ENTRY}", accept_encoding="br, gzip")
        assert (answer.body, answer.headers.get("content-encoding")) == (CONTENT, None)
        shutil.rmtree(web / "_expo")


def test_the_index_page_is_compressed_with_its_configuration(tmp_path: Path) -> None:
    web = build(tmp_path / "dist")
    (web / "index.html").write_text(f"<html><head></head><body>{'text ' * 1000}</body></html>")
    for process in running(web, tmp_path / "data"):
        for path in ("/", "/session/x"):
            answer = ask(process, path, accept="text/html", accept_encoding="gzip")
            assert b"__HAPPY_CONFIG__" in gzip.decompress(answer.body)
            assert "accept-encoding" in answer.headers["vary"]
            known = ask(process, path, accept="text/html", accept_encoding="gzip", if_none_match=answer.headers["etag"])
            assert known.status == 304
            plain = ask(process, path, accept="text/html")
            assert plain.body == gzip.decompress(answer.body) and plain.headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_description_is_compressed_and_revalidated(server: Process, path: str) -> None:
    plain, packed = ask(server, path), ask(server, path, accept_encoding="gzip, br")
    assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 4
    assert plain.headers["etag"] != packed.headers["etag"]
    for answer, accepted in ((plain, ""), (packed, "gzip")):
        assert answer.headers["vary"] == "accept-encoding"
        known = ask(server, path, accept_encoding=accepted, if_none_match=answer.headers["etag"])
        assert (known.status, known.body) == (304, b"")
        assert ask(server, path, accept_encoding=accepted, if_none_match='"other"').status == 200
