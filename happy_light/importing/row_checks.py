"""Checks of single values of a row that is to be imported."""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from happy_light.auth.devices import UNKNOWN
from happy_light.blobs import keys
from happy_light.wire import SafeInt

Id = Annotated[str, msgspec.Meta(pattern=rf"\A{keys.ID_PATTERN}\Z")]
"""An id that the server made, or another server; ids of machines and artifacts are the client's own."""
PublicKey = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-F]{64}\Z")]
"""32 bytes in the one form that keys are compared in: upper-case hex."""
DeviceId = Annotated[str, msgspec.Meta(pattern=rf"\A({UNKNOWN}|[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})\Z")]
"""The `jti` of a token, or what stands for all that have no record."""
Flag = Literal[0, 1]
Time = Annotated[int, msgspec.Meta(ge=0, le=8_640_000_000_000_000)]
"""ms since the epoch, up to the last moment that JavaScript knows."""
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Pixels = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


class GithubProfile(msgspec.Struct):
    """What is used of GitHub's own JSON."""

    login: Name
    name: str | None = None
    email: str | None = None
    bio: str | None = None
    avatar_url: str | None = None
    id: SafeInt | str | None = None


class Avatar(msgspec.Struct):
    """A stored avatar."""

    path: str
    width: Pixels | None = None
    height: Pixels | None = None
    thumbhash: str | None = None


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def check_json(column: str, text: str, kind: Any) -> Any:
    """Return the JSON `text` decoded as `kind`. Raises ValueError."""
    try:
        return _decoder(kind).decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"{column}: {error}") from None


def check_base64(column: str, text: str | None) -> None:
    """Raise ValueError if `text` is empty or not base64."""
    try:
        if text is not None and not base64.b64decode(text, validate=True):
            raise ValueError(f"{column}: it is empty")
    except (binascii.Error, UnicodeError):
        raise ValueError(f"{column}: it is not base64") from None


def check_public_key(column: str, account_id: str, path: str) -> None:
    """Raise ValueError if `path` is not the key of a public file of the account."""
    if not keys.is_public_key_of(account_id, path):
        raise ValueError(f"{column}: {path!r:.100} is not a public file of the account")


def check_unicode(values: Iterable[Any]) -> None:
    """Raise ValueError if a text among the values has half of a surrogate pair."""
    for value in values:
        if isinstance(value, str) and not value.isascii():
            value.encode()  # raises UnicodeEncodeError, a ValueError
