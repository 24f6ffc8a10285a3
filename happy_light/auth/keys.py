"""The master secret and everything derived from it: tokens and sealing (protocol.md section 16).

All derivations are those of the original server, so that one secret opens the same doors in both.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import os
import re
import secrets
import time
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from happy_light.errors import OperatorError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ROUNDS = 210_000
_LEEWAY = 2  # s; a token may be minted a moment ahead, so that a sign-out in the same second spares it
_CACHE_MAX = 10_000  # verified tokens remembered
_TOKEN_MAX = 4_096  # characters; ours have about 350


def derive(secret: str, usage: str) -> bytes:
    """PBKDF2-HMAC-SHA512 of the secret (a string, never decoded), 64 bytes. Takes about 0.1 s."""
    return hashlib.pbkdf2_hmac("sha512", secret.encode(), usage.encode(), _ROUNDS, 64)


class Claims(msgspec.Struct):
    """What a verified token says. `issued_at` in s."""

    account_id: str
    issued_at: int


class Signer:
    """Mints and verifies JWTs of one purpose: alg EdDSA, issuer and key of its own."""

    def __init__(self, secret: str, issuer: str, usage: str) -> None:
        self._secret = secret
        self._issuer = issuer
        self._usage = usage

    @functools.cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(derive(self._secret, self._usage)[:32])

    @functools.cached_property
    def _public(self) -> Any:
        return self._key.public_key()

    def warm(self) -> None:
        """Derives the key now (0.1 s) instead of at the first use."""
        assert self._public is not None

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that tokens are verified with."""
        raw: bytes = self._public.public_bytes_raw()
        return raw

    def mint(self, subject: str, issued_at: int | None = None, **extra: Any) -> str:
        """A token for `subject`; `extra` claims go to the top level. `issued_at` in s."""
        import jwt

        now = int(time.time()) if issued_at is None else issued_at
        claims = {
            "sub": subject, **extra, "iat": now, "nbf": now, "iss": self._issuer, "jti": str(uuid.uuid4()),
        }  # fmt: skip
        # The original's header has no `typ`; PyJWT leaves it out when it is None.
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"typ": None})

    def verify(self, token: str) -> dict[str, Any] | None:
        """The claims, or None for whatever is not a valid token of this issuer."""
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token, self._public, algorithms=["EdDSA"], issuer=self._issuer, leeway=_LEEWAY,
                options={"verify_aud": False, "require": ["sub"]},
            )  # fmt: skip
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            return None
        return claims


class Tokens:
    """Account tokens: minted once, verified once and then remembered (bounded)."""

    def __init__(self, secret: str) -> None:
        self.signer = Signer(secret, "handy", "handy Persistent Token")
        self._cache: OrderedDict[str, Claims] = OrderedDict()
        self.generation = 0
        """Rises with every sign-out, so that a check that was under way meanwhile is not remembered."""

    def cached(self, token: str) -> str | None:
        """The account of a token that was found good before, else None."""
        claims = self._cache.get(token)
        if claims is None:
            return None
        return claims.account_id

    def verify(self, token: str) -> tuple[Claims, bool] | None:
        """Signature, issuer and times; whether the account still exists is the caller's business.

        -> the claims and whether they may be remembered (a token that expires is checked each time).
        """
        if len(token) > _TOKEN_MAX:
            return None
        claims = self.signer.verify(token)
        if claims is None or not isinstance(claims["sub"], str):
            return None
        issued = claims.get("iat", 0)
        return Claims(claims["sub"], int(issued) if isinstance(issued, int | float) else 0), "exp" not in claims

    def remember(self, token: str, claims: Claims) -> None:
        """From now on `cached` answers for this token."""
        self._cache[token] = claims
        if len(self._cache) > _CACHE_MAX:
            self._cache.popitem(last=False)

    def forget(self, account_id: str) -> None:
        """Tokens of this account are looked at anew: it was deleted or signed out."""
        self.generation += 1
        for token in [token for token, claims in self._cache.items() if claims.account_id == account_id]:
            del self._cache[token]


class Challenges:
    """What a client signs to show that a key is its own: sealed for that key, so that nothing is kept here.

    A challenge is nonce (16 bytes), time it was made (8, ms) and a seal (32) over both and the key.
    """

    LIFETIME: Final = 5 * 60_000  # ms

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"happy-server-light sign-in challenge", "sha256")

    def make(self, public_key: bytes, now: int) -> bytes:
        """A challenge for the owner of `public_key`. `now` in ms."""
        head = os.urandom(16) + now.to_bytes(8)
        return head + self._seal(head, public_key)

    def made_at(self, challenge: bytes, public_key: bytes) -> int | None:
        """When we made this challenge for this key (ms); None if we did not."""
        head, seal = challenge[:24], challenge[24:]
        if len(head) < 24 or not hmac.compare_digest(seal, self._seal(head, public_key)):
            return None
        return int.from_bytes(head[16:])

    def _seal(self, head: bytes, public_key: bytes) -> bytes:
        return hmac.digest(self._key, head + public_key, "sha256")


class Vault:
    """Seals vendor and GitHub tokens at rest with keys of a tree below the master secret."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @functools.cached_property
    def root(self) -> bytes:
        """The first chain code."""
        return derive(self._secret, "happy-server-tokens")

    def key(self, path: list[str]) -> bytes:
        """The 32-byte AES key of a path."""
        chain, key = self.root, b""
        for name in [*path, "#aes256"]:
            i = hmac.digest(chain, b"\0" + name.encode(), "sha512")
            key, chain = i[:32], i[32:]
        return key

    def seal(self, path: list[str], plain: str) -> bytes:
        """0x00, nonce (12), AES-256-GCM ciphertext and tag (16)."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(12)
        return b"\0" + nonce + AESGCM(self.key(path)).encrypt(nonce, plain.encode(), None)

    def open(self, path: list[str], sealed: bytes) -> str | None:
        """What `seal` was given; None if it was sealed with another secret or is damaged."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self.key(path)).decrypt(sealed[1:13], sealed[13:], None).decode()
        except (InvalidTag, ValueError):
            return None


class Keys:
    """All keys of one server, made from its master secret when they are first needed."""

    def __init__(self, secret: str) -> None:
        self.secret: Final = secret
        self.tokens = Tokens(secret)
        self.github = Signer(secret, "github-happy", "github-happy Ephemeral Token")
        self.challenges = Challenges(secret)
        self.vault = Vault(secret)

    async def warm(self) -> None:
        """Derives the token key on another thread, so that a start does not wait for it."""
        await asyncio.to_thread(self.tokens.signer.warm)

    def check_value(self) -> str:
        """Kept in the database to notice that the secret changed; says nothing about the secret."""
        return hmac.digest(self.tokens.signer.public_key, b"happy-server-light check", "sha256").hex()


def fingerprint(public_key: bytes) -> str:
    """A short name of a key for people: 20 hex digits of its SHA-256 in groups of four."""
    return _grouped(hashlib.sha256(public_key).hexdigest()[:20])


def fingerprint_of(text: str) -> str | None:
    """The fingerprint that is meant by a fingerprint or a public key (32 bytes in hex or base64), else None."""
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


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` is by the owner of `public_key` (32 bytes, Ed25519)."""
    import nacl.exceptions
    import nacl.signing

    try:
        nacl.signing.VerifyKey(public_key).verify(message, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError, TypeError):
        return False
    return True


def master_secret(configured: str | None, file: Path) -> str:
    """The configured secret, else the file's trimmed text, else a new one written to the file.

    Two processes that start at once agree on one secret: it is written whole to a file of its own and
    then given its name, which fails if the name exists. Raises StartError.
    """
    if configured:
        return configured
    try:
        if not file.exists():
            made = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=")
            draft = file.with_name(f".{file.name}.{os.getpid()}")
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(handle, made)
                os.fsync(handle)
            finally:
                os.close(handle)
            try:
                os.link(draft, file)
            except FileExistsError:
                pass  # another process was first: its secret counts
            finally:
                draft.unlink()
    except OSError as error:
        raise OperatorError(f"The master secret {file} cannot be made: {error.strerror}.") from error
    text = secret_in(file)
    if not text:
        raise OperatorError(
            f"The master secret file {file} is empty; put the secret back into it, or remove the file to get "
            "a new one (which signs everyone out)."
        )
    return text


def secret_in(file: Path) -> str:
    """The file's trimmed text. Raises StartError."""
    try:
        return file.read_text("utf-8").strip()
    except OSError as error:
        raise OperatorError(
            f"The master secret {file} cannot be read: {error.strerror}; make it a file that this user can read."
        ) from error
    except UnicodeDecodeError as error:
        raise OperatorError(f"The master secret file {file} is not text; put the secret back into it.") from error
