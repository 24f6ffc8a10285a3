"""Every setting, once: a field of `Settings` is the row of the table that all else is made from.

`setting(group, default, parse, help, *names of environment variables)` makes a row; a new setting is one
new field. From the rows come the flags of `--help`, the command `config`, the table in the README and the
keys of the configuration file. A value is looked for in this order: flag, environment, configuration file
(in the data folder, then in the user's configuration folder), default. Blank counts as unset.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from happy_light.config import setting_types as types
from happy_light.config.setting_types import Network
from happy_light.errors import OperatorError

FILE_NAME = "happy-server-light.toml"
DEFAULT = "default"

_SERVER, _LIMITS, _TLS, _WEB, _OPERATION = "Server", "Limits", "TLS", "Web app", "Operation"
_PUSH, _GITHUB, _VOICE, _DEVELOPERS = "Push messages", "GitHub", "Voice", "Developers"


@dataclass(frozen=True)
class Row:
    """A setting. `default` is text that `parse` takes; `parse` raises ValueError with what is expected.

    `shown` is what documentation calls the default. `everywhere`: every command has it as a flag, not only
    those that serve. A secret has no flag, since every user of the computer can read command lines.
    """

    name: str
    group: str
    default: str | None
    parse: Callable[[str], Any]
    help: str
    env: tuple[str, ...]
    secret: bool
    shown: str
    everywhere: bool

    @property
    def option(self) -> str:
        """The flag."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        """What the flag takes, in one word."""
        return self.name.rpartition("_")[2].upper()


def setting(
    group: str,
    default: str | None,
    parse: Callable[[str], Any],
    help: str,
    *env: str,
    secret: bool = False,
    shown: str = "",
    everywhere: bool = False,
) -> Any:
    """A field of Settings with its row; the first of `env` is the name to use, the others are older ones."""
    shown = shown or default or "unset"
    return dataclasses.field(metadata={"row": Row("", group, default, parse, help, env, secret, shown, everywhere)})


@dataclass(kw_only=True)
class Settings:
    """The values in force, and where each came from (`origins`: a flag, a variable, a file or "default")."""

    # fmt: off
    data_dir: Path = setting(
        _SERVER, "~/.happy/server-light", types.path, "the data folder; created at start",
        "HAPPY_SERVER_LIGHT_DATA_DIR", "DATA_DIR", everywhere=True)
    files_dir: Path | None = setting(
        _SERVER, None, types.path, "folder of the public files, served under /files",
        "HAPPY_SERVER_LIGHT_FILES_DIR", shown="<data>/files", everywhere=True)
    database_url: Path | None = setting(
        _SERVER, None, types.database, "the SQLite file: a path or a file: URL",
        "DATABASE_URL", shown="<data>/happy-server-light.sqlite", everywhere=True)
    master_secret: str | None = setting(
        _SERVER, None, types.text, "the master secret, which signs tokens; made once and kept in the data folder",
        "HANDY_MASTER_SECRET", secret=True, shown="generated")
    host: str = setting(_SERVER, "127.0.0.1", types.text, "bind address; 0.0.0.0 for the local network", "HOST")
    port: int = setting(_SERVER, "3005", types.port, "port; 0 picks a free one and prints it", "PORT")
    public_url: str | None = setting(
        _SERVER, None, types.url, "the URL that clients use, if it is not the bind address (behind a proxy)",
        "PUBLIC_URL", shown="derived")
    trusted_proxies: tuple[Network, ...] = setting(
        _SERVER, "127.0.0.0/8, ::1", types.networks,
        "networks of the proxies whose X-Forwarded headers count; `none` for no proxy", "TRUSTED_PROXIES")
    registration: str = setting(
        _SERVER, "open", types.one_of("open", "first", "closed"),
        "who may make an account: anyone, only the first, or nobody", "HAPPY_SERVER_LIGHT_REGISTRATION")
    session_grace: float = setting(
        _SERVER, "30", types.seconds, "seconds after which a session whose last socket closed becomes inactive",
        "HAPPY_SERVER_LIGHT_SESSION_GRACE")

    sign_in_rate: int = setting(
        _LIMITS, "600", types.count, "requests without a token that one address may make in a minute; 0: any number",
        "HAPPY_SERVER_LIGHT_SIGN_IN_RATE")
    stranger_connections: int = setting(
        _LIMITS, "100", types.count, "socket connections of one address that have not signed in yet; 0: any number",
        "HAPPY_SERVER_LIGHT_STRANGER_CONNECTIONS")
    account_sockets: int = setting(
        _LIMITS, "5000", types.count, "sockets of one account at a time; 0: any number",
        "HAPPY_SERVER_LIGHT_ACCOUNT_SOCKETS")
    account_calls: int = setting(
        _LIMITS, "1000", types.count, "RPC calls of one account under way; 0: any number",
        "HAPPY_SERVER_LIGHT_ACCOUNT_CALLS")
    account_methods: int = setting(
        _LIMITS, "1000", types.count, "RPC methods that one socket may register; 0: any number",
        "HAPPY_SERVER_LIGHT_ACCOUNT_METHODS")
    account_bodies: int = setting(
        _LIMITS, "400000000", types.count, "bytes of request bodies of one account in memory at once; 0: any number",
        "HAPPY_SERVER_LIGHT_ACCOUNT_BODIES")

    tls_cert: Path | None = setting(_TLS, None, types.path, "certificate chain (PEM) to serve HTTPS with", "TLS_CERT")
    tls_key: Path | None = setting(_TLS, None, types.path, "private key (PEM) of the certificate", "TLS_KEY")

    ui_dir: Path | None = setting(
        _WEB, None, types.path, "folder of a built web app to serve",
        "HAPPY_SERVER_UI_DIR", "HAPPY_SERVER_LIGHT_UI_DIR", "HAPPY_STATIC_DIR")
    ui_prefix: str = setting(
        _WEB, "/", types.prefix, "where the web app is mounted: / or /ui",
        "HAPPY_SERVER_UI_PREFIX", "HAPPY_SERVER_LIGHT_UI_PREFIX")
    inject_html_config: dict[str, Any] | None = setting(
        _WEB, None, types.json_object, "JSON merged over the configuration that every index.html gets",
        "HAPPY_INJECT_HTML_CONFIG")
    webapp_url: str | None = setting(
        _WEB, None, types.url, "where the browser goes back to after GitHub",
        "HAPPY_WEBAPP_URL", shown="the served web app, else https://app.happy.engineering")

    log_level: str = setting(
        _OPERATION, "info", types.one_of("debug", "info", "warning", "error"), "how much is logged", "LOG_LEVEL")
    log_format: str = setting(
        _OPERATION, "text", types.one_of("text", "json"), "log as lines of text or of JSON", "LOG_FORMAT")
    metrics_enabled: bool = setting(
        _OPERATION, "true", types.flag, "Prometheus metrics at /metrics on a port of their own", "METRICS_ENABLED")
    metrics_host: str = setting(
        _OPERATION, "127.0.0.1", types.text, "bind address of the metrics", "METRICS_HOST")
    metrics_port: int = setting(
        _OPERATION, "9090", types.port, "port of the metrics; 0 picks a free one", "METRICS_PORT")
    prune_sessions_inactive: int | None = setting(
        _OPERATION, None, types.duration, "every day, delete sessions that were inactive for so long, like 90d",
        "HAPPY_SERVER_LIGHT_PRUNE_SESSIONS_INACTIVE")
    prune_messages_older: int | None = setting(
        _OPERATION, None, types.duration, "every day, delete messages that are older, like 180d",
        "HAPPY_SERVER_LIGHT_PRUNE_MESSAGES_OLDER")

    push_enabled: bool = setting(
        _PUSH, "true", types.flag, "send push messages to phones through Expo", "HAPPY_SERVER_LIGHT_PUSH")
    expo_url: str = setting(
        _PUSH, "https://exp.host/--/api/v2/push/send", types.url, "Expo's address", "HAPPY_SERVER_LIGHT_EXPO_URL")
    expo_access_token: str | None = setting(
        _PUSH, None, types.text, "Expo's access token, if the app's project wants one",
        "EXPO_ACCESS_TOKEN", secret=True)

    github_client_id: str | None = setting(
        _GITHUB, None, types.text, "GitHub OAuth app: client id", "GITHUB_CLIENT_ID")
    github_client_secret: str | None = setting(
        _GITHUB, None, types.text, "GitHub OAuth app: client secret", "GITHUB_CLIENT_SECRET", secret=True)
    github_redirect_url: str | None = setting(
        _GITHUB, None, types.url, "GitHub OAuth app: callback, <server>/v1/connect/github/callback",
        "GITHUB_REDIRECT_URL")
    github_webhook_secret: str | None = setting(
        _GITHUB, None, types.text, "what GitHub signs webhooks with", "GITHUB_WEBHOOK_SECRET", secret=True)
    github_url: str = setting(
        _GITHUB, "https://github.com", types.url, "GitHub's address for browsers", "HAPPY_SERVER_LIGHT_GITHUB_URL")
    github_api_url: str = setting(
        _GITHUB, "https://api.github.com", types.url, "GitHub's API", "HAPPY_SERVER_LIGHT_GITHUB_API_URL")

    elevenlabs_api_key: str | None = setting(
        _VOICE, None, types.text, "ElevenLabs key, for voice conversations", "ELEVENLABS_API_KEY", secret=True)
    elevenlabs_url: str = setting(
        _VOICE, "https://api.elevenlabs.io", types.url, "ElevenLabs' API", "HAPPY_SERVER_LIGHT_ELEVENLABS_URL")
    revenuecat_api_key: str | None = setting(
        _VOICE, None, types.text, "RevenueCat key: with it the free limit holds for those without a subscription",
        "REVENUECAT_API_KEY", secret=True)
    revenuecat_url: str = setting(
        _VOICE, "https://api.revenuecat.com", types.url, "RevenueCat's API", "HAPPY_SERVER_LIGHT_REVENUECAT_URL")
    voice_free_seconds: int = setting(
        _VOICE, "1200", types.count, "seconds of voice in 30 days without a subscription",
        "HAPPY_SERVER_LIGHT_VOICE_FREE_SECONDS")
    voice_max_seconds: int = setting(
        _VOICE, "18000", types.count, "seconds of voice in 30 days for everyone",
        "HAPPY_SERVER_LIGHT_VOICE_MAX_SECONDS")
    livekit_url: str | None = setting(_VOICE, None, types.text, "LiveKit server, wss://…", "LIVEKIT_URL")
    livekit_api_key: str | None = setting(_VOICE, None, types.text, "LiveKit key", "LIVEKIT_API_KEY")
    livekit_api_secret: str | None = setting(
        _VOICE, None, types.text, "LiveKit secret that signs its tokens", "LIVEKIT_API_SECRET", secret=True)

    debug_log: bool = setting(
        _DEVELOPERS, "false", types.flag, "take the clients' own logs at /logs-combined-…, into the data folder",
        "DANGEROUSLY_LOG_TO_SERVER_FOR_AI_AUTO_DEBUGGING")

    # fmt: on
    origins: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.database_url or self.data_dir / "happy-server-light.sqlite"

    @property
    def files(self) -> Path:
        """Folder of the public files."""
        return self.files_dir or self.data_dir / "files"

    @property
    def attachments(self) -> Path:
        """Folder of the private attachments; in it sessions/<sessionId>/."""
        return self.data_dir / "attachments"

    def attachments_of(self, session_id: str) -> Path:
        """Folder of a session's attachments."""
        return self.attachments / "sessions" / session_id

    @property
    def secret_file(self) -> Path:
        """Where a generated master secret is kept."""
        return self.data_dir / "handy-master-secret.txt"


SETTINGS: tuple[Row, ...] = tuple(
    dataclasses.replace(field.metadata["row"], name=field.name)
    for field in dataclasses.fields(Settings)
    if "row" in field.metadata
)
_BY_NAME = {row.name: row for row in SETTINGS}


def load(environ: Mapping[str, str], flags: Mapping[str, Any], user_file: Path | None = None) -> Settings:
    """Puts together flags, environment, configuration files and defaults.

    `flags`: text by the name of the setting. `user_file`: the user's configuration file, by default where
    platformdirs says. Raises StartError for a value that does not fit and for an unknown key in a file.
    """
    user = _read(user_file or _user_file())
    data_dir, _ = _value(_BY_NAME["data_dir"], environ, flags, (user,))
    own = _read(data_dir / FILE_NAME)
    if "data_dir" in own.texts:
        raise OperatorError(
            f"data_dir in {own.path} has no effect, since that file lies in the data folder; remove it."
        )
    found: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for row in SETTINGS:
        found[row.name], origins[row.name] = _value(row, environ, flags, (own, user))
    settings = Settings(**found, origins=origins)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "TLS_KEY" if settings.tls_key is None else "TLS_CERT"
        raise OperatorError(f"{missing} is not set, but TLS needs both TLS_CERT and TLS_KEY.")
    return settings


@dataclass
class _File:
    """A configuration file: the texts of its keys."""

    path: Path
    texts: dict[str, str]


def _user_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("happy-server-light") / FILE_NAME


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            import tomllib

            keys = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return _File(path, {})
    except OSError as error:
        raise OperatorError(f"The configuration file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OperatorError(f"The configuration file {path} is not TOML: {error}.") from error
    unknown = sorted(keys.keys() - _BY_NAME.keys())
    if unknown:
        raise OperatorError(f"{unknown[0]} in {path} is no setting; `happy-server-light config` lists them.")
    return _File(path, {name: _text(value) for name, value in keys.items()})


def _text(value: Any) -> str:
    """A TOML value as it would be written in the environment."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return json.dumps(value, default=str) if isinstance(value, dict | bool) else str(value)


def _value(row: Row, environ: Mapping[str, str], flags: Mapping[str, Any], files: Iterable[_File]) -> tuple[Any, str]:
    """-> the value and its origin"""
    places = [
        (row.option, row.option, flags.get(row.name)),
        *((name, name, environ.get(name)) for name in row.env),
        *((f"{row.name} in {file.path}", str(file.path), file.texts.get(row.name)) for file in files),
        (row.name, DEFAULT, row.default),
    ]
    for place, origin, given in places:
        if given is None or not given.strip():
            continue
        try:
            return row.parse(given.strip()), origin
        except ValueError as error:
            # A URL may carry a password, whatever the setting is.
            shown = "a secret" if row.secret else repr(re.sub(r"//[^/@]*@", "//…@", given.strip()))
            raise OperatorError(f"{place} is {shown}, but should be {error}.") from None
    return None, DEFAULT


def shown(row: Row, value: Any) -> str:
    """A value as a person reads it: secrets masked, an unset one as documentation calls its default."""
    if value is None:
        return row.shown
    if row.secret:
        return "********"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return (
        json.dumps(value)
        if isinstance(value, bool | dict)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def table() -> str:
    """The table of settings in the README, as Markdown."""
    lines = []
    for group in dict.fromkeys(row.group for row in SETTINGS):
        lines += [f"**{group}**", "", "| variable | default | meaning |", "|---|---|---|"]
        for row in SETTINGS:
            if row.group == group:
                older = f" (also `{'`, `'.join(row.env[1:])}`)" if row.env[1:] else ""
                default = f"`{row.shown}`" if row.default or row.shown.startswith("<") else row.shown
                secret = " (secret)" if row.secret else ""
                lines.append(f"| `{row.env[0]}`{older} | {default} | {row.help}{secret} |")
        lines.append("")
    return "\n".join(lines)
