"""The command `import` as an operator runs it, and what the tests of it share."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import nacl.signing

from happy_light.auth.tokens import Signer
from tests import programs
from tests.client import Account, World
from tests.other_servers import NOW, SECRET

ONE, TWO = "cmaccount0000000000000001", "cmaccount0000000000000002"
SESSION = "cmsession0000000000000001"
HOLDER = {"HANDY_MASTER_SECRET": ""}
"""The server has to find the secret in its folder."""


def command(*arguments: Any, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `happy-server-light …` to its end."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    environ = {**kept, "XDG_CONFIG_HOME": "/nonexistent", **environ}
    return programs.run([str(argument) for argument in arguments], environ, timeout=300)


def imported(*arguments: Any, **environ: str) -> Any:
    """Return the JSON summary of an import that must succeed."""
    done = command("import", *arguments, "--json", **environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*arguments: Any, **environ: str) -> str:
    """Return what an import that must be refused says."""
    done = command("import", *arguments, **environ)
    assert (done.returncode, done.stdout) == (2, ""), (done.stdout, done.stderr)
    assert done.stderr.startswith("happy-server-light: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def signed_in(world: World, account_id: str) -> Account:
    """Return a client with a token that the other server gave out."""
    token = Signer(SECRET, "handy", "handy Persistent Token").mint(account_id, issued_at=NOW // 1000)
    return Account(world, token, nacl.signing.SigningKey.generate())
