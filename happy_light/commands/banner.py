"""The text that is printed once the server answers: its URLs, what to do next, what is off and why."""

from __future__ import annotations

import logging
import os
import sys

from happy_light import __version__
from happy_light.config import Settings
from happy_light.http import addresses
from happy_light.server import Server

log = logging.getLogger(__name__)

_REGISTRATION = {
    "open": "open: anybody who reaches this server can make an account",
    "first": "open for the first account, then closed",
    "closed": "closed: nobody can make an account",
}


def print_banner(server: Server) -> None:
    """Print the text on stdout, or log one entry if the log is JSON."""
    settings = server.settings
    if settings.log_format == "json":
        fields = {"version": __version__, "urls": urls(server), "data_dir": str(settings.data_dir), "pid": os.getpid()}
        log.info("ready", extra={"fields": fields})
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        print(text(server, colour), flush=True)


def urls(server: Server) -> list[str]:
    """Return the URLs of the server: for this computer, for the local network, and PUBLIC_URL."""
    settings = server.settings
    found = [addresses.url(settings, host, server.port) for host in addresses.reachable(server.host)]
    return [*found, *([settings.public_url] if settings.public_url else [])]


def text(server: Server, colour: bool) -> str:
    """Return the whole text; with bold words if `colour`."""
    settings = server.settings
    here, *network = (addresses.url(settings, host, server.port) for host in addresses.reachable(server.host))
    best = settings.public_url or (network[0] if network else here)
    labelled: list[tuple[str, str]] = [("Server", here), *(("Network", url) for url in network)]
    if settings.public_url:
        labelled.append(("Public", settings.public_url))
    if settings.ui_dir:
        labelled.append(("Web app", f"{best}{settings.ui_prefix}"))
    labelled += [
        ("Data", str(settings.data_dir)),
        ("Accounts", _REGISTRATION[settings.registration]),
        ("", ""),
        ("CLI", f"HAPPY_SERVER_URL={best} happy"),
        ("App", f"Settings > Server: {best}"),
        ("", ""),
        *(("Off", line) for line in off(settings)),
        *(("Note", line) for line in notes(server)),
    ]

    def bold(word: str) -> str:
        return f"\033[1m{word}\033[0m" if colour else word

    lines, last = [f"{bold('happy-server-light')} {__version__} is ready", ""], ""
    for label, value in labelled:
        shown = "" if label == last else label
        lines.append(f"  {bold(f'{shown:9}')}{value}" if value else "")
        last = label
    return "\n".join([*lines, "", "Ctrl-C stops it."])


def off(settings: Settings) -> list[str]:
    """Return what this server does not do, each with the setting that would change it."""
    needs = [
        (settings.ui_dir, "web app: HAPPY_SERVER_UI_DIR is not set"),
        (settings.push_enabled, "push messages: HAPPY_SERVER_LIGHT_PUSH is false"),
        (settings.elevenlabs_api_key, "voice: ELEVENLABS_API_KEY is not set"),
        (settings.livekit_api_key and settings.livekit_api_secret, "LiveKit: LIVEKIT_API_KEY, _API_SECRET are not set"),
        (
            settings.github_client_id and settings.github_client_secret and settings.github_redirect_url,
            "GitHub: GITHUB_CLIENT_ID, _CLIENT_SECRET and _REDIRECT_URL are not all set",
        ),
        (settings.metrics_enabled, "metrics: METRICS_ENABLED is false"),
    ]
    return [line for value, line in needs if not value]


def notes(server: Server) -> list[str]:
    """Return what the operator should know about this way of running the server."""
    settings, lines = server.settings, []
    beyond = not addresses.is_loopback(server.host)
    if beyond and settings.registration == "open":
        lines.append("other computers reach this server, and registration is open: --registration first closes it")
    if beyond and not settings.tls_cert and not (settings.public_url or "").startswith("https:"):
        lines.append("plain HTTP: browsers need HTTPS for the app's cryptography; use a proxy, or --tls-cert")
    if settings.data_dir.stat().st_mode & 0o077:
        lines.append(f"other users of this computer can look into the data folder: chmod 700 {settings.data_dir}")
    return lines
