"""The table of settings: each is one field of `Settings`, which carries a row of the table.

`setting(group, default, parse, help, *names of environment variables)` makes a field with its row. The flags, the
keys of the configuration file, the command `config` and the table in the documentation are made from the rows.
loading.py finds the values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from happy_light.config import setting_types as types
from happy_light.config.bucket import Bucket, endpoint_of
from happy_light.config.postgres_url import PostgresUrl
from happy_light.config.redis_url import RedisUrl
from happy_light.config.setting_types import Network

_SERVER, _LIMITS, _TLS, _WEB, _OPERATION = "Server", "Limits", "TLS", "Web app", "Operation"
_S3, _PUSH, _GITHUB, _VOICE, _DEVELOPERS = "S3 bucket", "Push messages", "GitHub", "Voice", "Developers"


class Row(msgspec.Struct, frozen=True):
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
        """Return the flag."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        """Return the word for its value in --help."""
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
    """Return a field of Settings with its row; the first of `env` is the name to use, the others are older ones."""
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
    database_url: Path | PostgresUrl | None = setting(
        _SERVER, None, types.database, "a PostgreSQL database, postgresql://…, or the SQLite file: a path or file: URL",
        "DATABASE_URL", shown="<data>/happy-server-light.sqlite", everywhere=True)
    redis_url: RedisUrl | None = setting(
        _SERVER, None, types.redis,
        "Redis or Valkey, redis://… or rediss://…: several processes are one server; needs PostgreSQL and the secret",
        "REDIS_URL", everywhere=True)
    master_secret: str | None = setting(
        _SERVER, None, types.text, "the master secret, which signs tokens; made once and kept in the data folder",
        "HANDY_MASTER_SECRET", secret=True, shown="generated")
    host: str = setting(_SERVER, "127.0.0.1", types.text, "bind address; 0.0.0.0 for the local network", "HOST")
    port: int = setting(_SERVER, "3005", types.port, "port; 0 picks a free one and prints it", "PORT")
    reuse_port: bool = setting(
        _SERVER, "false", types.flag, "let several processes of this user listen on the same port (SO_REUSEPORT)",
        "HAPPY_SERVER_LIGHT_REUSE_PORT")
    public_url: str | None = setting(
        _SERVER, None, types.url, "the URL that clients use, if it is not the bind address (behind a proxy)",
        "PUBLIC_URL", shown="derived")
    tunnel: str | None = setting(
        _SERVER, None, types.OneOf("tailscale", "cloudflared"),
        "the program that gives this server an HTTPS address while it runs, which becomes PUBLIC_URL",
        "HAPPY_SERVER_LIGHT_TUNNEL")
    trusted_proxies: tuple[Network, ...] = setting(
        _SERVER, "127.0.0.0/8, ::1", types.networks,
        "networks of the proxies whose X-Forwarded headers count; `none` for no proxy", "TRUSTED_PROXIES")
    registration: str = setting(
        _SERVER, "open", types.OneOf("open", "first", "closed"),
        "who may make an account: anyone, only the first, or nobody", "HAPPY_SERVER_LIGHT_REGISTRATION")
    admin_page: bool = setting(
        _SERVER, "true", types.flag, "the page at /admin for operators, who get in with `happy-server-light admin`",
        "HAPPY_SERVER_LIGHT_ADMIN_PAGE")
    session_grace: float = setting(
        _SERVER, "30", types.seconds, "seconds after which a session whose last socket closed becomes inactive",
        "HAPPY_SERVER_LIGHT_SESSION_GRACE")
    recovery_window: float = setting(
        _SERVER, "120", types.seconds,
        "seconds within which a client that was cut off continues where it was; 0: it loads everything again",
        "HAPPY_SERVER_LIGHT_RECOVERY_WINDOW")

    sign_in_rate: int = setting(
        _LIMITS, "600", types.count, "requests without a token that one address may make in a minute; 0: any number",
        "HAPPY_SERVER_LIGHT_SIGN_IN_RATE")
    stranger_connections: int = setting(
        _LIMITS, "100", types.count, "socket connections of one address that have not signed in yet; 0: any number",
        "HAPPY_SERVER_LIGHT_STRANGER_CONNECTIONS")
    address_connections: int = setting(
        _LIMITS, "1000", types.count,
        "connections of one address, signed in or not; this computer and trusted proxies are not counted; "
        "0: up to half of all", "HAPPY_SERVER_LIGHT_ADDRESS_CONNECTIONS")
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
        _LIMITS, "400000000", types.count,
        "bytes of requests and answers of one account in memory at once; 0: any number",
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
        _OPERATION, "info", types.OneOf("debug", "info", "warning", "error"), "how much is logged", "LOG_LEVEL")
    log_format: str = setting(
        _OPERATION, "text", types.OneOf("text", "json"), "log as lines of text or of JSON", "LOG_FORMAT")
    log_file: Path | None = setting(
        _OPERATION, None, types.path, "the file that is logged to; SIGHUP opens it again",
        "HAPPY_SERVER_LIGHT_LOG_FILE", shown="standard error")
    metrics_enabled: bool = setting(
        _OPERATION, "true", types.flag, "Prometheus metrics at /metrics on a port of their own", "METRICS_ENABLED")
    metrics_host: str = setting(
        _OPERATION, "127.0.0.1", types.text, "bind address of the metrics", "METRICS_HOST")
    metrics_port: int = setting(
        _OPERATION, "9090", types.port, "port of the metrics; 0 picks a free one", "METRICS_PORT")
    access_log: bool = setting(
        _OPERATION, "false", types.flag, "log every request: address, method, path, status, duration",
        "HAPPY_SERVER_LIGHT_ACCESS_LOG")
    prune_sessions_inactive: int | None = setting(
        _OPERATION, None, types.duration, "every day, delete sessions that were inactive for so long, like 90d",
        "HAPPY_SERVER_LIGHT_PRUNE_SESSIONS_INACTIVE")
    prune_messages_older: int | None = setting(
        _OPERATION, None, types.duration, "every day, delete messages that are older, like 180d",
        "HAPPY_SERVER_LIGHT_PRUNE_MESSAGES_OLDER")

    backup_every: int | None = setting(
        _OPERATION, None, types.duration, "make a backup every so often while the server runs, like 1d",
        "HAPPY_SERVER_LIGHT_BACKUP_EVERY")
    backup_dir: Path | None = setting(
        _OPERATION, None, types.path, "folder of these backups",
        "HAPPY_SERVER_LIGHT_BACKUP_DIR", shown="<data>-backups")
    backup_keep: int = setting(
        _OPERATION, "14", types.count, "how many of these backups are kept; 0: all", "HAPPY_SERVER_LIGHT_BACKUP_KEEP")

    s3_endpoint: str | None = setting(
        _S3, None, types.url, "the S3 server, which keeps files in the place of folders, as a URL that clients reach",
        "S3_ENDPOINT")
    s3_host: str | None = setting(
        _S3, None, types.host, "the same as a host; with S3_PORT and S3_USE_SSL in the place of S3_ENDPOINT", "S3_HOST")
    s3_port: int | None = setting(_S3, None, types.port, "port of S3_HOST", "S3_PORT", shown="of the scheme")
    s3_use_ssl: bool = setting(_S3, "true", types.flag, "whether S3_HOST is reached over HTTPS", "S3_USE_SSL")
    s3_region: str = setting(_S3, "us-east-1", types.text, "region of the bucket", "S3_REGION")
    s3_bucket: str | None = setting(_S3, None, types.text, "the bucket; it has to exist", "S3_BUCKET")
    s3_public_url: str | None = setting(
        _S3, None, types.url, "URL below which clients read public files, such as avatars", "S3_PUBLIC_URL",
        shown="<S3 server>/<bucket>")
    s3_access_key: str | None = setting(_S3, None, types.text, "access key", "S3_ACCESS_KEY")
    s3_secret_key: str | None = setting(_S3, None, types.text, "secret key", "S3_SECRET_KEY", secret=True)

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
        """Return the SQLite file; it is not used if there is a PostgreSQL database."""
        if isinstance(self.database_url, Path):
            return self.database_url
        return self.data_dir / "happy-server-light.sqlite"

    @property
    def postgres(self) -> PostgresUrl | None:
        """Return the PostgreSQL database, if that is what is used."""
        return self.database_url if isinstance(self.database_url, PostgresUrl) else None

    @property
    def bucket(self) -> Bucket | None:
        """Return the S3 bucket, if files are kept in one."""
        endpoint = self.s3_endpoint
        if endpoint is None and self.s3_host is not None:
            endpoint = endpoint_of(self.s3_host, self.s3_port, self.s3_use_ssl)
        name, access_key, secret_key = self.s3_bucket, self.s3_access_key, self.s3_secret_key
        if endpoint is None or name is None or access_key is None or secret_key is None:
            return None  # config.load accepts either all of them or no server and no bucket
        public_url = self.s3_public_url or f"{endpoint}/{name}"
        return Bucket(endpoint, self.s3_region, name, public_url, access_key, secret_key)

    @property
    def files(self) -> Path:
        """Return the folder of the public files."""
        return self.files_dir or self.data_dir / "files"

    @property
    def attachments(self) -> Path:
        """Return the folder of the private attachments; in it sessions/<sessionId>/."""
        return self.data_dir / "attachments"

    def attachments_of(self, session_id: str) -> Path:
        """Return the folder of a session's attachments."""
        return self.attachments / "sessions" / session_id

    @property
    def backups(self) -> Path:
        """Return the folder of scheduled backups, which is outside of what is backed up."""
        return self.backup_dir or self.data_dir.with_name(f"{self.data_dir.name}-backups")

    @property
    def secret_file(self) -> Path:
        """Return the file of a generated master secret."""
        return self.data_dir / "handy-master-secret.txt"


SETTINGS: tuple[Row, ...] = tuple(
    msgspec.structs.replace(field.metadata["row"], name=field.name)
    for field in dataclasses.fields(Settings)
    if "row" in field.metadata
)
