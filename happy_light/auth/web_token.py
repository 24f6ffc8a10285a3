"""JSON Web Tokens by PyJWT, with the Ed25519 of PyNaCl in the place of cryptography's.

Import it where a token is made or read: PyJWT takes 20 ms, and cryptography would take 45 ms and 4 MiB more.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, cast

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey


class _NoCryptography:
    """Lets one thread, and no other, import nothing more of cryptography. PyJWT does without it then."""

    def __init__(self, thread: int) -> None:
        self.thread: int | None = thread

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing. Raises ModuleNotFoundError to the thread that is to do without."""
        if name in ("cryptography.hazmat", "cryptography.x509") and threading.get_ident() == self.thread:
            raise ModuleNotFoundError(name)


_finder: Final = _NoCryptography(threading.get_ident())
sys.meta_path.insert(0, _finder)  # and not removed: another thread that goes through the list would leave one out
try:
    import jwt
    from jwt.algorithms import Algorithm
finally:
    _finder.thread = None


class _EdDSA(Algorithm):
    """Signatures with Ed25519 (RFC 8037)."""

    def prepare_key(self, key: SigningKey | VerifyKey) -> SigningKey | VerifyKey:
        """Return the key as it is."""
        return key

    def sign(self, msg: bytes, key: SigningKey) -> bytes:
        """Return the signature of a message."""
        return key.sign(msg).signature

    def verify(self, msg: bytes, key: VerifyKey, sig: bytes) -> bool:
        """Return whether a message has this signature."""
        try:
            key.verify(msg, sig)
        except (CryptoError, ValueError):
            return False
        return True

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        """Raise NotImplementedError: no key is given away."""
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        """Raise NotImplementedError: keys are derived from the master secret."""
        raise NotImplementedError


_SIGNATURES: Final = jwt.PyJWS(algorithms=[])
_SIGNATURES.register_algorithm("EdDSA", _EdDSA())


def encode(claims: Mapping[str, Any], key: SigningKey, header: Mapping[str, Any]) -> str:
    """Return a token with these claims, and with `header` beside `alg`; without `typ`, as the original server's."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _SIGNATURES.encode(payload, cast(Any, key), algorithm="EdDSA", headers={"typ": None, **header})


def decode(token: str, key: VerifyKey) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return header and claims, or None if the token is damaged or made with another key. Claims are not judged."""
    try:
        read = _SIGNATURES.decode_complete(token, cast(Any, key), algorithms=["EdDSA"])
        claims = json.loads(read["payload"])
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    return (read["header"], claims) if isinstance(claims, dict) else None


def encode_with_secret(claims: Mapping[str, Any], secret: str) -> str:
    """Return a token that is signed with HMAC-SHA-256."""
    return jwt.encode(dict(claims), secret, algorithm="HS256")
