"""The address by which the caller of a request reached this server: what URLs handed to clients begin with.

Clients send their token to such a URL only if it begins with the very text of the address they were given
(scheme, host and port), so nothing here is normalised.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.types import Scope

from happy_light.config import Settings
from happy_light.config.setting_types import Network

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


def of(settings: Settings, scope: Scope) -> str:
    """PUBLIC_URL if it is set, else what was `asked`."""
    return settings.public_url or asked(settings, scope)


def asked(settings: Settings, scope: Scope) -> str:
    """Scheme and host of the request; without a trailing slash.

    `x-forwarded-proto` and `x-forwarded-host` count only when the request comes from a trusted proxy:
    anyone else could make this server hand out addresses of theirs.
    """
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, value)
    scheme, host = scope.get("scheme", "http"), _text(headers, b"host")
    client = scope.get("client")
    if client is not None and is_trusted(client[0], settings.trusted_proxies):
        forwarded = _text(headers, b"x-forwarded-proto").lower()
        if forwarded in ("http", "https"):
            scheme = forwarded
        forwarded = _text(headers, b"x-forwarded-host")
        if _HOST.fullmatch(forwarded):
            host = forwarded
    if not _HOST.fullmatch(host):  # HTTP/1.0 needs no Host
        host = f"localhost:{scope['server'][1]}"
    return f"{scheme}://{host}"


def is_trusted(address: str, networks: Iterable[Network]) -> bool:
    """Whether an IP address lies in one of the networks."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # how a socket that listens on both families shows IPv4
    return any(ip in network for network in networks)


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    """A header's first value: with a chain of proxies, what the outermost one saw."""
    return headers.get(name, b"").decode("latin-1").partition(",")[0].strip()
