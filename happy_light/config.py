"""ONE table of settings: name, default, environment names, meaning (light.md section 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from happy_light.errors import StartError


@dataclass(frozen=True)
class Setting:
    """A row of the table. `parse` raises ValueError with what is expected."""

    name: str
    default: str | None
    env: tuple[str, ...]
    parse: Callable[[str], Any]
    help: str
    secret: bool = False


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("an integer from 0 to 65535")
    return int(text)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a URL that begins with http:// or https://")
    return text.rstrip("/")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 86_400:
        raise ValueError("seconds from 0 to 86400")
    return value


SETTINGS = (
    Setting("data_dir", "~/.happy/server-light", ("HAPPY_SERVER_LIGHT_DATA_DIR", "DATA_DIR"), _path,
            "the data folder; created at start"),
    Setting("host", "127.0.0.1", ("HOST",), str, "bind address; 0.0.0.0 for the local network"),
    Setting("port", "3005", ("PORT",), _port, "port; 0 picks a free one and prints it"),
    Setting("public_url", None, ("PUBLIC_URL",), _url, "the URL that clients use, when it is not the bind address"),
    Setting("master_secret", None, ("HANDY_MASTER_SECRET",), str,
            "the master secret; generated and kept in the data folder by default", secret=True),
    Setting("session_grace", "30", ("HAPPY_SERVER_LIGHT_SESSION_GRACE",), _seconds,
            "seconds after which a session whose last socket closed becomes inactive"),
)  # fmt: skip


@dataclass
class Settings:
    """The values in force."""

    data_dir: Path
    host: str
    port: int
    public_url: str | None
    master_secret: str | None
    session_grace: float

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "happy-server-light.sqlite"

    @property
    def secret_file(self) -> Path:
        """Where a generated master secret is kept."""
        return self.data_dir / "handy-master-secret.txt"


def load(environ: Mapping[str, str], flags: Mapping[str, str | None]) -> Settings:
    """Flag, then environment (a blank value counts as unset), then default. Raises StartError."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        source, text = f"--{setting.name.replace('_', '-')}", flags.get(setting.name)
        if text is None:
            source = next((name for name in setting.env if environ.get(name, "").strip()), "")
            text = environ[source].strip() if source else setting.default
        try:
            values[setting.name] = None if text is None else setting.parse(text)
        except ValueError as error:
            shown = "the value" if setting.secret else repr(text)
            raise StartError(f"{source} is {shown}, but {error} is expected.") from None
    return Settings(**values)
