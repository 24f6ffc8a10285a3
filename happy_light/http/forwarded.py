"""What proxies say about a request: the address of its sender, and the URL that it was sent to.

Clients send their token to a URL of this server only if it begins with exactly the address that they were given
(scheme, host and port), so URLs are not normalised.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import Scope

from happy_light.config import Settings
from happy_light.config.setting_types import Network

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def server_url(settings: Settings, scope: Scope) -> str:
    """Return PUBLIC_URL if it is set, else `requested_url`. URLs that clients are given begin with it."""
    return settings.public_url or requested_url(settings, scope)


def requested_url(settings: Settings, scope: Scope) -> str:
    """Return scheme, host and port that the request was sent to, without a slash at the end.

    X-Forwarded-Proto and X-Forwarded-Host count only in requests of a trusted proxy: anyone else could make this
    server hand out URLs of another one.
    """
    scheme, host = scope.get("scheme", "http"), _first_value(scope, b"host")
    client = scope.get("client")
    if client is not None and is_trusted(client[0], settings.trusted_proxies):
        forwarded_scheme = _first_value(scope, b"x-forwarded-proto").lower()
        if forwarded_scheme in ("http", "https"):
            scheme = forwarded_scheme
        forwarded_host = _first_value(scope, b"x-forwarded-host")
        if _HOST.fullmatch(forwarded_host):
            host = forwarded_host
    if not _HOST.fullmatch(host):  # HTTP/1.0 needs no Host
        host = f"localhost:{scope['server'][1]}"
    return f"{scheme}://{host}"


def client_address(settings: Settings, scope: Scope) -> str:
    """Return the address of the sender; "" if the server does not know it.

    Behind trusted proxies it is the last one of X-Forwarded-For that is not a trusted proxy itself, as text that
    the sender may have chosen.
    """
    client = scope.get("client")
    address: str = client[0] if client else ""
    if not is_trusted(address, settings.trusted_proxies):
        return address
    chain = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for part in filter(None, (part.strip() for part in reversed(chain.split(",")))):
        address = part
        if not is_trusted(address, settings.trusted_proxies):
            break
    return address


def printable_address(settings: Settings, scope: Scope) -> str:
    """Return the address of the sender for a log: an IP address, or "unknown"."""
    ip = parse_address(client_address(settings, scope))
    return "unknown" if ip is None else str(ip)


def is_trusted(address: str, networks: Iterable[Network]) -> bool:
    """Whether an IP address lies in one of the networks."""
    ip = parse_address(address)
    return ip is not None and any(ip in network for network in networks)


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an IP address without its zone; None for other text.

    An IPv4 address that is written as IPv6, as sockets show it that listen on both, becomes IPv4.
    """
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _first_value(scope: Scope, name: bytes) -> str:
    """Return the first value of the first header of that name: in a chain of proxies, what the outermost one saw."""
    value: bytes = next((value for key, value in scope["headers"] if key == name), b"")
    return value.decode("latin-1").partition(",")[0].strip()
