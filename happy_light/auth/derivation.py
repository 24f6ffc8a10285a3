"""Keys derived from the master secret, as the original server derives them (docs/protocol.md section 16)."""

from __future__ import annotations

import hashlib
from typing import Final

_ROUNDS: Final = 210_000


def derive(secret: str, usage: str) -> bytes:
    """Return 64 bytes: PBKDF2-HMAC-SHA512 of the secret as UTF-8 text, with `usage` as the salt. Takes about 0.1 s."""
    return hashlib.pbkdf2_hmac("sha512", secret.encode(), usage.encode(), _ROUNDS, 64)
