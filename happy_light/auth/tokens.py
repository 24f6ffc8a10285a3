"""Signed tokens: JWTs with the algorithm, issuer and key of the original server (docs/protocol.md section 16)."""

from __future__ import annotations

import functools
import hmac
import math
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import msgspec

from happy_light import clock
from happy_light.auth.derivation import TOKENS, derive
from happy_light.auth.devices import UNKNOWN

if TYPE_CHECKING:
    from nacl.signing import SigningKey

LEEWAY: Final = 2  # s that a token's times may lie ahead of the clock
CACHE_MAX: Final = 10_000  # verified tokens kept
TOKEN_MAX: Final = 4_096  # characters of a token; ours have about 350


class Claims(msgspec.Struct):
    """What a verified token says. `issued_at` in s; `expires`: whether the token has an end.

    `generation`: how often the account had been signed out everywhere; None in tokens that do not say it.
    `device`: the id of the device whose token it is (devices.py). `used`: whether it was since `Tokens.take_used`.
    """

    account_id: str
    issued_at: int
    expires: bool
    generation: int | None = None
    device: str = UNKNOWN
    used: bool = True


class Signer:
    """Signs and verifies the JWTs of one issuer with EdDSA. The key is derived from the secret at the first use."""

    def __init__(self, secret: str, issuer: str, usage: str) -> None:
        self._secret = secret
        self._issuer = issuer
        self._usage = usage

    @functools.cached_property
    def _key(self) -> SigningKey:
        from nacl.signing import SigningKey

        return SigningKey(derive(self._secret, self._usage)[:32])

    def warm(self) -> None:
        """Derive the key now (0.1 s) instead of at the first use."""
        assert self._key is not None

    @property
    def public_key(self) -> bytes:
        """The 32 bytes that tokens are verified with."""
        return bytes(self._key.verify_key)

    def mint(
        self, subject: str, issued_at: int | None = None, generation: int = 0, id: str | None = None, **extra: Any
    ) -> str:
        """Return a token for `subject` with `extra` claims at the top level. `issued_at` in s, now by default.

        `id` is its `jti`, a random UUID by default.

        `generation` stands in the header unless it is 0: such tokens are as the contract has them (docs/protocol.md
        section 2).
        """
        from happy_light.auth import web_token

        now = clock.now_ms() // 1000 if issued_at is None else issued_at
        claims = {
            "sub": subject, **extra, "iat": now, "nbf": now, "iss": self._issuer, "jti": id or str(uuid.uuid4()),
        }  # fmt: skip
        return web_token.encode(claims, self._key, {"generation": generation} if generation else {})

    def verify(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a valid token of this issuer, else None."""
        read = self.read(token)
        return None if read is None else read[1]

    def read(self, token: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return header and claims of a valid token of this issuer, else None."""
        from happy_light.auth import web_token

        read = web_token.decode(token, self._key.verify_key)
        if read is None:
            return None
        _, claims = read
        of_issuer = isinstance(claims.get("sub"), str) and claims.get("iss") == self._issuer
        return read if of_issuer and _is_valid_now(claims) else None


def _is_valid_now(claims: dict[str, Any]) -> bool:
    """Whether the times of a token (s), as far as it has them, fit the time of the server.

    A clock that is behind cannot tell how new a token may be.
    """
    now = clock.now_ms() / 1000
    latest = math.inf if clock.is_behind() else now + LEEWAY
    allowed = {"iat": (-math.inf, latest), "nbf": (-math.inf, latest), "exp": (now - LEEWAY, math.inf)}
    return all(
        isinstance(time := claims[name], int | float) and low < time <= high
        for name, (low, high) in allowed.items()
        if name in claims
    )


class Tokens:
    """The tokens of accounts, with a bounded cache of those that were verified."""

    def __init__(self, secret: str) -> None:
        self.signer = Signer(secret, "handy", TOKENS)
        self._device_key = hmac.digest(secret.encode(), b"happy-server-light device", "sha256")
        self._cache: OrderedDict[str, Claims] = OrderedDict()
        self._cache_max = CACHE_MAX
        self.revocations = 0
        """How often `forget` was called: a check that began before the newest revocation must be repeated."""

    def cached(self, token: str) -> Claims | None:
        """Return the claims of a token that was verified before and not revoked since, else None."""
        claims = self._cache.get(token)
        if claims is not None:
            claims.used = True
        return claims

    def take_used(self) -> set[tuple[str, str]]:
        """Return the devices (account, device) whose cached tokens were used since the last call."""
        used = set()
        for claims in self._cache.values():
            if claims.used:
                claims.used = False
                used.add((claims.account_id, claims.device))
        return used

    def new_device(self) -> str:
        """Return the id of a new device: a random UUID of version 4 that `is_device` knows again.

        Its second half is made of the first one with a key, so that a token with such an id is known to have had a
        record, and is invalid without one. A random UUID has one such half in 2**62.
        """
        head = uuid.uuid4().bytes[:8]
        return self._device_id(head)

    def is_device(self, id: str) -> bool:
        """Whether `new_device` of a server with this secret made this id."""
        try:
            head = uuid.UUID(id).bytes[:8]
        except ValueError:
            return False
        return hmac.compare_digest(self._device_id(head), id)

    def _device_id(self, head: bytes) -> str:
        tail = hmac.digest(self._device_key, head, "sha256")[:8]
        return str(uuid.UUID(bytes=head + tail, version=4))

    def verify(self, token: str) -> Claims | None:
        """Return the claims of a token with a valid signature, issuer and times, else None.

        Whether the account exists and accepts tokens of that age is not checked here.
        """
        if len(token) > TOKEN_MAX:
            return None
        read = self.signer.read(token)
        if read is None:
            return None
        header, claims = read
        issued, generation = claims.get("iat", 0), header.get("generation")
        id = claims.get("jti")
        return Claims(
            claims["sub"],
            int(issued) if isinstance(issued, int | float) else 0,
            "exp" in claims,
            generation if isinstance(generation, int) else None,
            id if isinstance(id, str) and self.is_device(id) else UNKNOWN,
        )

    def remember(self, token: str, claims: Claims) -> None:
        """Make `cached` answer for this token. A token that expires is not kept, so it is verified every time."""
        if claims.expires:
            return
        self._cache[token] = claims
        if len(self._cache) > self._cache_max:
            self._cache.popitem(last=False)

    def forget(self, account_id: str, device: str | None = None) -> None:
        """Drop the tokens of an account, or of one of its devices, from the cache, since it was signed out."""
        self.revocations += 1
        for token, claims in list(self._cache.items()):
            if claims.account_id == account_id and device in (None, claims.device):
                del self._cache[token]

    def trust_cache(self, trusted: bool) -> None:
        """Keep verified tokens only while this process hears of sign-outs elsewhere; begin with none."""
        self.revocations += 1
        self._cache.clear()
        self._cache_max = CACHE_MAX if trusted else 0
