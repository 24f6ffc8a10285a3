"""JSON Web Tokens (RFC 7519), signed with the one algorithm that their key is for.

PyJWT does the same, but imports every algorithm that it knows: 17 MB, and 0.1 s in which the event loop would answer
nobody, at the first request. tests/test_web_token.py compares the two.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any


def encode(header: Mapping[str, Any], claims: Mapping[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Return a token with the signature that `sign` makes; `header` names its algorithm, `alg`."""
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return b".".join((signed, _base64url(sign(signed)))).decode()


def decode(
    token: str, algorithm: str, verify: Callable[[bytes, bytes], bool]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return header and claims, or None if the token is damaged or made with another key or algorithm.

    `verify` says whether a message has a signature; nothing of the token is read before. Claims are not judged here.
    """
    try:
        head, body, signature = token.encode().split(b".")
        if not verify(head + b"." + body, _bytes(signature)):
            return None
        header, claims = json.loads(_bytes(head)), json.loads(_bytes(body))
    except (ValueError, RecursionError):
        return None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return None
    # `crit` names what a reader has to understand, of which this one understands nothing (RFC 7515, section 4.1.11).
    return (header, claims) if header.get("alg") == algorithm and "crit" not in header else None


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _bytes(text: bytes) -> bytes:
    """Return what was encoded. Raises ValueError if it was not encoded in exactly this way."""
    data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if _base64url(data) != text:
        raise ValueError("not the base64url of these bytes")
    return data
