"""Proof that a client owns a key: challenges of the server, and signatures of clients."""

from __future__ import annotations

import hmac
import os
from typing import Final


class Challenges:
    """Challenges for sign-in. Each is sealed for the key that has to sign it, so that the server keeps none.

    A challenge is a nonce (16 bytes), the time it was made (8 bytes, ms) and a seal (32 bytes) over both and the key.
    """

    LIFETIME: Final = 5 * 60_000  # ms

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"happy-server-light sign-in challenge", "sha256")

    def make(self, public_key: bytes, now: int) -> bytes:
        """Return a challenge for the owner of `public_key`. `now` in ms."""
        head = os.urandom(16) + now.to_bytes(8)
        return head + self._seal(head, public_key)

    def made_at(self, challenge: bytes, public_key: bytes) -> int | None:
        """Return when this server made the challenge for this key (ms); None if it did not."""
        head, seal = challenge[:24], challenge[24:]
        if len(head) < 24 or not hmac.compare_digest(seal, self._seal(head, public_key)):
            return None
        return int.from_bytes(head[16:])

    def _seal(self, head: bytes, public_key: bytes) -> bytes:
        return hmac.digest(self._key, head + public_key, "sha256")


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made with the private key of `public_key` (32 bytes, Ed25519)."""
    import nacl.exceptions
    import nacl.signing

    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True
