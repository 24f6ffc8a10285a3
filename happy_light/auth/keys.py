"""All keys of one server, derived from its master secret."""

from __future__ import annotations

import functools
import hmac
from typing import Final

from happy_light import threads
from happy_light.auth.challenges import Challenges
from happy_light.auth.derivation import derive
from happy_light.auth.sealing import Vault
from happy_light.auth.tokens import Signer, Tokens


class Keys:
    """The keys of one server; each is derived when it is first needed."""

    def __init__(self, secret: str) -> None:
        self.secret: Final = secret
        self.tokens = Tokens(secret)
        self.github = Signer(secret, "github-happy", "github-happy Ephemeral Token")
        self.challenges = Challenges(secret)
        self.vault = Vault(secret)

    @functools.cached_property
    def admin_page(self) -> bytes:
        """The key of the hashes of the admin page's codes and cookies; the first use takes 0.1 s."""
        return derive(self.secret, "happy-server-light admin page")

    async def warm(self) -> None:
        """Derive the key of the tokens on another thread (0.1 s), before the first request needs it."""
        await threads.run(self.tokens.signer.warm)

    def check_value(self) -> str:
        """Return a value that stands for the secret and from which the secret cannot be found (64 hex digits)."""
        return hmac.digest(self.tokens.signer.public_key, b"happy-server-light check", "sha256").hex()
