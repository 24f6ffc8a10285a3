"""HTTP/1.1 in the place of h11, over httptools (llhttp, a parser in C), for about a sixth of its CPU time.

A Connection has what Hypercorn's H11Protocol uses of h11.Connection, for the side of the server. Its events are
those of h11 without the checks that h11 makes when an event is created; they are checked when they are sent.

llhttp splits the headers (httptools_parser.py). The framing of bodies (RFC 9112, section 6) and the states are
done here, because httptools can neither pause between two pipelined requests nor say where the first ends.

What h11 accepts and is refused here, as tests/test_http_parser_h11.py compares:

    lines ended by a bare LF                                      400
    a header folded over several lines (obs-fold)                 400
    control characters in a header's value                        400
    Content-Length twice, as a list (5, 5), or of 20 digits       400
    Content-Length with Transfer-Encoding                         400
    Transfer-Encoding in an HTTP/1.0 request                      400
    a version other than 1.0 and 1.1                              505
    more than HEADERS_MAX headers                                 431
    white space behind a chunk size without extensions            400
    more than 16 digits in a chunk size, 230 bytes of extensions  400
    control characters in a chunk's extensions                    400
    Content-Length or Transfer-Encoding among trailers            400, 501
    trailers of more than 8 KiB                                   431
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import h11
from h11 import (  # type: ignore[attr-defined]  # MIGHT_SWITCH_PROTOCOL is not in its __all__
    CLOSED,
    DONE,
    ERROR,
    IDLE,
    MIGHT_SWITCH_PROTOCOL,
    MUST_CLOSE,
    NEED_DATA,
    PAUSED,
    SEND_BODY,
    SEND_RESPONSE,
    SERVER,
    SWITCHED_PROTOCOL,
    LocalProtocolError,
    RemoteProtocolError,
)

from happy_light.stack.httptools_parser import BARE_LF, ChunkedBody, Header, Request, by_name, parse_head

_LENGTH_DIGITS: Final = 19  # of a Content-Length: less than 2**64, above which llhttp refuses it
_CHUNKED: Final = -1
_UNTIL_CLOSE: Final = -2
_FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))


class Response(h11.Response):
    """The head of an answer, with a status from 200 on."""

    __slots__ = ()
    __setattr__ = object.__setattr__  # h11's own are frozen

    def __init__(self, *, headers: Any, status_code: int) -> None:
        self.headers = headers  # type: ignore[misc]
        self.status_code = status_code  # type: ignore[misc]


class Data(h11.Data):
    """A piece of a body."""

    __slots__ = ()
    __setattr__ = object.__setattr__

    def __init__(self, data: bytes) -> None:
        self.data = data  # type: ignore[misc]


class EndOfMessage(h11.EndOfMessage):
    """The end of a body, trailers included; those are dropped."""

    __slots__ = ()

    def __init__(self) -> None:
        pass


def _tokens(value: bytes) -> set[bytes]:
    """Return the members of a comma-separated list, in lower case."""
    return {token.strip() for token in value.lower().split(b",")}


class Connection:
    """One connection, seen from the server: bytes in, events out, and the other way round.

    The states are those of h11 (its documentation, "The state machine"); `our_state` and `their_state` change
    by `next_event`, `send` and `start_next_cycle`.
    """

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_closed",
        "_data",
        "_keep_alive",
        "_left",
        "_maximum",
        "_method",
        "_promised",
        "_searched",
        "_switch",
        "_version",
        "our_state",
        "their_state",
        "they_are_waiting_for_100_continue",
    )

    def __init__(self, our_role: Any, max_incomplete_event_size: int) -> None:
        """`max_incomplete_event_size`: bytes of a head."""
        assert our_role is SERVER
        self._maximum = max_incomplete_event_size
        self._data = b""  # received and not yet read
        self._searched = 0  # bytes of it in which a head does not end
        self._closed = False  # whether nothing more comes
        self._keep_alive = True
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        self.our_state: Any = IDLE
        self.their_state: Any = IDLE
        self.they_are_waiting_for_100_continue = False
        self._method = self._version = b""  # of the request
        self._switch = False  # whether it asked for another protocol and was not refused
        self._left = 0  # bytes of its body that are still to come
        self._chunks: ChunkedBody | None = None
        self._promised = 0  # bytes of the answer's body that are still to be sent, or _CHUNKED, or _UNTIL_CLOSE

    def start_next_cycle(self) -> None:
        """Get ready for the next request. Raises LocalProtocolError if there may be none."""
        if self.our_state is not DONE or self.their_state is not DONE:
            raise LocalProtocolError("request or answer has not ended, or the connection is to be closed")
        self._begin_cycle()

    # ------------------------------------------------------------------------------------- receiving
    @property
    def trailing_data(self) -> tuple[bytes, bool]:
        """What was received and not yet read, and whether nothing more comes."""
        return self._data, self._closed

    def receive_data(self, data: bytes) -> None:
        """Take what was received, b"" for the end of the connection. Raises RuntimeError for data behind that."""
        if not data:
            self._closed = True
        elif self._closed:
            raise RuntimeError("data behind the end of the connection")
        else:
            self._data = self._data + data if self._data else data

    def next_event(self) -> Any:
        """Read on. -> Request, Data, EndOfMessage or ConnectionClosed. Raises RemoteProtocolError.

        NEED_DATA: there is not enough for one. PAUSED: `start_next_cycle`, or another protocol, comes first.
        """
        try:
            return self._next_event()
        except RemoteProtocolError:
            self.their_state = ERROR
            self._data = b""
            self._chunks = None
            raise

    def _next_event(self) -> Any:
        state = self.their_state
        if state is SEND_BODY:
            return self._read_body()
        if state is ERROR:
            raise RemoteProtocolError("nothing can be read behind an error")
        if state is IDLE and self._data:
            return self._read_head()
        if state is MIGHT_SWITCH_PROTOCOL or state is SWITCHED_PROTOCOL or (state is DONE and self._data):
            return PAUSED
        if self._data:
            raise RemoteProtocolError("data behind the last request")
        if self._closed:
            self.their_state = CLOSED
            return h11.ConnectionClosed()
        return NEED_DATA

    def _read_head(self) -> Any:
        data = self._data
        end = data.find(b"\r\n\r\n", self._searched) + 4
        if not 4 <= end <= self._maximum:
            if len(data) > self._maximum:
                raise RemoteProtocolError("the head is too long", error_status_hint=431)
            # Whoever does not speak HTTP gets an answer now, not when the connection has been idle for too long.
            if data[0] <= 0x20 or BARE_LF.search(data, self._searched):
                raise RemoteProtocolError("no head of a request")
            if self._closed:
                raise RemoteProtocolError("the connection ended within a head")
            self._searched = max(0, len(data) - 3)
            return NEED_DATA
        self._data = data[end:]
        self._searched = 0
        request = parse_head(data[:end])
        self._prepare(request, by_name(request.headers))
        self.our_state, self.their_state = SEND_RESPONSE, SEND_BODY
        return request

    def _prepare(self, request: Request, fields: dict[bytes, bytes]) -> None:
        """Note what the head says about the rest of the request and the connection. Raises RemoteProtocolError."""
        self._method, self._version = request.method, request.http_version
        modern = request.http_version == b"1.1"
        if modern and b"host" not in fields:
            raise RemoteProtocolError("no Host")
        length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
        if length is not None:
            if coding is not None or not length.isdigit() or len(length) > _LENGTH_DIGITS:
                raise RemoteProtocolError("illegal Content-Length")
            self._left = int(length)
        elif coding is not None:
            if coding.lower() != b"chunked":
                raise RemoteProtocolError("unknown transfer coding", error_status_hint=501)
            if not modern:
                raise RemoteProtocolError("Transfer-Encoding in HTTP/1.0")
            self._chunks = ChunkedBody()
        if not modern or b"close" in _tokens(fields.get(b"connection", b"")):
            self._keep_alive = False
        self._switch = request.method == b"CONNECT" or bool(fields.get(b"upgrade", b"").strip(b", \t"))
        if modern and b"expect" in fields:
            self.they_are_waiting_for_100_continue = b"100-continue" in _tokens(fields[b"expect"])

    def _read_body(self) -> Any:
        data, chunks = self._data, self._chunks
        if chunks is not None:
            if data and not chunks.finished:
                piece, size = chunks.read(data)
                self._data = data[size:]
                if piece:
                    self.they_are_waiting_for_100_continue = False
                    return Data(piece)
            if chunks.finished:
                return self._end_request()
        elif not self._left:
            return self._end_request()
        elif data:
            piece = data[: self._left]
            self._data = data[self._left :]
            self._left -= len(piece)
            self.they_are_waiting_for_100_continue = False
            return Data(piece)
        if self._closed:
            raise RemoteProtocolError("the connection ended within a body")
        return NEED_DATA

    def _end_request(self) -> EndOfMessage:
        self._chunks = None
        self.they_are_waiting_for_100_continue = False
        self.their_state = MIGHT_SWITCH_PROTOCOL if self._switch else self._ended
        return EndOfMessage()

    @property
    def _ended(self) -> Any:
        """The state of a side that has said everything."""
        return DONE if self._keep_alive else MUST_CLOSE

    # --------------------------------------------------------------------------------------- sending
    def send(self, event: Any) -> bytes:
        """Make an event of the server's into bytes. Raises LocalProtocolError for what may not be sent now."""
        try:
            state = self.our_state
            if state is SEND_BODY:
                if isinstance(event, h11.Data):
                    return self._write_data(event.data)
                if isinstance(event, h11.EndOfMessage):
                    return self._end_response()
            elif state is SEND_RESPONSE or state is IDLE:  # IDLE: to what was no request
                if isinstance(event, h11.Response):
                    return self._write_response(event.status_code, event.headers)
                if isinstance(event, h11.InformationalResponse) and state is SEND_RESPONSE:
                    return self._write_informational(event.status_code, event.headers)
            raise LocalProtocolError(f"{type(event).__name__} cannot be sent in the state {state}")
        except LocalProtocolError:
            self.our_state = ERROR
            raise

    def _write_informational(self, status: int, headers: Iterable[Header]) -> bytes:
        if status == 101:
            if not self._switch:
                raise LocalProtocolError("the client did not ask for another protocol")
            self._begin_other_protocol()
        self.they_are_waiting_for_100_continue = False
        lines = [b"HTTP/1.1 %d " % status]
        lines += [name + b": " + value for name, value in headers]
        return _join_head(lines)

    def _write_response(self, status: int, headers: Iterable[Header]) -> bytes:
        lines = [b"HTTP/1.1 %d " % status]
        length: int | None = None
        chunked = False
        connection = b""
        for name, value in headers:
            lowered = name.lower()
            if lowered not in _FRAMING:
                lines.append(name + b": " + value)
            elif lowered == b"connection":
                connection += b"," + value
            elif lowered == b"transfer-encoding":
                chunked = True
            elif length is None and value.isdigit():
                length = int(value)
            else:
                raise LocalProtocolError("illegal Content-Length")
        tunnel = self._method == b"CONNECT" and 200 <= status < 300
        bodiless = status == 204 or status == 304 or tunnel
        if length is not None and not chunked:
            self._promised = length
            lines.append(b"Content-Length: %d" % length)
        elif bodiless:
            self._promised = 0
        elif self._version == b"1.1":
            self._promised = _CHUNKED
            lines.append(b"Transfer-Encoding: chunked")
        else:
            self._promised = _UNTIL_CLOSE
            self._keep_alive = False
        if bodiless or self._method == b"HEAD":
            self._promised = 0
        if connection or not self._keep_alive:
            tokens = _tokens(connection) - {b""}
            if b"close" in tokens or not self._keep_alive:
                self._keep_alive = False
                tokens = tokens - {b"keep-alive"} | {b"close"}
            lines.append(b"Connection: " + b", ".join(sorted(tokens)))
        head = _join_head(lines)
        self.they_are_waiting_for_100_continue = False
        if tunnel:
            self._begin_other_protocol()
        else:
            self._switch = False
            self.our_state = SEND_BODY
            if self.their_state is MIGHT_SWITCH_PROTOCOL or self.their_state is DONE:
                self.their_state = self._ended
        return head

    def _begin_other_protocol(self) -> None:
        self.our_state = SWITCHED_PROTOCOL
        self._data = b""  # whoever speaks it has taken what was received
        if self.their_state is MIGHT_SWITCH_PROTOCOL:
            self.their_state = SWITCHED_PROTOCOL

    def _write_data(self, data: bytes) -> bytes:
        if self._promised >= 0:
            if len(data) > self._promised:
                raise LocalProtocolError("more than the Content-Length")
            self._promised -= len(data)
        elif self._promised == _CHUNKED:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return data

    def _end_response(self) -> bytes:
        if self._promised > 0:
            raise LocalProtocolError("less than the Content-Length")
        self.our_state = self._ended
        return b"0\r\n\r\n" if self._promised == _CHUNKED else b""


def _join_head(lines: list[bytes]) -> bytes:
    """Return a status line and headers as bytes. Raises LocalProtocolError for a line that would be two."""
    head = b"\r\n".join((*lines, b"", b""))
    if not head.count(b"\n") == head.count(b"\r") == len(lines) + 1 or b"\0" in head:
        raise LocalProtocolError("a line end or NUL in a header")
    return head
