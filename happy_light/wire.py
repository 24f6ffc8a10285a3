"""What travels: ids, times, base64, and the base of every struct that is decoded or encoded.

Wire names are camelCase; `bytes` fields are standard padded base64 (protocol.md section 1).
"""

from __future__ import annotations

import base64
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_COUNTER_MAX = 36**4

# What JavaScript can hold exactly and SQLite can store.
SafeInt = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
NonEmptyStr = Annotated[str, msgspec.Meta(min_length=1)]
Base64 = Annotated[str, msgspec.Meta(extra_json_schema={"contentEncoding": "base64"})]


class Incoming(msgspec.Struct, rename="camel", gc=False):
    """Base of what clients send. Unknown fields are ignored."""


class Outgoing(msgspec.Struct, rename="camel", gc=False):
    """Base of what the server answers. Fields that are UNSET are left out."""


class Success(Outgoing):
    """`{"success": true}`."""

    success: Literal[True] = True


class Ok(Outgoing):
    """The ack of what has no answer of its own; `ok` is false for a heartbeat that does not count."""

    ok: bool = True


class Failure(Outgoing):
    """What does not fit, and what went wrong: the text is for people, the status stands in both places."""

    error: str
    message: str
    status_code: int


class Versioned(Outgoing):
    """A value with its version, as it stands in updates."""

    value: str | None
    version: int


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
# What is looked at a second time is slow to look at, and nobody must hold up the others with it.
_LENIENT_MAX = 1024 * 1024  # bytes
_VALUES_MAX = 10_000


def decode(raw: bytes | memoryview | str) -> Any:
    """JSON. Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError.

    What JavaScript writes and reads is taken, too: half a surrogate pair, from a text that was cut in the
    middle of an emoji, becomes U+FFFD, and a number that no double holds infinity.
    """
    try:
        return _decode(raw)
    except msgspec.DecodeError as error:
        if len(raw) > _LENIENT_MAX:
            raise
        import json

        try:
            text = raw if isinstance(raw, str) else bytes(raw).decode()
            return _mended(json.loads(text, parse_constant=_refuse_constant))
        except ValueError:
            raise error from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _mended(value: Any) -> Any:
    """The same without halves of surrogate pairs."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return value


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def base36(number: int, width: int) -> str:
    """`number` in base 36, lower case, padded with zeros to `width` characters."""
    out = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        out.append(_DIGITS[digit])
    return "".join(reversed(out))


class _Ids:
    """Makes ids of the cuid form that rise within this process, even within one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._counter = 0
        self._prefix = ""
        self._noise = ""
        self._used = 0

    def new(self) -> str:
        with self._lock:
            self._counter += 1
            ms = now_ms()
            if ms > self._ms or self._counter == _COUNTER_MAX:
                # A clock that went back must not make smaller ids: the last millisecond goes on.
                self._ms = max(ms, self._ms + 1)
                self._counter = 0
                self._prefix = "c" + base36(self._ms, 8)
            self._used += 12
            if self._used > len(self._noise):
                # Much at once: asking the system gives the interpreter away, in the middle of a transaction.
                self._noise = secrets.token_hex(3000)
                self._used = 12
            return self._prefix + base36(self._counter, 4) + self._noise[self._used - 12 : self._used]


new_id = _Ids().new
"""-> `c`, 8 characters of base-36 milliseconds, 16 more of [a-z0-9] (protocol.md section 1)."""


def text(value: bytes | msgspec.UnsetType | None) -> Base64 | None:
    """Bytes as they travel; an empty key is none, since clients take "" for a broken one."""
    return base64.b64encode(value).decode() if value else None


def js_integer(text: str) -> str:
    """An integer in a query as JavaScript reads it: nothing is 0 (`after_seq=`), 05 is 5."""
    return text.strip().lstrip("0") or "0"


def convert(value: Any, kind: type[Any]) -> Any:
    """Decoded JSON into a struct. Raises msgspec.ValidationError with the place of what is wrong."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # JSON has one kind of number: 1.0 is the integer 1, as clients with doubles write it.
        try:
            return msgspec.convert(_whole(value, itertools.repeat(None, _VALUES_MAX)), kind)
        except _TooMuch:
            raise error from None


def decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    """A function that makes JSON into a struct, as `convert`. It raises msgspec.DecodeError."""
    strict = msgspec.json.Decoder(kind).decode

    def decoded(raw: bytes) -> Any:
        try:
            return strict(raw)
        except msgspec.DecodeError:
            if len(raw) > _LENIENT_MAX:
                raise
            return convert(decode(raw), kind)

    return decoded


class _TooMuch(Exception):
    """There are more values than anybody means well with."""


def _whole(value: Any, room: Iterator[None]) -> Any:
    """The same with integers for the floats that are some. Raises _TooMuch past as many values as `room` has."""
    if next(room, room) is room:
        raise _TooMuch
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_whole(item, room) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item, room) for name, item in value.items()}
    return value
