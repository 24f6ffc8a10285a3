"""What the HTTP edge takes for a request, over real sockets: what smuggles, what is too long, what is no HTTP.

tests/test_http_exchanges.py has what a connection does beside; tests/test_http_parser_h11.py compares with h11.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import httptools
import pytest

from happy_light.stack import http1, httptools_connection, httptools_parser, hypercorn_protocol
from tests.http_edge import Edge

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
HEAD_MAX = hypercorn_protocol.HEAD_MAX


@pytest.fixture
async def edge(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Edge]:
    """Return an edge, and check that it logged no warning, whatever was sent to it."""
    async with Edge() as edge:
        yield edge
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_httptools_parses() -> None:
    assert http1.events is httptools_connection


# ---------------------------------------------------------------------------------------- refused heads
HEADS = {
    "length and coding": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two equal lengths": (POST + b"Content-Length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
    "list of lengths": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "length with a plus": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "length with a minus": (POST + b"Content-Length: -3\r\n\r\nabc", 400),
    "length with a space": (POST + b"Content-Length: 3 3\r\n\r\nabc", 400),
    "length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n0123456789", 400),
    "length in hexadecimal": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "length in other digits": (POST + b"Content-Length: \xb2\r\n\r\nab", 400),
    "length of nothing": (POST + b"Content-Length:\r\n\r\n", 400),
    "length without end": (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "length with leading zeros": (POST + b"Content-Length: " + b"0" * 20 + b"3\r\n\r\nabc", 400),
    "length of 64 bits": (POST + b"Content-Length: 18446744073709551617\r\n\r\nx", 400),
    "folded header": (GET + b"A: b\r\n c\r\n\r\n", 400),
    "folded length": (POST + b"Content-Length:\r\n 3\r\n\r\nabc", 400),
    "folded first header": (b"GET /echo HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "bare LF behind the request line": (b"GET /echo HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare LF behind a header": (GET + b"A: b\nC: d\r\n\r\n", 400),
    "bare LFs everywhere": (b"GET /echo HTTP/1.1\nHost: x\n\n", 400),
    "bare LF at the end": (GET + b"\n", 400),
    "bare CR in a value": (GET + b"A: b\rC: d\r\n\r\n", 400),
    "bare CR behind a name": (GET + b"A\r: b\r\n\r\n", 400),
    "CR at the end": (GET + b"\rX\r\n\r\n", 400),
    "CR before CRLF": (GET + b"A: b\r\r\n\r\n", 400),
    "NUL in a value": (GET + b"A: b\0c\r\n\r\n", 400),
    "NUL in a name": (GET + b"A\0: b\r\n\r\n", 400),
    "NUL in the target": (b"GET /ec\0ho HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space before the colon": (GET + b"A : b\r\n\r\n", 400),
    "tab before the colon": (GET + b"A\t: b\r\n\r\n", 400),
    "space before a name": (b"GET /echo HTTP/1.1\r\nHost: x\r\n A: b\r\n\r\n", 400),
    "space within a name": (GET + b"A B: c\r\n\r\n", 400),
    "empty name": (GET + b": b\r\n\r\n", 400),
    "no colon": (GET + b"A\r\n\r\n", 400),
    "bracket in a name": (GET + b"A(: b\r\n\r\n", 400),
    "name beyond ASCII": (GET + b"A\xe9: b\r\n\r\n", 400),
    "no Host": (b"GET /echo HTTP/1.1\r\nA: b\r\n\r\n", 400),
    "no header": (b"GET /echo HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: y\r\n\r\n", 400),
    "two equal Hosts": (GET + b"HOST: x\r\n\r\n", 400),
    "coding that is unknown": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "coding before chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding behind chunked": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked with a parameter": (POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 501),
    "chunked in quotes": (POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "chunked misspelt": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunked behind a vertical tab": (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "empty coding": (POST + b"Transfer-Encoding:\r\n\r\n", 501),
    "chunked in HTTP/1.0": (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "method that is no token": (b"G(T /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "empty method": (b" /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "no version": (b"GET /echo\r\nHost: x\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /echo\r\n\r\n", 400),
    "two spaces": (b"GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tabs for spaces": (b"GET\t/echo\tHTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space within the target": (b"GET /e cho HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space behind the version": (b"GET /echo HTTP/1.1 \r\nHost: x\r\n\r\n", 400),
    "version in lower case": (b"GET /echo http/1.1\r\nHost: x\r\n\r\n", 400),
    "version of two digits": (b"GET /echo HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "version without a dot": (b"GET /echo HTTP/1\r\nHost: x\r\n\r\n", 400),
    "another protocol": (b"GET /echo ICY/1.1\r\nHost: x\r\n\r\n", 400),
    "target beyond ASCII": ("GET /\u00fc HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
    "HTTP/1.2": (b"GET /echo HTTP/1.2\r\nHost: x\r\n\r\n", 505),
    "HTTP/0.1": (b"GET /echo HTTP/0.1\r\nHost: x\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "empty line in front": (b"\r\n" + GET + b"\r\n", 400),
    "nothing but empty lines": (b"\r\n" * 1_000, 400),
    "too many headers": (GET + b"A: b\r\n" * httptools_parser.HEADERS_MAX + b"\r\n", 431),
    "head too long": (GET + b"A: " + b"b" * HEAD_MAX + b"\r\n\r\n", 431),
    "line too long": (b"GET /" + b"a" * HEAD_MAX, 431),
    "name too long": (GET + b"a" * HEAD_MAX, 431),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "status"), HEADS.values(), ids=HEADS.keys())
async def test_a_head_that_could_be_understood_in_two_ways_is_refused(edge: Edge, request_: bytes, status: int) -> None:
    assert await edge.refused(request_) == status
    assert edge.app.heads == []


@pytest.mark.parametrize("control", [*range(9), *range(11, 13), *range(14, 32), 127])
async def test_control_characters_are_refused(edge: Edge, control: int) -> None:
    for place in (b"A: b%cc\r\n", b"A: %c\r\n", b"A%c: b\r\n"):
        assert await edge.refused(GET + place % control + b"\r\n") == 400
    assert await edge.refused(b"GET /%c HTTP/1.1\r\nHost: x\r\n\r\n" % control) == 400
    assert edge.app.heads == []


@pytest.mark.parametrize("headers", [b"A: b\r\n c\r\n", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"])
async def test_what_a_lenient_llhttp_lets_through_is_refused(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, headers: bytes
) -> None:
    """Folded headers and two framings do not depend on the next version of the library."""

    def lenient(protocol: object) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(protocol)
        parser.set_dangerous_leniencies(lenient_headers=True, lenient_chunked_length=True)
        return parser

    monkeypatch.setattr(httptools_parser, "HttpRequestParser", lenient)
    assert await edge.refused(POST + headers + b"\r\n0\r\n\r\n") == 400
    assert edge.app.heads == []


async def test_what_is_refused_stops_what_is_behind_it(edge: Edge) -> None:
    """The request in the body of one that was refused is never looked at."""
    inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
    for headers in (
        b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 0\r\nContent-Length: 9\r\n",
    ):
        assert await edge.refused(GET + headers + b"\r\n" + inner) == 400
    assert edge.app.heads == []


async def test_a_request_behind_one_that_was_answered_is_refused_too(edge: Edge) -> None:
    async with await edge.open() as connection:
        await connection.send(GET + b"\r\n" + GET + b"A : b\r\n\r\n" + GET + b"\r\n")
        assert [(await connection.answer()).status, (await connection.answer()).status] == [200, 400]
        assert await connection.ended()
    assert len(edge.app.heads) == 1


# --------------------------------------------------------------------------------------- refused bodies
CHUNKS = {
    "size with a plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "size with a minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "size with 0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "size with a space in front": b" 3\r\nabc\r\n0\r\n\r\n",
    "size with a space behind": b"3 \r\nabc\r\n0\r\n\r\n",
    "size with a tab behind": b"3\t\r\nabc\r\n0\r\n\r\n",
    "size with an underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "size that is none": b"xyz\r\nabc\r\n0\r\n\r\n",
    "size over 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "size without end": b"f" * 100_000,
    "zeros without end": b"0" * 200_000,
    "extension with a bare LF": b"3;a=b\nc\r\nabc\r\n0\r\n\r\n",
    "extension with NUL": b"3;a\0\r\nabc\r\n0\r\n\r\n",
    "extension with a space in front": b"3 ;a\r\nabc\r\n0\r\n\r\n",
    "extension with a bare CR": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "leading zeros": b"0" * 16 + b"3\r\nabc\r\n0\r\n\r\n",
    "extension without end": b"3;a=" + b"b" * 200_000,
    "bare LF behind the size": b"3\nabc\r\n0\r\n\r\n",
    "bare CR behind the size": b"3\rabc\r\n0\r\n\r\n",
    "bare LF behind the data": b"3\r\nabc\n0\r\n\r\n",
    "nothing behind the data": b"3\r\nabc0\r\n\r\n",
    "other bytes behind the data": b"3\r\nabcXX0\r\n\r\n",
    "more data than the size": b"3\r\nabcd\r\n0\r\n\r\n",
    "bare LF behind the last chunk": b"3\r\nabc\r\n0\n\r\n",
    "bare LF for the end": b"3\r\nabc\r\n0\r\n\n",
    "trailer with a space before the colon": b"0\r\nA : b\r\n\r\n",
    "trailer folded": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer with a length": b"0\r\nContent-Length: 3\r\n\r\n",
    "trailer with a coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailers without end": b"3\r\nabc\r\n0\r\n" + b"A: b\r\n" * 30_000,
    "trailer too long": b"0\r\nA: " + b"b" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS.keys())
async def test_a_chunked_body_that_could_be_understood_in_two_ways_is_refused(edge: Edge, body: bytes) -> None:
    assert await edge.refused(CHUNKED, body) in (400, 431, 501)
    assert edge.app.bodies == []


# ------------------------------------------------------------------------------------------ what works
CHUNKED_BODIES = {
    b"0\r\n\r\n": b"",
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"003\r\nabc\r\nA\r\n0123456789\r\n00\r\n\r\n": b"abc0123456789",
    b"a\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n": b"\r\n" * 5,
    b"7\r\n0\r\n\r\n0\r\r\n0\r\n\r\n": b"0\r\n\r\n0\r",
    b'3;a; b=c;d="e f"\r\nabc\r\n0;\r\n\r\n': b"abc",
    b"3\r\nabc\r\n0\r\nA: b\r\nC:\r\n\r\n": b"abc",
}


@pytest.mark.parametrize(("chunks", "body"), CHUNKED_BODIES.items())
async def test_chunked_bodies_cut_at_every_byte(edge: Edge, chunks: bytes, body: bytes) -> None:
    """Each followed by a request that must begin where the body ends."""
    for cut in range(len(chunks) + 1):
        async with await edge.open() as connection:
            await connection.send(CHUNKED + chunks[:cut])
            await connection.send(chunks[cut:] + b"GET /behind HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await connection.answer()).json()["body"].encode("latin-1") == body
            assert (await connection.answer()).json()["path"] == "/behind"
    assert set(edge.app.bodies) == {body, b""}


async def test_a_request_that_comes_byte_by_byte(edge: Edge) -> None:
    async with await edge.open() as connection:
        connection.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in POST + b"Content-Length: 3\r\nA: b\r\n\r\nabc" + CHUNKED + b"2\r\nde\r\n0\r\n\r\n":
            await connection.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await connection.answer()).json()["body"] == "abc"
        assert (await connection.answer()).json()["body"] == "de"


async def test_heads_arrive_as_they_were_sent(edge: Edge) -> None:
    headers = b"HOST: y\r\nX-Empty:\r\nX-Space:  a b \t\r\nX-Tab:\ta\tb\r\nX-Odd!#$%&'*+-.^_`|~: \xe9\r\n" \
              b"cookie: a\r\nCookie: b\r\ncookie: a\r\n"  # fmt: skip
    answer = (await edge.asked(b"GET /a%2Fb;c?d=%20&e HTTP/1.1\r\n" + headers + b"\r\n")).json()
    assert (answer["method"], answer["path"], answer["version"]) == ("GET", "/a%2Fb;c", "1.1")
    assert answer["headers"] == [
        ["host", "y"], ["x-empty", ""], ["x-space", "a b"], ["x-tab", "a\tb"], ["x-odd!#$%&'*+-.^_`|~", "\xe9"],
        ["cookie", "a"], ["cookie", "b"], ["cookie", "a"],
    ]  # fmt: skip
    assert (await edge.asked(GET + b"A: b \t \r\n\r\n")).json()["headers"] == [["host", "x"], ["a", "b"]]
    many = b"".join(b"A%d: b\r\n" % number for number in range(httptools_parser.HEADERS_MAX - 1))
    assert len((await edge.asked(GET + many + b"\r\n")).json()["headers"]) == httptools_parser.HEADERS_MAX
    long = GET + b"A: " + b"b" * (HEAD_MAX - len(GET) - 7) + b"\r\n\r\n"
    assert len(long) == HEAD_MAX
    assert (await edge.asked(long)).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO", "M-SEARCH", "get", "CONNECT"])
async def test_any_method_is_the_applications_business(edge: Edge, method: str) -> None:
    if method != "CONNECT":  # to which a 200 means a tunnel, which there is none
        assert (await edge.asked(f"{method} /echo HTTP/1.1\r\nHost: x\r\n\r\n".encode())).status == 200
    assert (await edge.asked(f"{method} /304 HTTP/1.1\r\nHost: x\r\n\r\n".encode())).status == 304


@pytest.mark.parametrize("target", ["http://x/echo", "https://other:99/echo?y", "/", "*", "//", '/\\^`{|}"<>'])
async def test_targets_of_every_form(edge: Edge, target: str) -> None:
    assert (await edge.asked(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).json()["method"] == "GET"
