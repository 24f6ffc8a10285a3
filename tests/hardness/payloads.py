"""What clients send that no client should: JSON of every kind, and what fits a struct but for a few places.

Everything is text as it travels, since the oddest of it (1e400, half a surrogate, a key twice) is nothing that
Python has. `$name` in it stands for something real, which the fuzzer puts in: see `FuzzedServer.fill`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_from_bytes

import msgspec
from hypothesis import strategies as st
from msgspec import inspect


class Text(bytes):
    """JSON, or what somebody takes for it, as it travels."""


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may be there twice."""


ODD = [
    Text(text) for text in (
        b"null", b"true", b"0", b"-0", b"-1", b"1", b"2", b"1.5", b"1e400", b"-1e400", b"1e308", b"5e-324", b"9" * 400,
        b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"1e3", b"01",
        b"18446744073709551616", b"NaN", b"-Infinity", b"undefined", b"", b"'x'", b'"', b"[", b"}", b"[1,]", b'{"a"}',
        b'""', b'" "', b'"x"', b'"\\u0000"', b'"a\\u0000b"', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"',
        b'"\xff"', b'"\x00"', b'"\\x"', b'"=="', b'"AA"', b'"AAAA"', b'"_-_-"', b'"A A="', b'"1"', b'"null"',
        b'"__proto__"',
        b'"../../etc/passwd"', b'"%00"', b'"constructor"', b'"' + b"x" * 70_000 + b'"', b'"' + b"A" * 4_000 + b'"',
        '"🙂\u202e\ufeff"'.encode(), b"[]", b"{}", b"[[]]", b"[null]", b'{"":0}', b'{"t":"encrypted","c":5}', b"[{}]",
        b'{"_placeholder":true,"num":0}', b'{"_placeholder":true,"num":-1}', b'{"_placeholder":true,"num":99}',
        b'{"__proto__":{"x":1}}', b"[" * 600 + b"]" * 600, b"[" * 20_000 + b"]" * 20_000,
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
        b"[" + b"0," * 5_000 + b"0]", b"\xef\xbb\xbf{}", b"{}{}", b'{"a":1,"a":[]}', b"[1e400]", b'{"x":"\\udead"}',
    )
]  # fmt: skip
PIECES = [
    "", "x", "0", "-1", "1", "5", "1e3", "1.5", "9" * 30, "true", "null", "nan", " ", "%00", "%ff", "%ed%a0%80", "%",
    "%zz", "%2e%2e",
    "..", ".", "+", "%2F", "..%2f..%2fetc%2fpasswd", "%0d%0aX:%20y", "%F0%9F%99%82", "x" * 1024, "%25", ";", "0-x",
    "0-5", "cursor_v1_",
    "cursor_v1_%00", "cursor_v1_c", "$session", "$machine", "$artifact", "$other", "$file", "$state", "openai",
    "gemini", "k", "None",
]  # fmt: skip
KEYS = ["sid", "id", "type", "method", "__proto__", "", "a\x00b", "toString", "seq", "accountId", "$session"]
KNOWN: dict[str, list[Any]] = {
    "sid": ["$session"], "sessionId": ["$session"], "machineId": ["$machine"], "artifactId": ["$artifact"],
    "uid": ["$other"],
    "id": ["$fresh", "$artifact", "$machine"], "key": ["k", "l", "$fresh"], "keys": [["k", "l"]], "method": ["m",
    "$session:bash"],
    "time": [Text(b"$now")], "publicKey": ["$public"], "ref": ["$ref"], "localId": ["$fresh", "l"], "tag": ["tag",
    "$fresh"],
    "value": ["eA==", None, ""], "header": ["eA=="], "body": ["eA=="], "dataEncryptionKey": ["eA=="],
    "platform": ["ios", "android"],
    "challenge": ["$challenge", "eA=="], "expectedVersion": [0, 1, 2], "version": [-1, 0, 1], "size": [5, 10, 10485760],
    "startTime": [1, 1700000000], "endTime": [2, 2000000000], "token": ["ExponentPushToken[x]", "t", "$token"],
    "data": ["eA=="],
    "tokens": [{"total": 1, "input": 2.5}], "cost": [{"total": 0.1}], "room": ["$room", "r"],
    "app_id": ["com.ex3ndr.happy"],
}  # fmt: skip

text = st.one_of(st.sampled_from(["", "x", "eA==", "meta", "active", "ü🙂"]), st.text(max_size=20))
number = st.one_of(st.integers(-3, 200), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False))
odd = st.sampled_from(ODD)
any_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | number | text | odd,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text | st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)


def write(value: Any) -> bytes:
    """Return a value as it travels."""
    if isinstance(value, Text):
        return bytes(value)
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return b"{" + b",".join(write(key) + b":" + write(item) for key, item in value) + b"}"
    if isinstance(value, list | tuple):
        return b"[" + b",".join(write(item) for item in value) + b"]"
    return json.dumps(value, ensure_ascii=not isinstance(value, str) or not value.isprintable()).encode()


def is_json(data: bytes) -> bool:
    """Whether the server has to understand it."""
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def fitting(kind: inspect.Type, name: str = "") -> st.SearchStrategy[Any]:
    """Return a strategy for values that fit a type of msgspec."""
    match kind:
        case inspect.Metadata():
            return fitting(kind.type, name)
        case inspect.UnionType():
            return st.one_of(*(fitting(each, name) for each in kind.types if not isinstance(each, inspect.CustomType)))
        case inspect.StructType():
            # What may be left out is left out now and then.
            needed, others = (
                {field.encode_name: fitting(field.type, field.encode_name) for field in kind.fields
                 if field.required is required}
                for required in (True, False)
            )  # fmt: skip
            return st.fixed_dictionaries(needed, optional=others)
        case inspect.ListType():
            if name in KNOWN:
                return st.sampled_from(KNOWN[name])
            return st.lists(fitting(kind.item_type), min_size=1, max_size=3)
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.NoneType():
            return st.none()
        case _ if name in KNOWN:
            return st.sampled_from(KNOWN[name])
        case inspect.StrType():
            return text
        case inspect.IntType() | inspect.FloatType():
            return st.integers(0, 100)
        case inspect.BoolType():
            return st.booleans()
        case inspect.DictType():
            return st.dictionaries(text, number, max_size=3)
        case _:
            return any_json


def _positions(value: Any) -> list[tuple[Any, Any]]:
    """Return every item of every container, as container and index."""
    if isinstance(value, dict):
        value = Pairs(value.items())
    found: list[tuple[Any, Any]] = []
    if isinstance(value, list):
        for index, item in enumerate(value):
            found.append((value, index))
            found += _positions(item[1] if isinstance(value, Pairs) else item)
    return found


def _with_pairs(value: Any) -> Any:
    """Return a copy whose objects are Pairs, so that everything in it can be changed."""
    if isinstance(value, dict):
        return Pairs((key, _with_pairs(item)) for key, item in value.items())
    return [_with_pairs(item) for item in value] if isinstance(value, list) else value


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any], good: st.SearchStrategy[Any], most: int = 3) -> Any:
    """Return something good with up to `most` places changed: another value, gone, there twice, or one too many."""
    value = _with_pairs(draw(good))
    for _ in range(draw(st.integers(0, most))):
        positions = _positions(value)
        if not positions:
            return draw(odd)
        container, index = draw(st.sampled_from(positions))
        pairs = isinstance(container, Pairs)
        match draw(st.sampled_from(["other", "other", "other", "gone", "twice", "more"])):
            case "other":
                new = draw(st.one_of(odd, odd, any_json))
                container[index] = (container[index][0], new) if pairs else new
            case "gone":
                del container[index]
            case "twice":
                container.append((container[index][0], draw(any_json)) if pairs else container[index])
            case _:
                container.append((draw(st.sampled_from(KEYS)), draw(any_json)) if pairs else draw(any_json))
    return value


def bodies(kind: type[Any] | None) -> st.SearchStrategy[bytes]:
    """Bodies for a struct: mostly near to what fits, else any JSON or none."""
    anything = st.one_of(any_json.map(write), odd, st.binary(max_size=40), st.just(b""))
    if kind is None:
        return anything
    near = mutated(fitting(inspect.type_info(kind))).map(write)
    return st.one_of(near, near, near, near, anything)


@st.composite
def targets(draw: Callable[[st.SearchStrategy[Any]], Any], path: str, query: type[Any] | None, known: list[str]) -> str:
    """Generate a route's path with something in every parameter, and a query; `known`: values for the first one."""
    piece = st.one_of(st.sampled_from(PIECES), st.text(max_size=8).map(lambda text: quote(text, safe="",
    errors="replace")),
                      st.binary(max_size=8).map(quote_from_bytes))  # fmt: skip
    parts = []
    for part in path.split("/"):
        if part == "*":
            parts += draw(st.lists(piece, max_size=4))
        elif part.startswith(":"):
            parts.append(draw(st.one_of(st.sampled_from(known), st.sampled_from(known), piece)))
            known = ["$file", "$machine"]
        else:
            parts.append(part)
    names = list(query.__struct_encode_fields__) if query else []
    asked = draw(st.lists(st.tuples(st.sampled_from([*names, *names, "limit", "x", "", "%ff"]), piece), max_size=3))
    if not asked:
        return "/".join(parts)
    separator: str = draw(st.sampled_from(["&", "&", "&", ";", "&&"]))
    return "/".join(parts) + "?" + separator.join(f"{a}={b}" for a, b in asked)


@st.composite
def mutated_bytes(draw: Callable[[st.SearchStrategy[Any]], Any], good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with some changed, and perhaps an early end."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)
