"""The parts of an HTTP/1.1 request: its head, and a chunked body.

Headers and trailers are split by httptools (llhttp, a parser in C), strictly since its version 0.6.4. The request
line is read here, because llhttp knows only a fixed list of methods, and so are chunks, because it does not say
where a body ends and the next request begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import h11
from h11 import RemoteProtocolError
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

Header = tuple[bytes, bytes]

HEADERS_MAX: Final = 100  # headers of one request
_REQUEST_LINE = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n")
_TRAILERS_MAX: Final = 8 * 1024  # bytes
_CHUNK_LINE_MAX: Final = 256  # bytes of a chunk's size with its extensions
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]{0,230})?\r\n")
_CRLF: Final = b"\r\n"
BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class Request(h11.Request):
    """The head of a request. `headers`: (lower-case name, value), in their order."""

    __slots__ = ()
    __setattr__ = object.__setattr__  # h11's own is frozen

    def __init__(self, method: bytes, target: bytes, headers: Any, http_version: bytes) -> None:
        self.method = method  # type: ignore[misc]
        self.target = target  # type: ignore[misc]
        self.headers = headers  # type: ignore[misc]
        self.http_version = http_version  # type: ignore[misc]


class _OnHeader:
    """What a parser calls. As the parser keeps it, it must not lead back to the parser."""

    __slots__ = ("on_header",)

    def __init__(self, on_header: Callable[[bytes, bytes], None]) -> None:
        self.on_header = on_header


def parse_head(head: bytes) -> Request:
    """Return the request of a whole head, its empty line included. Raises RemoteProtocolError."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise RemoteProtocolError("illegal request line")
    method, target, version = line.groups()
    if version != b"1.1" and version != b"1.0":
        raise RemoteProtocolError("unknown version of HTTP", error_status_hint=505)
    count = head.count(b"\n") - 2
    if count > HEADERS_MAX:
        raise RemoteProtocolError("too many headers", error_status_hint=431)
    fields = memoryview(head)[line.end() :]
    # A callback in C costs a third of one in Python. A dict drops headers that are there twice, which the number
    # of lines shows, as it would show two lines taken for one header.
    unique: dict[bytes, bytes] = {}
    _parse_fields(fields, unique.__setitem__)
    if len(unique) == count:
        headers = [(name.lower(), value.rstrip(b" \t")) for name, value in unique.items()]
    else:
        headers = []
        _parse_fields(fields, lambda name, value: headers.append((name.lower(), value.rstrip(b" \t"))))
        if len(headers) != count:
            raise RemoteProtocolError("illegal header")
    return Request(method, target, headers, version)


def _parse_fields(
    fields: memoryview | bytes, on_header: Callable[[bytes, bytes], None], before: bytes = b"GET / HTTP/1.1\r\n"
) -> None:
    """Headers or trailers, with their empty line; `before` brings llhttp there. Raises RemoteProtocolError."""
    parser = HttpRequestParser(_OnHeader(on_header))
    try:
        parser.feed_data(before)
        parser.feed_data(fields)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        text = str(error)
        # A coding that is not chunked is 501, as with h11; one beside a Content-Length is an error of the client.
        hint = 501 if "Transfer-Encoding" in text and "Content-Length" not in text else 400
        raise RemoteProtocolError(f"illegal header: {text}", error_status_hint=hint) from None


def by_name(headers: Sequence[Header]) -> dict[bytes, bytes]:
    """Headers by name; those that are there twice as one list (RFC 9110, 5.2). Raises RemoteProtocolError."""
    fields = dict(headers)
    if len(fields) < len(headers):
        fields = {}
        for name, value in headers:
            if name not in fields:
                fields[name] = value
            elif name == b"host":
                raise RemoteProtocolError("more than one Host")
            else:
                fields[name] += b"," + value
    return fields


class ChunkedBody:
    """The decoder of one chunked body (RFC 9112, 7.1). It keeps no bytes: what it did not read is given again."""

    __slots__ = ("_left", "_trailers", "finished")

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk that are still to come, with its CRLF
        self._trailers = False  # whether the last chunk was read
        self.finished = False
        """Whether the trailers were read, too."""

    def read(self, data: bytes) -> tuple[bytes, int]:
        """Decode. -> what is of the body, and how many bytes of `data` were read. Raises RemoteProtocolError."""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self._trailers:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
            elif self._left:
                if not _CRLF.startswith(data[at : at + 2]):
                    raise RemoteProtocolError("a chunk is longer than its size")
                if size - at < 2:
                    break
                at += 2
                self._left = 0
            else:
                line = _CHUNK_SIZE.match(data, at)
                if line is None:
                    if size - at > _CHUNK_LINE_MAX or data.find(b"\n", at) >= 0:
                        raise RemoteProtocolError("illegal chunk size")
                    break
                at = line.end()
                length = int(line[1], 16)
                self._left = length + 2 if length else 0
                self._trailers = not length
        if self._trailers:
            at += self._read_trailers(data, at)
        return b"".join(pieces), at

    def _read_trailers(self, data: bytes, start: int) -> int:
        """Read all trailers or none. -> how many bytes they are, with the empty line. Raises RemoteProtocolError."""
        if data.startswith(_CRLF, start):
            self.finished = True
            return 2
        end = data.find(b"\r\n\r\n", start) + 4
        if not 4 <= end <= start + _TRAILERS_MAX:
            if len(data) - start > _TRAILERS_MAX:
                raise RemoteProtocolError("the trailers are too long", error_status_hint=431)
            if BARE_LF.search(data, start):
                raise RemoteProtocolError("a bare LF in trailers")
            return 0
        # In this place llhttp refuses Content-Length and Transfer-Encoding.
        trailers: dict[bytes, bytes] = {}
        _parse_fields(
            data[start:end], trailers.__setitem__, b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        self.finished = True
        return end - start
