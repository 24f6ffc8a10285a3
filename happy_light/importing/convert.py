"""Convert one value of another server's table into the value that is stored here.

The functions raise InvalidRow for what cannot be converted; rows.py says whether the result may be stored.
"""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

from happy_light.importing.rows import InvalidRow

_INT_MAX: Final = 2**63


class _Content(msgspec.Struct):
    c: str


_content = msgspec.json.Decoder(_Content)


def text(value: Any) -> str:
    """Return text as it is; a number as its digits, since columns of SQLite may hold any type."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRow("not UTF-8") from None
    return str(value)


def some_text(value: Any) -> str | None:
    """Return text, None for an empty one."""
    return text(value) or None


def upper(value: Any) -> str:
    """Return text in upper case, the form in which public keys are stored."""
    return text(value).upper()


def status(value: Any) -> str:
    """Return the status of a relationship."""
    if value not in ("none", "requested", "pending", "friend", "rejected"):
        raise InvalidRow(f"{value!r:.40} is not a status")
    return text(value)


def integer(value: Any) -> int:
    """Return an integer, from a number or its digits."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRow(f"{value!r:.40} is not a number") from None
    if not -_INT_MAX <= number < _INT_MAX:
        raise InvalidRow(f"{number} is out of range")
    return number


def message_seq(value: Any) -> int:
    """Return the seq of a message; 0, from servers that had none yet, is 1."""
    return integer(value) or 1


def boolean(value: Any) -> int:
    """Return 0 or 1, from a boolean, a number or a word."""
    if isinstance(value, str):
        return int(value.strip().lower() in ("1", "true", "t"))
    return int(bool(value))


def date(value: Any) -> int:
    """Return ms since the epoch, from such a number, its digits, or text in ISO 8601 or SQL form.

    Text without a time zone is UTC.
    """
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return integer(value)
    shown = text(value).strip()
    if shown.lstrip("-").isdigit():
        return integer(shown)
    try:
        when = datetime.fromisoformat(shown)
    except ValueError:
        raise InvalidRow(f"{shown!r:.40} is not a date") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)  # noqa: UP017
    # timestamp() would go through a float, which loses milliseconds to rounding now and then.
    since = when - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017


def blob(value: Any) -> bytes:
    """Return bytes as they are."""
    return value.encode() if isinstance(value, str) else bytes(value)


def base64(value: Any) -> str | None:
    """Return bytes in base64, as keys travel; None for an empty key."""
    return b64encode(blob(value)).decode() or None


def json_text(value: Any) -> str:
    """Return JSON as compact text."""
    return _compact(_json(value))


def ciphertext(value: Any) -> str:
    """Return the `c` of a message's content `{"t": "encrypted", "c": …}`."""
    if isinstance(value, str | bytes):
        try:
            return _content.decode(value).c
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass  # it may be JSON inside a JSON string, which is tried below
    found = _json(value)
    content = found.get("c") if isinstance(found, dict) else None
    if not isinstance(content, str):
        raise InvalidRow("its content is not {t, c}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise InvalidRow("its content is not Unicode text") from None
    return content


def usage_tokens(value: Any) -> str:
    """Return the `tokens` of a usage report's data."""
    return _part(value, "tokens")


def usage_cost(value: Any) -> str:
    """Return the `cost` of a usage report's data."""
    return _part(value, "cost")


def _part(value: Any, name: str) -> str:
    found = _json(value)
    part = found.get(name, {}) if isinstance(found, dict) else None
    if not isinstance(part, dict):
        raise InvalidRow(f"its data has no such {name}")
    return _compact(part)


def _json(value: Any) -> Any:
    """Return decoded JSON; JSON inside a JSON string, from a library that encoded twice, is decoded, too."""
    for _ in range(2):
        if not isinstance(value, str | bytes):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InvalidRow("not JSON") from None
    return value


def _compact(value: Any) -> str:
    try:
        made = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        made.encode()
    except (ValueError, RecursionError):
        raise InvalidRow("JSON that cannot be stored") from None
    return made
