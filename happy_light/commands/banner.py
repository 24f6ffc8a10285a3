"""The text that is printed once the server answers: where it is, how to connect, and what to know about it."""

from __future__ import annotations

import logging
import os
import sys

from happy_light import __version__, config
from happy_light.commands import qr_code
from happy_light.config import Settings
from happy_light.http import addresses
from happy_light.server import Server
from happy_light.ui import build

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
        for note in notes(server):
            log.warning("%s", note)
        return
    terminal = sys.stdout.isatty()
    colour = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    print(text(server, terminal, colour), flush=True)


def urls(server: Server) -> list[str]:
    """Return the URLs of the server: for this computer, for the local network, and PUBLIC_URL."""
    settings = server.settings
    found = [addresses.url(settings, host, server.port) for host in addresses.reachable(server.host)]
    return [*found, *([settings.public_url] if settings.public_url else [])]


def text(server: Server, terminal: bool, colour: bool) -> str:
    """Return the whole text: with a QR code for a terminal, with bold words if `colour`."""
    settings = server.settings
    here, *network = (addresses.url(settings, host, server.port) for host in addresses.reachable(server.host))
    for_phones = addresses.for_phones(settings, server.host, server.port)
    best = for_phones[0] if for_phones else settings.public_url or here
    labelled: list[tuple[str, str]] = [("Server", here), *(("Network", url) for url in network)]
    if settings.public_url:
        labelled.append(("Public", settings.public_url))
    if build.is_there(settings):
        labelled.append(("Web app", f"{best}{settings.ui_prefix}"))
    labelled += [("", ""), *(("Phone", line) for line in _phone(server, for_phones))]
    if for_phones and terminal:
        labelled += [("-", line) for line in qr_code.lines(best, colour)]
    labelled += [
        ("Computer", f"HAPPY_SERVER_URL={best} happy"),
        ("", ""),
        ("Data", str(settings.data_dir)),
        ("Accounts", _REGISTRATION[server.registration]),
    ]
    if server.metrics_url:
        labelled.append(("Metrics", server.metrics_url))
    if missing := off(settings):
        labelled.append(("Off", f"{', '.join(missing)} (`happy-server-light config` shows their settings)"))
    labelled += [("Note", line) for line in notes(server)]

    def bold(word: str) -> str:
        return f"\033[1m{word}\033[0m" if colour else word

    lines, last = [f"{bold('happy-server-light')} {__version__} is ready", ""], ""
    for label, value in labelled:
        shown = "" if label in (last, "-") else label
        lines.append(f"  {bold(f'{shown:9}')}{value}" if value else "")
        last = label
    return "\n".join([*lines, "", "Ctrl-C stops it."])


def _phone(server: Server, for_phones: list[str]) -> list[str]:
    """Return how a phone is connected, or how to start the server so that phones reach it."""
    if for_phones:
        return [
            f"In the app, signed out: the server icon at the top right of the first screen; enter {for_phones[0]}",
            "as Custom Server URL; Save." + (" The QR code opens that address." if sys.stdout.isatty() else ""),
        ]
    network = [addresses.url(server.settings, host, server.port) for host in addresses.reachable("0.0.0.0")[1:]]  # noqa: S104 not bound
    where = f", then at {' or '.join(network)}" if network else ""
    return [
        "No phone reaches this server: it listens on this computer only. Start it with",
        f"--host 0.0.0.0 for your own network{where},",
        "or with --tunnel tailscale or --tunnel cloudflared for everywhere.",
    ]


def off(settings: Settings) -> list[str]:
    """Return what this server does not do because settings are missing."""
    github = settings.github_client_id and settings.github_client_secret and settings.github_redirect_url
    needs = [
        (build.is_there(settings), "web app"),
        (settings.push_enabled, "push messages"),
        (settings.elevenlabs_api_key, "voice"),
        (settings.livekit_api_key and settings.livekit_api_secret, "LiveKit"),
        (github, "GitHub"),
        (settings.metrics_enabled, "metrics"),
    ]
    return [name for value, name in needs if not value]


def notes(server: Server) -> list[str]:
    """Return what the operator should know about this way of running the server."""
    settings = server.settings
    lines = config.misspelt(os.environ)
    lines += build.problems(settings)
    beyond = not addresses.is_loopback(server.host) or settings.tunnel is not None
    if beyond and server.registration == "open":
        lines.append("other computers reach this server, and registration is open: --registration first closes it")
    secure = settings.tls_cert or (settings.public_url or "").startswith("https:")
    if not addresses.is_loopback(server.host) and not secure:
        lines.append("plain HTTP: browsers need HTTPS for the app's cryptography; use a proxy, --tunnel, or --tls-cert")
    if settings.data_dir.stat().st_mode & 0o077:
        lines.append(f"other users of this computer can look into the data folder: chmod 700 {settings.data_dir}")
    if settings.redis_url is not None and settings.bucket is None:
        lines.append("no bucket: every process of this server needs the same data folder, which has the files")
    return lines
