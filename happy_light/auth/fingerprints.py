"""Fingerprints: short names of public keys, for people to read and type."""

from __future__ import annotations

import base64
import hashlib
import re


def fingerprint(public_key: bytes) -> str:
    """Return 20 hex digits of the key's SHA-256, in groups of four."""
    return _grouped(hashlib.sha256(public_key).hexdigest()[:20])


def parse_fingerprint(text: str) -> str | None:
    """Return the fingerprint of a fingerprint or of a public key (32 bytes in hex or base64), else None."""
    digits = text.strip().lower()
    if re.fullmatch(r"[0-9a-f]{4}(-?[0-9a-f]{4}){4}", digits):
        return _grouped(digits.replace("-", ""))
    if re.fullmatch(r"[0-9a-f]{64}", digits):
        return fingerprint(bytes.fromhex(digits))
    try:
        key = base64.b64decode(text.strip().rstrip("=") + "=", altchars=b"-_" if re.search("[-_]", text) else None)
    except ValueError:
        return None
    return fingerprint(key) if len(key) == 32 else None


def _grouped(digits: str) -> str:
    return "-".join(digits[i : i + 4] for i in range(0, len(digits), 4))
