"""Try the executable file as on a computer without Python: `python -m tools.try_binary FILE` (`make binary`)."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx
import nacl.signing

_WAIT: Final = 60  # s for a command


class Program:
    """The file, run with nothing but a home folder in its environment."""

    def __init__(self, file: Path, home: Path) -> None:
        self._file = file.resolve()
        self._home = home
        self._environ = {"HOME": str(home)}

    def run(self, *arguments: str) -> str:
        """Return what a command prints. Raises CalledProcessError."""
        command = [str(self._file), *arguments]
        done = subprocess.run(
            command, env=self._environ, cwd=self._home, stdout=subprocess.PIPE, check=True, text=True, timeout=_WAIT
        )
        return done.stdout

    def serve(self) -> tuple[subprocess.Popen[str], str]:
        """Start a server; return its process and its URL."""
        process = subprocess.Popen(
            [str(self._file), "--port", "0"], env=self._environ, cwd=self._home, stdout=subprocess.PIPE, text=True
        )
        url = ""
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                url = url or found[0]
            if line.startswith("Ctrl-C"):
                return process, url
        raise SystemExit("the server did not start")


def check(file: Path, home: Path) -> None:
    """Sign in, store a message, make a backup, find the message after a restart. Raises what goes wrong."""
    program = Program(file, home)
    print(program.run("--version").strip())
    process, url = program.serve()
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/health").json()["status"] == "ok"
        assert "Welcome to Happy Server!" in http.get("/").text
        http.headers["authorization"] = f"Bearer {_token(http)}"
        opened = http.post("/v1/sessions", json={"tag": "t", "metadata": "m", "agentState": None}).json()
        path = f"/v3/sessions/{opened['session']['id']}/messages"
        sent = {"messages": [{"localId": "1", "content": "c"}]}
        assert http.post(path, json=sent).raise_for_status().json()["messages"][0]["seq"] == 1
        token = http.headers["authorization"]
    assert len(json.loads(program.run("accounts", "list", "--json"))) == 1
    program.run("backup", str(home / "backup.tar.gz"))
    process.terminate()
    assert process.wait(_WAIT) == 0
    process, url = program.serve()
    with httpx.Client(base_url=url, trust_env=False, headers={"authorization": token}) as http:
        assert len(http.get(path).raise_for_status().json()["messages"]) == 1
    process.terminate()
    assert process.wait(_WAIT) == 0


def _token(http: httpx.Client) -> str:
    """Return the token of a new account."""
    key, challenge = nacl.signing.SigningKey.generate(), b"0123456789abcdef0123456789abcdef"
    signed: Any = {
        "publicKey": bytes(key.verify_key), "challenge": challenge, "signature": key.sign(challenge).signature,
    }  # fmt: skip
    body = {name: base64.b64encode(value).decode() for name, value in signed.items()}
    return str(http.post("/v1/auth", json=body).raise_for_status().json()["token"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        check(Path(sys.argv[1]), Path(folder))
    print("The file works.")
