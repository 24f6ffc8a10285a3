"""The addresses and URLs by which a server can be reached.

The interfaces are listed by system calls: the library ifaddr loads ctypes, which takes 30 ms of a start, and does not
tell temporary IPv6 addresses from others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from happy_light.config import Settings

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface
_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "podman")  # interfaces of containers on this computer


def is_wildcard(host: str) -> bool:
    """Whether the address stands for every interface."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return host == ""


def is_loopback(host: str) -> bool:
    """Whether the address can be reached from this computer only."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def is_loopback_url(text: str) -> bool:
    """Whether only this computer reaches the URL."""
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:  # it only looks like a URL
        return False
    return is_loopback(host) or host.endswith(".localhost")


def for_phones(settings: Settings, host: str, port: int) -> list[str]:
    """Return the URLs at which other devices reach a server that is bound to `host`, the best one first."""
    if settings.public_url and not is_loopback_url(settings.public_url):
        return [settings.public_url]
    return [url(settings, each, port) for each in reachable(host) if not is_loopback(each)]


def url(settings: Settings, host: str, port: int) -> str:
    """Return the URL of an address, with the scheme of the server."""
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def reachable(host: str) -> list[str]:
    """Return the addresses of a server that is bound to `host`: the one for this computer first, then the network's."""
    if not is_wildcard(host):
        return [host]
    found = ["127.0.0.1", *_ipv4()]
    if ":" in host:
        found += _ipv6()
    return list(dict.fromkeys(found))


def _ipv4() -> Iterator[str]:
    """Yield the IPv4 addresses of this computer; where interfaces cannot be listed, the one of the default route."""
    names: list[tuple[int, str]] = []
    with contextlib.suppress(OSError, AttributeError):
        names = socket.if_nameindex()
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in names:
            if name.startswith(_VIRTUAL):
                continue
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                address = socket.inet_ntoa(answer[20:24])
                if not is_loopback(address):
                    yield address
        with contextlib.suppress(OSError):
            probe.connect(("192.0.2.1", 9))  # sends nothing; it selects the address that would be used
            yield probe.getsockname()[0]


def _ipv6() -> Iterator[str]:
    """Yield the global IPv6 addresses of this computer, on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
            digits, _, _, scope, flags, name = line.split()
            # Global scope, neither temporary (0x01) nor still tentative (0x40).
            if scope == "00" and not int(flags, 16) & 0x41 and not name.startswith(_VIRTUAL):
                yield str(ipaddress.IPv6Address(bytes.fromhex(digits)))
