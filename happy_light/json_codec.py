"""JSON in and out: msgspec, and a second, lenient look at what only JavaScript accepts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

# The second look runs in Python on the event loop, so its input is bounded: 128 KiB take at most about 25 ms.
_LENIENT_MAX: Final = 128 * 1024  # bytes of text that is parsed a second time
_CONVERT_MAX: Final = 1024 * 1024  # bytes of text that is decoded and converted a second time
_TRIAL_MIN: Final = 1024 * 1024  # bytes of text from which on it is tried whether there is memory for its values
_TRIAL_FACTOR: Final = 3  # bytes of values for one of text
_WHOLE_MAX: Final = 10_000  # values in which floats are replaced by integers

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def decode(raw: bytes | memoryview | str) -> Any:
    """Return the value of a JSON text.

    JSON that JavaScript writes and msgspec refuses is accepted up to 128 KiB: half a surrogate pair, from a text
    that was cut in the middle of an emoji, becomes U+FFFD, and a number that no double holds becomes infinity.
    Raises msgspec.DecodeError, UnicodeDecodeError, RecursionError or MemoryError.
    """
    _require_memory(len(raw))
    try:
        return _decode(raw)
    except msgspec.DecodeError as error:
        if len(raw) > _LENIENT_MAX:
            raise
        import json

        try:
            text = raw if isinstance(raw, str) else bytes(raw).decode()
            return _without_surrogates(json.loads(text, parse_constant=_refuse_constant))
        except ValueError:
            raise error from None


def _require_memory(size: int) -> None:
    """Raise MemoryError if a text of so many bytes cannot be decoded: the decoder's own failure ends the process."""
    if size > _TRIAL_MIN:
        bytearray(_TRIAL_FACTOR * size)


def convert(value: Any, kind: type[Any]) -> Any:
    """Return a decoded JSON value as a struct. Raises msgspec.ValidationError, whose text names the place."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # JSON has one kind of number: 1.0 is the integer 1, as clients write it that have only doubles.
        try:
            return msgspec.convert(_with_integers(value, itertools.repeat(None, _WHOLE_MAX)), kind)
        except _TooManyValues:
            raise error from None


def decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    """Return a function that decodes JSON as `kind`, as leniently as `decode` and `convert` up to 1 MiB.

    It raises msgspec.DecodeError, UnicodeDecodeError or RecursionError.
    """
    strict = msgspec.json.Decoder(kind).decode

    def decode_as_kind(raw: bytes) -> Any:
        _require_memory(len(raw))
        try:
            return strict(raw)
        except msgspec.DecodeError:
            if len(raw) > _CONVERT_MAX:
                raise
            return convert(decode(raw), kind)

    return decode_as_kind


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts."""
    raise ValueError(f"{name} is not JSON")


def _without_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs in all texts by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value


class _TooManyValues(Exception):
    """There are more values than are looked at."""


def _with_integers(value: Any, budget: Iterator[None]) -> Any:
    """Replace floats without a fraction by integers. Raises _TooManyValues past the length of `budget`."""
    if next(budget, budget) is budget:
        raise _TooManyValues
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_integers(item, budget) for item in value]
    if isinstance(value, dict):
        return {name: _with_integers(item, budget) for name, item in value.items()}
    return value
