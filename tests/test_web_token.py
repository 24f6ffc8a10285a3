"""JSON Web Tokens beside those that PyJWT makes with cryptography: the same are made, and the same refused."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
import textwrap
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from happy_light.auth import web_token

SEED = bytes(range(32))
KEY, THEIRS = SigningKey(SEED), Ed25519PrivateKey.from_private_bytes(SEED)
CLAIMS = {"sub": "cü", "session": None, "iat": 1_760_000_000, "iss": "handy", "list": [1.5, "~~~???"]}


def sign(message: bytes) -> bytes:
    return KEY.sign(message).signature


def decoded(token: str) -> tuple[Any, Any] | None:
    return web_token.decode(token, KEY.verify_key)


def test_cryptography_is_not_imported_for_tokens() -> None:
    code = (
        "import sys; from happy_light.auth.tokens import Signer; signer = Signer('s', 'handy', 'use');"
        "assert signer.verify(signer.mint('c1'))['sub'] == 'c1';"
        "assert 'cryptography.hazmat.bindings._rust' not in sys.modules;"
        "import cryptography.x509"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cryptography_can_be_imported_after_pyjwt_could_not_be() -> None:
    """The file of a module cannot be opened while there are no file handles; the next request tries again."""
    code = (
        "import sys\n"
        "class Fails:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'jwt.api_jws': raise OSError(24, 'Too many open files')\n"
        "sys.meta_path.insert(0, Fails)\n"
        "from happy_light.auth.tokens import Signer\n"
        "signer = Signer('s', 'handy', 'use')\n"
        "try: signer.mint('c1')\n"
        "except OSError: sys.meta_path.remove(Fails)\n"
        "assert signer.verify(signer.mint('c1'))['sub'] == 'c1'\n"
        "import cryptography.x509\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


MEANWHILE = """
    import sys
    import threading
    from importlib.machinery import PathFinder, SourceFileLoader

    done = []

    def other():
        import cryptography.hazmat.primitives.hashes
        done.append(True)

    class Loader(SourceFileLoader):
        def exec_module(self, module):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(20)
            super().exec_module(module)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            spec = PathFinder.find_spec(name, path) if name == "jwt" else None
            if spec is not None:
                spec.loader = Loader(name, spec.loader.path)
            return spec

    sys.meta_path.insert(0, Finder)
    import happy_light.auth.web_token
    assert done == [True]
"""


def test_another_thread_may_import_cryptography_meanwhile() -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(MEANWHILE)], check=True, timeout=60)


def accepted_by_pyjwt(token: str) -> bool:
    try:
        jwt.decode(token, THEIRS.public_key(), algorithms=["EdDSA"], options={"verify_iat": False})
    except (jwt.InvalidTokenError, ValueError):
        return False
    return True


def signed(*parts: bytes) -> str:
    """Return a token of any bytes with a good signature."""
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (text + b"." + base64.urlsafe_b64encode(sign(text)).rstrip(b"=")).decode()


@pytest.mark.parametrize("more", [{}, {"generation": 7}])
def test_tokens_are_those_of_pyjwt(more: dict[str, Any]) -> None:
    token = web_token.encode(CLAIMS, KEY, more)
    assert token == jwt.encode(CLAIMS, THEIRS, algorithm="EdDSA", headers={"typ": None, **more})
    assert decoded(token) == ({"alg": "EdDSA", **more}, CLAIMS)
    secret = "k" * 32
    of_secret = web_token.encode_with_secret(CLAIMS, secret)
    signed_part, _, signature = of_secret.rpartition(".")
    made = hmac.digest(secret.encode(), signed_part.encode(), "sha256")
    assert base64.urlsafe_b64encode(made).rstrip(b"=").decode() == signature
    assert jwt.get_unverified_header(of_secret) == {"alg": "HS256", "typ": "JWT"}


def test_a_token_that_differs_in_one_character_is_refused() -> None:
    token = web_token.encode({"sub": "c1"}, KEY, {})
    assert decoded(token) and accepted_by_pyjwt(token)
    for place in range(len(token) - 1):  # the last character has two bits that are not used
        for other in ("A", "B", "-", ".", "=", "\n", " ", "ü", "\ud800", ""):
            if token[place] != other:
                assert decoded(token[:place] + other + token[place + 1 :]) is None, (place, other)


HEADER, BODY = b'{"alg":"EdDSA"}', b'{"sub":"c1"}'


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b'{"alg":"none"}', BODY), (b'{"alg":"HS256"}', BODY), (b'{"alg":"eddsa"}', BODY), (b'{"alg":["EdDSA"]}', BODY),
        (b"{}", BODY), (b"[]", BODY), (b'"EdDSA"', BODY), (b"", BODY), (b"\xff", BODY), (b"{" * 3, BODY),
        (b"[" * 200_000, BODY), (b'{"alg":"EdDSA","crit":["exp"],"exp":1}', BODY), (b'{"alg":"EdDSA","crit":[]}', BODY),
        (HEADER, b""), (HEADER, b"[]"), (HEADER, b"null"), (HEADER, b"5"), (HEADER, b"\xff\xfe"),
        (HEADER, b"[" * 200_000), (HEADER, b'{"sub":'),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused_even_if_it_is_signed(header: bytes, body: bytes) -> None:
    assert decoded(signed(HEADER, BODY)) is not None
    token = signed(header, body)
    assert decoded(token) is None
    assert not accepted_by_pyjwt(token)


def test_a_token_needs_its_key() -> None:
    text = json.dumps({"sub": "c1"}).encode()
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (HEADER, text)]
    forged = SigningKey(b"o" * 32).sign(b".".join(parts)).signature
    with_public = hmac.digest(bytes(KEY.verify_key), b".".join(parts), "sha256")
    for signature in (forged, with_public, b"", bytes(64), sign(b".".join(parts)) + b"\0", sign(parts[0])):
        token = b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()
        assert decoded(token) is None and not accepted_by_pyjwt(token)
    for few in ("", ".", "..", "...", "a", "a.b", signed(HEADER), signed(HEADER, BODY, b"x")):
        assert decoded(few) is None
