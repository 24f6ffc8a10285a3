"""The parser beside h11: whatever is accepted is understood as h11 does, and what h11 refuses is refused.

What is refused although h11 accepts it is in the table of happy_light/stack/httptools_connection.py.
"""

from __future__ import annotations

import random
import re
import sys
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from happy_light.stack import httptools_connection as ours
from happy_light.stack.httptools_parser import HEADERS_MAX

MAXIMUM = 65_536
SWITCH = h11.MIGHT_SWITCH_PROTOCOL  # type: ignore[attr-defined]
HOST = b"Host: x\r\n"


class Seen:
    """What a parser made of some bytes: (method, target, version, headers, body) of each request, and how it ended."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.ended = 0
        self.error: int | None = None
        self.states: list[tuple[str, str]] = []
        self.sent = b""


def play(module: Any, pieces: list[bytes], answer: list[tuple[bytes, bytes]], close: bool = False) -> Seen:
    """Read pieces as Hypercorn does, with an answer to each request when it has ended."""
    seen = Seen()
    connection = module.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
    for piece in [*pieces, b""] if close else pieces:
        connection.receive_data(piece)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                seen.error = error.error_status_hint
                return seen
            if isinstance(event, h11.Request):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers]
                parts = [bytes(event.method), bytes(event.target), bytes(event.http_version), headers, b""]
                seen.requests.append(parts)
                waits = connection.they_are_waiting_for_100_continue
                seen.states.append((repr(connection.their_state), f"{connection.our_state!r} {waits}"))
            elif isinstance(event, h11.Data):
                seen.requests[-1][-1] += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                seen.ended += 1
                seen.sent += connection.send(module.Response(headers=answer, status_code=200))
                if seen.requests[-1][0] == b"CONNECT":
                    return seen
                if seen.requests[-1][0] != b"HEAD":
                    seen.sent += connection.send(module.Data(data=b"hello"))
                seen.sent += connection.send(module.EndOfMessage())
                seen.states.append((repr(connection.their_state), repr(connection.our_state)))
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    break
                connection.start_next_cycle()
            else:
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return seen
                break
    seen.states.append((repr(connection.their_state), repr(connection.our_state)))
    return seen


LENIENT = re.compile(
    rb"(?<!\r)\n"  # a bare LF
    rb"|\r\n[ \t]"  # a folded header
    rb"|[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]"  # a control character
    rb"|\r(?!\n)"
    rb"|content-length:[^\r\n]*,|content-length:(?s:.*)content-length:|content-length:[ \t]*[0-9]{20}"
    rb"|content-length:(?s:.*)transfer-encoding:|transfer-encoding:(?s:.*)content-length:"
    rb"|HTTP/1\.0\r\n(?s:.*)transfer-encoding:"
    rb"|HTTP/([02-9]\.|1\.[2-9])"
    rb"|\r\n[0-9a-f]+[ \t]+\r\n|\r\n[0-9a-f]{17}"  # white space behind a chunk size, too many digits
    rb"|\r\n0+\r\n(?s:.*)(content-length|transfer-encoding):",  # framing in trailers
    re.IGNORECASE,
)


def compare(data: bytes, pieces: list[bytes], close: bool = False) -> None:
    answer = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    mine, theirs = play(ours, pieces, answer, close), play(h11, pieces, answer, close)
    accepted = len(mine.requests)
    if accepted:  # the last may have been refused in the middle of its body
        assert mine.requests[:-1] == theirs.requests[: accepted - 1]
        last, known = mine.requests[-1], theirs.requests[accepted - 1]
        assert last[:4] == known[:4]
        assert known[4].startswith(last[4]) or last[4].startswith(known[4])
    assert mine.ended <= theirs.ended
    if mine.error is None:
        assert theirs.error is None
        assert (mine.requests, mine.ended, mine.states) == (theirs.requests, theirs.ended, theirs.states)
    elif theirs.error is None or len(theirs.requests) > accepted:
        many = data.count(b"\n") > HEADERS_MAX
        assert many or LENIENT.search(data), "refused although h11 accepts it, and not in the table"


NAMES = [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Upgrade", b"Expect", b"A", b"cookie",
         b"CONTENT-LENGTH", b"Content-Length ", b"Transfer-Encoding\t", b"", b"A(", b"\xe9",
         b"content_length"]  # fmt: skip
VALUES = [b"x", b"", b"0", b"3", b"3", b"5", b"03", b"+3", b"-1", b"3,3", b"3, 4", b"0x3", b"3_0", b"9" * 19, b"1" * 20,
          b"1" * 21, b"chunked", b"chunked", b"CHUNKED", b"gzip", b"gzip, chunked", b"chunked, chunked", b"identity",
          b"close", b"keep-alive", b"upgrade", b"keep-alive, Upgrade", b"websocket", b"100-continue", b" \t", b"x \t",
          b"a\tb",
          b"\xe9", b"\x00", b"\x01", b"\x7f", b"\x0b", b"a\r\n b", b"a\nb", b"a\rb", b", ,"]  # fmt: skip
LINES = [b"GET / HTTP/1.1", b"GET / HTTP/1.1", b"POST /a?b HTTP/1.1", b"POST / HTTP/1.1", b"HEAD / HTTP/1.1",
         b"GET / HTTP/1.0", b"FOO / HTTP/1.1", b"CONNECT x:1 HTTP/1.1", b"GET http://x/ HTTP/1.1", b"get / HTTP/1.1",
         b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"G(T / HTTP/1.1",
         b"", b" GET / HTTP/1.1", b"GET /\xfc HTTP/1.1", b"GET / http/1.1", b"PRI * HTTP/2.0", b"GET\t/ HTTP/1.1",
         b"OPTIONS * HTTP/1.1", b"GET / HTTP/11.1"]  # fmt: skip
ENDS = [b"\r\n"] * 30 + [b"\n", b"\r", b"\r\r\n"]
BODIES = [b"", b"", b"abc", b"abcde", b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\nA: b\r\n\r\n",
          b"3;a=b\r\nabc\r\n0\r\n\r\n", b"3; a=b\r\nabc\r\n0\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n",
          b"3\nabc\r\n0\r\n\r\n",
          b"+3\r\nabc\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n",
          b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\nContent-Length: 3\r\n\r\n", b"003\r\nabc\r\n000\r\n\r\n",
          b"1" * 16 + b"\r\nabc", b"0" * 17 + b"3\r\nabc\r\n0\r\n\r\n", b"3 ;a\r\nabc\r\n0\r\n\r\n", b"g\r\n",
          b"0\r\n\n", b"0\r\nA : b\r\n\r\n"]  # fmt: skip


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Generate requests, good and bad, one after the other, and where they are cut."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        parts += [draw(st.sampled_from(LINES)), draw(st.sampled_from(ENDS))]
        if draw(st.integers(0, 9)):
            parts.append(HOST)
        for _ in range(draw(st.integers(0, 3))):
            colon = draw(st.sampled_from([b": ", b": ", b":", b" : ", b":  ", b":\t", b""]))
            parts += [draw(st.sampled_from(NAMES)), colon, draw(st.sampled_from(VALUES)), draw(st.sampled_from(ENDS))]
        parts += [draw(st.sampled_from(ENDS)), draw(st.sampled_from(BODIES))]
    data = b"".join(parts)
    for _ in range(draw(st.integers(0, 2))):  # a byte that is another
        at = draw(st.integers(0, len(data) - 1)) if data else 0
        data = data[:at] + draw(st.binary(max_size=1)) + data[at + 1 :]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return data, [piece for piece in pieces if piece]


@settings(max_examples=250, deadline=None, derandomize=True)
@given(streams(), st.booleans())
def test_whatever_is_accepted_is_what_h11_makes_of_it(stream: tuple[bytes, list[bytes]], close: bool) -> None:
    compare(*stream, close)


GOOD = [b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\n\r\n\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n",
        b"PUT /d HTTP/1.1\r\nhost: x\r\nUpgrade: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
        b"GET /f HTTP/1.1\r\nHost: x\r\nUpgrade: , ,\r\n\r\n",
        b"HEAD /e HTTP/1.1\r\nHost: x\r\nCookie: a\r\nCookie: b\r\nA:\t c \t\r\n\r\n"]  # fmt: skip


def test_good_requests_cut_at_every_byte_and_into_bytes() -> None:
    data = b"".join(GOOD)
    whole = play(ours, [data], [(b"content-length", b"5")])
    assert (len(whole.requests), whole.ended) == (6, 6)
    for cut in range(1, len(data)):
        compare(data, [data[:cut], data[cut:]])
    compare(data, [data[at : at + 1] for at in range(len(data))], close=True)


def test_random_orders_and_cuts_of_good_requests() -> None:
    chance = random.Random(18)
    for _ in range(120):
        data = b"".join(chance.choices(GOOD, k=20))
        cuts = sorted(chance.sample(range(1, len(data)), 12))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        compare(data, pieces)
        assert play(ours, pieces, [(b"content-length", b"5")]).ended == 20


# ----------------------------------------------------------------------------------------------- answers
def lines(sent: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Status line, headers in lower case and sorted, a list of connection options as several, and the body."""
    head, _, body = sent.partition(b"\r\n\r\n")
    status, *headers = head.lower().split(b"\r\n")
    split = [each for header in headers for each in (header.replace(b", ", b"\r\nconnection: ").split(b"\r\n"))]
    return status, sorted(split), body


REQUESTS = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
            b"HEAD / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: a\r\n\r\n"]  # fmt: skip
ANSWERS: list[list[tuple[bytes, bytes]]] = [
    [], [(b"content-length", b"5")], [(b"Content-Length", b"0"), (b"Connection", b"close")],
    [(b"connection", b"keep-alive"), (b"a", b"b"), (b"a", b"c")], [(b"transfer-encoding", b"chunked")],
    [(b"connection", b"b, close")], [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")],
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("status", [200, 204, 304, 404, 500])
def test_answers_are_those_of_h11(request_: bytes, status: int) -> None:
    for headers in ANSWERS:
        bodiless = status in (204, 304) or request_.startswith(b"CONNECT")
        if bodiless and (b"transfer-encoding", b"chunked") in headers:
            continue  # h11 sends it although it may not be there (RFC 9112, 6.1)
        for body in ([], [b"hello"], [b"", b"hel", b"lo"]):
            results = []
            for module in (h11, ours):
                connection = module.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
                connection.receive_data(request_)
                while connection.next_event() is not h11.NEED_DATA and connection.their_state not in (
                    h11.DONE, h11.MUST_CLOSE, SWITCH,
                ):  # fmt: skip
                    pass
                sent, failed = b"", False
                try:
                    sent += connection.send(module.Response(headers=headers, status_code=status))
                    for piece in body:
                        sent += connection.send(module.Data(data=piece))
                    sent += connection.send(module.EndOfMessage())
                except h11.LocalProtocolError:
                    failed = True
                results.append((lines(sent), connection.our_state, failed or connection.their_state))
            assert results[0] == results[1], (headers, body)


@pytest.mark.parametrize("header", [(b"a", b"b\r\nc: d"), (b"a\r\nb", b"c"), (b"a", b"b\nc"), (b"a", b"b\rc"),
                                    (b"a", b"b\0"), (b"content-length", b"x"), (b"content-length", b"-1")])  # fmt: skip
def test_a_header_of_an_answer_that_would_be_two_is_not_sent(header: tuple[bytes, bytes]) -> None:
    connection = ours.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
    connection.receive_data(REQUESTS[0])
    connection.next_event()
    with pytest.raises(h11.LocalProtocolError):
        connection.send(ours.Response(headers=[header], status_code=200))
    assert connection.our_state is h11.ERROR
    with pytest.raises(h11.LocalProtocolError):
        connection.send(ours.Response(headers=[], status_code=500))


def test_another_protocol_begins_only_if_it_was_asked_for() -> None:
    for module in (h11, ours):
        for request, allowed in ((REQUESTS[0], False), (REQUESTS[6], True)):
            connection = module.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
            connection.receive_data(request + b"trailing")
            assert isinstance(connection.next_event(), h11.Request)
            assert connection.trailing_data == (b"trailing", False)
            upgrade = h11.InformationalResponse(headers=[(b"upgrade", b"a")], status_code=101)
            if allowed:
                assert isinstance(connection.next_event(), h11.EndOfMessage)
                assert connection.next_event() is h11.PAUSED
                assert connection.send(upgrade) == b"HTTP/1.1 101 \r\nupgrade: a\r\n\r\n"
                assert connection.our_state is connection.their_state is h11.SWITCHED_PROTOCOL
                assert connection.next_event() is h11.PAUSED
            else:
                with pytest.raises(h11.LocalProtocolError):
                    connection.send(upgrade)


def test_a_cycle_begins_only_where_one_has_ended() -> None:
    connection = ours.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
    for data in (b"", GOOD[0]):
        if data:
            connection.receive_data(data)
            connection.next_event()
        with pytest.raises(h11.LocalProtocolError):
            connection.start_next_cycle()


def test_what_was_received_is_not_copied_and_not_kept() -> None:
    connection = ours.Connection(h11.SERVER, max_incomplete_event_size=MAXIMUM)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
    connection.next_event()
    body = b"b" * 60_000
    before = sys.getrefcount(body)
    connection.receive_data(body)
    event = connection.next_event()
    assert event.data is body
    del event
    assert sys.getrefcount(body) == before
