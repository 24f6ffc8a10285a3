"""Keys derived from the master secret, as the original server derives them (docs/protocol.md section 16)."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

TOKENS: Final = "handy Persistent Token"
"""The usage of the key that signs the tokens of accounts."""

_ROUNDS: Final = 210_000
_BEGUN: Final[dict[tuple[str, str], Future[bytes]]] = {}


def derive(secret: str, usage: str) -> bytes:
    """Return 64 bytes: PBKDF2-HMAC-SHA512 of the secret as UTF-8 text, with `usage` as the salt. Takes about 0.1 s."""
    begun = _BEGUN.pop((secret, usage), None)
    return _derive(secret, usage) if begun is None else begun.result()


def begin(secret: str, usage: str) -> None:
    """Begin to derive what `derive` will be asked for, on a thread: it takes a core, and not the interpreter."""
    thread = ThreadPoolExecutor(1)
    _BEGUN[secret, usage] = thread.submit(_derive, secret, usage)
    thread.shutdown(wait=False)


def _derive(secret: str, usage: str) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", secret.encode(), usage.encode(), _ROUNDS, 64)
