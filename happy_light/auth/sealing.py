"""Encryption of vendor and GitHub tokens in the database (docs/protocol.md section 16)."""

from __future__ import annotations

import functools
import hmac
import os

from happy_light.auth.derivation import derive


class Vault:
    """Seals texts with AES-256-GCM keys of a tree that is derived from the master secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @functools.cached_property
    def root(self) -> bytes:
        """The first chain code of the tree (64 bytes), derived at the first use."""
        return derive(self._secret, "happy-server-tokens")

    def key(self, path: list[str]) -> bytes:
        """Return the 32-byte AES key of a path."""
        chain, key = self.root, b""
        for name in [*path, "#aes256"]:
            i = hmac.digest(chain, b"\0" + name.encode(), "sha512")
            key, chain = i[:32], i[32:]
        return key

    def seal(self, path: list[str], plain: str) -> bytes:
        """Return 0x00, the nonce (12 bytes), the ciphertext and its tag (16 bytes)."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        return b"\0" + nonce + AESGCM(self.key(path)).encrypt(nonce, plain.encode(), None)

    def open(self, path: list[str], sealed: bytes) -> str | None:
        """Return what `seal` was given; None if it was sealed with another secret or path, or is damaged."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self.key(path)).decrypt(sealed[1:13], sealed[13:], None).decode()
        except (InvalidTag, ValueError):
            return None
