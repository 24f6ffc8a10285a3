"""Sends a server whatever clients could: every route and every event, near to what fits and far from it.

`python -m tests.hardness.fuzz [seconds] [seed]`, or `make fuzz`: 5 minutes. What fails is printed with its
steps, as long as they are: making them smaller took hypothesis minutes. The same seed begins with the same steps.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec import inspect

from tests.hardness import payloads
from tests.hardness.fuzz_actions import (
    EVENTS,
    ROUTES,
    ConnectionBytes,
    HttpRequest,
    Pause,
    PollingSession,
    SocketBytes,
    SocketEvent,
    SocketFrame,
    SocketSession,
    Step,
    Together,
    VendorAnswer,
    run_scenario,
)  # fmt: skip
from tests.hardness.fuzz_target import FuzzedServer

Draw = Callable[[st.SearchStrategy[Any]], Any]

VENDORS = {  # answers of all other servers in one
    "data": [{"status": "ok", "id": "x"}, {"status": "error", "details": {"error": "DeviceNotRegistered"}}],
    "token": "x.eyJ2aWRlbyI6eyJyb29tIjoiY29udl94In19.x", "access_token": "x", "token_type": "bearer", "id": 5,
    "conversations": [{"call_duration_secs": 7, "conversation_id": "conv_x"}], "has_more": False, "next_cursor": None,
    "login": "x", "name": "X Y", "avatar_url": "$vendors/avatar", "email": None, "bio": "b",
    "subscriber": {"entitlements": {"voice": {"expires_date": "2040-01-01T00:00:00Z"}}},
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- HTTP
def _known(path: str) -> list[str]:
    """Return what fits into the first parameter of a path."""
    for part, names in (
        ("sessions", ["$session"]), ("access-keys", ["$session"]), ("machines", ["$machine"]), ("artifacts",
        ["$artifact"]),
        ("connect", ["openai", "gemini", "anthropic"]), ("user", ["$other"]), ("kv", ["k"]),
    ):  # fmt: skip
        if f"/{part}/" in path:
            return names
    return ["x"]


authorization = st.sampled_from(
    [("Authorization", "Bearer $token")] * 60
    + [None, ("Authorization", "Bearer x"), ("authorization", "Bearer $tokenx"), ("Authorization", "Bearer "),
       ("Authorization", "bearer $token"), ("Authorization", "Bearer e30.e30.e30"), ("Authorization", "Basic eDp5"),
       ("Authorization", "Bearer \xff\xfe"), ("Authorization", "Bearer " + "x" * 5000)]
)  # fmt: skip
content = st.sampled_from(
    [("Content-Type", "application/json")] * 40
    + [None, ("Content-Type", "application/octet-stream"), ("Content-Type", "text/plain"), ("Content-Type", ""),
       ("Content-Type", "application/json; charset=utf-16"), ("Content-Type", "\xff/;;="),
       ("Content-Type", "multipart/form-data; boundary=x")]
)  # fmt: skip
extra = st.sampled_from([
    ("X-Happy-Client", "cli/1.2.5"), ("X-Happy-Client", "\xff" * 300), ("X-Forwarded-Proto", "javascript"),
    ("X-Forwarded-Host", "a b<>"), ("X-Forwarded-For", "1.2.3.4, x, ::1"), ("X-Forwarded-For", "fe80::1%eth0"),
    ("Origin", "null"), ("Origin", "\xff"), ("Range", "bytes=5-1"), ("Range", "bytes=0-0"), ("If-None-Match", "*"),
    ("Expect", "nothing"), ("Accept-Encoding", "gzip;q=x"), ("Cookie", "\x7f"), ("X-Hub-Signature-256", "x"),
    ("Connection", "close"), ("X-Github-Event", "ping"), ("Accept", "text/html"),
])  # fmt: skip


@st.composite
def http_requests(draw: Draw) -> HttpRequest:
    name = draw(st.sampled_from(sorted(ROUTES)))
    route = ROUTES[name]
    headers = [draw(authorization), draw(content), *draw(st.lists(extra, max_size=2))]
    body = b""
    if route.method in ("POST", "PUT") or draw(st.integers(0, 9)) == 0:
        body = draw(payloads.bodies(route.body))
    return HttpRequest(
        name, draw(payloads.targets(route.path, route.query, _known(route.path))),
        tuple(header for header in headers if header is not None), body,
        head=draw(st.integers(0, 9)) == 0, chunked=draw(st.integers(0, 4)) == 0,
        cut=draw(st.integers(0, 50)) if draw(st.integers(0, 14)) == 0 else None,
    )  # fmt: skip


lines = st.sampled_from([
    b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $token\r\n\r\n",
    b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer $token\r\nContent-Type: application/json\r\n"
    b"Content-Length: 29\r\n\r\n" + b'{"tag":"t","metadata":"meta"}',
    b"POST /v1/auth/request HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01", b"GET /health\r\n\r\n",
    b"GET /v1/updates/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: eDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n\r\n" + b"\x81\x85\0\0\0\x0042[1]",
    b"GET /v1/updates/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\n",
    b"GET /nosuch HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: eDAwMDAwMDAwMDAwMDAwMA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n"
    b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    b"POST /v1/updates/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n40",
    b"DELETE /v1/connect/github HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /v1/kv HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
])  # fmt: skip
connection_bytes = st.builds(ConnectionBytes, payloads.mutated_bytes(lines), st.booleans())
vendor_answers = st.builds(
    VendorAnswer, st.sampled_from([200, 200, 200, 200, 201, 204, 302, 400, 401, 404, 429, 500]),
    st.one_of(
        payloads.mutated(st.just(VENDORS)).map(payloads.write),
        payloads.mutated(st.just(VENDORS), 1).map(payloads.write),
        payloads.odd,
    ),
    st.sampled_from(["application/json", "application/json", "text/html", "image/png"]),
)  # fmt: skip


# ------------------------------------------------------------------------------------------- sockets
@st.composite
def socket_events(draw: Draw) -> SocketEvent:
    name = draw(st.sampled_from(sorted(EVENTS)))
    kind = EVENTS[name].data or EVENTS[name].like
    anything = payloads.any_json.map(payloads.write)
    near = anything if kind is None else payloads.mutated(payloads.fitting(inspect.type_info(kind))).map(payloads.write)
    args = [draw(st.one_of(near, near, near, near, anything))]
    match draw(st.integers(0, 9)):  # the wrong number of them
        case 0:
            args = []
        case 1:
            args += draw(st.lists(anything, min_size=1, max_size=3))
    if draw(st.integers(0, 29)) == 0:
        name = draw(st.sampled_from(["connect", "disconnect", "*", "", "x" * 300, "__proto__", "update"]))
    return SocketEvent(name, tuple(args), draw(st.integers(0, 5)) > 0)


events = st.sampled_from(sorted(EVENTS)).map(lambda name: b'["%s",' % name.encode())
PACKETS = [
    b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"", b"4", b"40", b'40{"token":"$token"}', b'40{"token":5}', b"40/x,{}",
    b"41", b"41/x,",
    b"42", b"42[", b"42[]", b"42[5]", b"42{}", b"43", b"431[]", b"431[{}]", b"4399999999[1]", b'44{"message":"x"}',
    b"44", b"45", b"49",
    b"bAAAA", b"b4", b"2probe", b"42/x,", b"42-1[]", b'42[{"_placeholder":true,"num":0}]', b"\xff", b"\x00",
    b"4\xed\xa0\x80",
]  # fmt: skip


@st.composite
def socket_frames(draw: Draw) -> SocketFrame:
    """Generate text, binary, or an event with attachments that come or do not."""
    match draw(st.integers(0, 3)):
        case 0:
            return SocketFrame(draw(st.sampled_from(PACKETS)))
        case 1:
            count = draw(st.sampled_from([b"0", b"1", b"1", b"2", b"17", b"-1", b"x", b"9" * 30, b""]))
            holder = b'{"_placeholder":true,"num":%d}' % draw(st.integers(-1, 3))
            args = draw(st.sampled_from([holder, b'{"sid":%s}' % holder, b"[%s,%s]" % (holder, holder), b'"x"']))
            return SocketFrame(b"45" + count + b"-7" + draw(events) + args + b"]")
        case 2:
            return SocketFrame(draw(st.binary(max_size=30)), 2)
        case _:
            opcode = draw(st.sampled_from([0, 1, 1, 2, 8, 9, 10]))
            payload = draw(
                st.one_of(
                    payloads.mutated_bytes(socket_events().map(lambda emit: emit.packet(5))), st.binary(max_size=20)
                )
            )
            return SocketFrame(payload[:125] if opcode >= 8 else payload, opcode, opcode >= 8 or draw(st.booleans()))


socket_bytes = st.builds(SocketBytes, st.one_of(st.binary(max_size=30), st.sampled_from([
    b"\xc1\x80abcd", b"\x83\x80abcd", b"\x09\x80abcd", b"\x89\xfe\x00\x80abcd", b"\x81\xff" + b"\xff" * 8 + b"abcd",
    b"\x81\x05x",
    b"\x81\xff\x00\x00\x00\x00\x05\xf5\xe1\x00abcd", b"\x88\x81abcdx", b"\x88\x82abcd\x00\x00",
    b"GET / HTTP/1.1\r\n\r\n", b"\x81",
])))  # fmt: skip
GOOD = [b'{"token":"$token"}', b'{"token":"$token","clientType":"session-scoped","sessionId":"$session"}',
        b'{"token":"$token","clientType":"machine-scoped","machineId":"$machine"}',
        b'{"token":"$token","pid":"$pid","offset":"$offset"}']  # fmt: skip
auths = st.one_of(
    *[st.sampled_from(GOOD)] * 5,
    payloads.mutated(st.fixed_dictionaries({
        "token": st.just("$token"), "clientType": st.sampled_from(["user-scoped", "session-scoped", "machine-scoped"]),
        "sessionId": st.just("$session"), "machineId": st.just("$machine"), "happyClient": st.just("cli/1"),
        "appState": st.just("active"), "pid": st.just("$pid"), "offset": st.just("$offset"),
    })).map(payloads.write),
    payloads.any_json.map(payloads.write),
)  # fmt: skip
answers = st.one_of(
    st.none(), st.sampled_from([b"[]", b'["x"]', b"[null]", b"[1,2]", b"[1e400]", b"[", b"{}", b"5",
    b'[{"ok":false}]']),
    payloads.any_json.map(lambda value: b"[" + payloads.write(value) + b"]"),
)  # fmt: skip
clean = st.lists(socket_events(), max_size=12)
dirty = st.lists(st.one_of(socket_events(), socket_frames(), socket_bytes), max_size=6)
socket_sessions = st.builds(
    SocketSession,
    auths,
    st.one_of(clean, clean, dirty).map(tuple),
    answers,
    st.sampled_from(["", "", "close", "cut", "reset"]),
)
polling_sessions = st.builds(
    PollingSession,
    st.lists(st.one_of(
        st.just(b'40{"token":"$token"}'), socket_events().map(lambda emit: emit.packet(3)), st.sampled_from(PACKETS),
        payloads.mutated_bytes(socket_events().map(lambda emit: emit.packet(4) + b'\x1e42["ping"]\x1e2')),
        st.binary(max_size=20),
    ), max_size=4).map(tuple),
    st.sampled_from([
        "EIO=4&transport=polling&sid=nosuch", "EIO=3&transport=polling&sid=$sid", "",
        "EIO=4&transport=websocket&sid=$sid",
        "EIO=4&transport=x", "EIO=4&transport=polling&sid=%ff", "EIO=4&transport=polling&j=0&sid=$sid",
        "sid=$sid&sid=x",
    ]),
    st.none() | st.lists(st.sampled_from([b"2probe", b"5", b"2", b"x", b"", b'42["ping"]', b"1"]),
    max_size=4).map(tuple),
    st.integers(0, 2),
)  # fmt: skip
pauses = st.builds(Pause, st.sampled_from([0.0] * 6 + [0.02] * 6 + [0.1] * 3 + [1.2]))  # the grace of a session is 1 s
together = st.builds(
    Together,
    st.lists(
        st.one_of(http_requests(), socket_sessions, socket_sessions, polling_sessions), min_size=2, max_size=5
    ).map(tuple),
)
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        *[http_requests()] * 4, *[socket_sessions] * 3, connection_bytes, vendor_answers, polling_sessions, pauses,
        together,
    ),
    min_size=3, max_size=20,
)  # fmt: skip


def fuzz(runner: asyncio.Runner, fuzzed: FuzzedServer, examples: int, number: int) -> None:
    """Run so many scenarios. Raises what was found, with the steps that led to it in its notes."""

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(steps)
    def scenario(given: list[Step]) -> None:
        try:
            runner.run(run_scenario(fuzzed, given))
        except Exception as error:
            error.add_note("\n".join(map(repr, given)))
            raise

    scenario()


def short(text: str) -> str:
    """Shorten the text of a failure to the part that a reader needs."""
    return re.sub(r"(.{1,6}?)\1{40,}", r"\1…", text)[-8000:]


def main(seconds: float, number: int) -> int:
    """Fuzz for so many seconds; return how many different failures were found."""
    end, found = time.monotonic() + seconds, 0
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as path:
        fuzzed = FuzzedServer(Path(path) / "data")
        runner.run(fuzzed.__aenter__())
        print(f"fuzz: {seconds:.0f} s, seed {number}", flush=True)
        while time.monotonic() < end and found < 10:
            try:
                fuzz(runner, fuzzed, 150, number)
            except Exception as error:
                found += 1
                print(short("".join(traceback.format_exception(error, limit=-2))), flush=True)
            print(
                f"fuzz: {max(0, end - time.monotonic()):4.0f} s left, seed {number}: {fuzzed.scenarios} scenarios, "
                f"{fuzzed.requests} requests, {fuzzed.events} events, {fuzzed.packets} other packets, {found} failures",
                flush=True,
            )
            number += 1
        try:
            print(f"fuzz: all is closed: {runner.run(fuzzed.wait_for_cleanup())}")
        except AssertionError as error:
            found += 1
            print(error)
        print(f"fuzz: statuses {dict(sorted(fuzzed.statuses.items()))}")
        runner.run(fuzzed.__aexit__(None, None, None))
    print(f"fuzz: {found} failures")
    return found


if __name__ == "__main__":
    sys.exit(
        1 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 300,
                  int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)) else 0
    )  # fmt: skip
