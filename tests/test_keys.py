"""Keys: the same secret gives the same keys as in the original server (vectors.json holds what that made)."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from happy_light.auth.derivation import derive
from happy_light.auth.keys import Keys
from happy_light.domains.github import oauth

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
SECRET: str = VECTORS["secret"]
PERSISTENT, TREE = VECTORS["persistent"], VECTORS["keyTree"]


@pytest.fixture(scope="module")
def ours() -> Keys:
    return Keys(SECRET)


def test_derivation() -> None:
    assert derive(SECRET, "handy Persistent Token").hex() == PERSISTENT["derived"]


def test_public_keys_of_both_signers(ours: Keys) -> None:
    assert ours.tokens.signer.public_key.hex() == PERSISTENT["publicKey"]
    assert ours.github.public_key.hex() == VECTORS["ephemeral"]["publicKey"]


def test_tokens_of_the_original_are_good(ours: Keys) -> None:
    verified = ours.tokens.verify(PERSISTENT["token"])
    assert verified is not None
    assert verified.account_id == PERSISTENT["accountId"]
    claims = ours.tokens.signer.verify(PERSISTENT["terminalToken"])
    assert claims is not None
    assert (claims["sub"], claims["session"]) == (PERSISTENT["accountId"], PERSISTENT["session"])


def test_tokens_of_ours_look_like_the_originals(ours: Keys) -> None:
    token = ours.tokens.signer.mint("account", session="request")
    theirs = jwt.decode(PERSISTENT["terminalToken"], options={"verify_signature": False})
    claims = jwt.decode(token, options={"verify_signature": False})
    assert list(claims) == list(theirs)
    assert jwt.get_unverified_header(token) == jwt.get_unverified_header(PERSISTENT["token"])
    assert claims["sub"] == "account"
    assert claims["iss"] == "handy"
    assert claims["iat"] == claims["nbf"] <= time.time()


def test_a_token_that_expires_is_verified_every_time(ours: Keys) -> None:
    lasting, expiring = ours.tokens.signer.mint("a"), ours.tokens.signer.mint("a", exp=int(time.time()) + 60)
    for token, cached in ((lasting, "a"), (expiring, None)):
        claims = ours.tokens.verify(token)
        assert claims is not None
        ours.tokens.remember(token, claims)
        found = ours.tokens.cached(token)
        assert (found and found.account_id) == cached


def test_the_key_tree_and_what_the_original_sealed(ours: Keys) -> None:
    vault = ours.vault
    assert vault.root.hex() == TREE["root"]
    assert vault.key(TREE["path"]).hex() == TREE["key"]
    assert vault.open(TREE["path"], base64.b64decode(TREE["stored"])) == TREE["plaintext"]


def test_what_is_sealed_can_be_opened_with_its_path_and_secret_only(ours: Keys) -> None:
    vault, path = ours.vault, ["user", "a", "github", "token"]
    for plain in ("", "gho_ü", "x" * 100_000):
        sealed = vault.seal(path, plain)
        assert len(sealed) == 1 + 12 + len(plain.encode()) + 16
        assert sealed[0] == 0
        assert vault.open(path, sealed) == plain
        assert sealed != vault.seal(path, plain)
        assert vault.open(["user", "b", "github", "token"], sealed) is None
        for spoilt in (b"", b"\0", sealed[:-1], sealed[:20], sealed + b"x", bytes([*sealed[:-1], sealed[-1] ^ 1])):
            assert vault.open(path, spoilt) is None
    assert Keys("another").vault.open(TREE["path"], base64.b64decode(TREE["stored"])) is None


def test_a_state_is_good_for_five_minutes_and_nothing_else_is_one(ours: Keys) -> None:
    state = oauth.make_state(ours.github, "account")
    claims = jwt.decode(state, options={"verify_signature": False})
    assert claims["iss"] == "github-happy"
    assert claims["exp"] == claims["iat"] + 300
    assert oauth.account_of_state(ours.github, state) == "account"
    old = ours.github.mint("account", issued_at=int(time.time()) - 400, exp=int(time.time()) - 100)
    for bad in (
        "", "bad", "a.b.c", state[:-3], old, ours.tokens.signer.mint("account"), ours.github.mint("account"),
        Keys("another").github.mint("account", exp=int(time.time()) + 300), "x" * 5000,
        f"{state}{os.urandom(2).hex()}",
    ):  # fmt: skip
        assert oauth.account_of_state(ours.github, bad) is None
    assert ours.tokens.verify(state) is None  # and a state lets nobody in
