"""One value of another server's table -> the value that this server keeps."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

_INT_MAX: Final = 2**63


class Damaged(ValueError):
    """A value that cannot be what its column says; the row is left out and counted."""


class _Content(msgspec.Struct):
    c: str


_content = msgspec.json.Decoder(_Content)


def text(value: Any) -> str:
    """Text as it is; a number that a loose column holds as its digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Damaged("not UTF-8") from None
    return str(value)


def some_text(value: Any) -> str | None:
    """Text; an empty one counts as none (a localId)."""
    return text(value) or None


def upper(value: Any) -> str:
    """Upper-case hex, as public keys are compared."""
    return text(value).upper()


def status(value: Any) -> str:
    """One of the five states of a relationship."""
    if value not in ("none", "requested", "pending", "friend", "rejected"):
        raise Damaged(f"{value!r:.40} is no status")
    return text(value)


def integer(value: Any) -> int:
    """A whole number, as number or digits."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise Damaged(f"{value!r:.40} is no number") from None
    if not -_INT_MAX <= number < _INT_MAX:
        raise Damaged(f"{number} is out of range")
    return number


def boolean(value: Any) -> int:
    """0 or 1, from a boolean, a number or its words."""
    if isinstance(value, str):
        return int(value.strip().lower() in ("1", "true", "t"))
    return int(bool(value))


def date(value: Any) -> int:
    """ms since the epoch, from such a number (its digits too) or from a text in ISO 8601 or SQL form.

    A text without a zone is UTC.
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
        raise Damaged(f"{shown!r:.40} is no date") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)  # noqa: UP017
    # timestamp() would go through a float, which loses milliseconds to rounding now and then.
    since = when - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017


def blob(value: Any) -> bytes:
    """Bytes as they are."""
    return value.encode() if isinstance(value, str) else bytes(value)


def base64(value: Any) -> str | None:
    """Bytes as they travel; an empty key is none."""
    return b64encode(blob(value)).decode() or None


def json_text(value: Any) -> str:
    """JSON, checked and kept as compact text."""
    return _compact(_json(value))


def ciphertext(value: Any) -> str:
    """The `c` of a message's content `{"t": "encrypted", "c": …}`."""
    if isinstance(value, str | bytes):
        try:
            return _content.decode(value).c
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass  # perhaps JSON inside a JSON text; said below if not
    found = _json(value)
    content = found.get("c") if isinstance(found, dict) else None
    if not isinstance(content, str):
        raise Damaged("its content is not {t, c}")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise Damaged("its content is no Unicode text") from None
    return content


def usage_tokens(value: Any) -> str:
    """The `tokens` of a usage report's data."""
    return _part(value, "tokens")


def usage_cost(value: Any) -> str:
    """The `cost` of a usage report's data."""
    return _part(value, "cost")


def _part(value: Any, name: str) -> str:
    found = _json(value)
    part = found.get(name, {}) if isinstance(found, dict) else None
    if not isinstance(part, dict):
        raise Damaged(f"its data has no such {name}")
    return _compact(part)


def _json(value: Any) -> Any:
    """Decoded JSON; a text inside a text (written by a client library that encoded twice) too."""
    for _ in range(2):
        if not isinstance(value, str | bytes):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Damaged("not JSON") from None
    return value


def _compact(value: Any) -> str:
    try:
        made = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        made.encode()
    except (ValueError, RecursionError):
        raise Damaged("JSON that cannot be kept") from None
    return made
